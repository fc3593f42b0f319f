"""The emoji set: one concept drawn by many artists, with names and keywords in several languages.

`emoji.load()` reads `data_samples/emoji/`: the index (concepts, captions, checksums) and one sprite sheet a style.
Sheets are decoded when their style is first asked for. OpenMoji is the test of generalisation: nothing trains on it.
The folder is made again by `omni_lab.data.emoji_build`.
"""

import gzip
import hashlib
import io
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from .folders import samples_folder

SIZE = 72  # pixels of a side
FAINT = 8  # alpha so near to nothing, or to all, is the codec's noise about a clear or an opaque pixel
TEST_STYLE = "openmoji"
INDEX = "index.json.gz"  # a third of the plain text
REBUILD = "restore the file or run `omni-lab data build emoji`"


@dataclass(frozen=True)
class Style:
    """One artist's sheet."""

    name: str
    title: str
    license: str  # SPDX
    split: str  # "train": every concept, may be trained on; "test": every concept, never; "extra": train, has gaps
    columns: int
    present: tuple[int, ...]  # concept indices, in the order of the sheet's cells
    file: Path
    sha256: str


@dataclass(frozen=True)
class EmojiSet:
    """All concepts: entry i of every field is about concept i; labels and keywords come by language ("en", "de")."""

    names: tuple[str, ...]  # Unicode's English names
    characters: tuple[str, ...]
    groups: tuple[str, ...]  # Unicode's groups: "animals-nature", ...
    subgroups: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    keywords: dict[str, tuple[tuple[str, ...], ...]]
    sheets: dict[str, Style]
    _decoded: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages of the labels: "en", "de", ..."""
        return tuple(self.labels)

    @property
    def styles(self) -> tuple[str, ...]:
        """Styles that have every concept: the training styles, then the test style."""
        return tuple(name for split in ("train", "test") for name, s in self.sheets.items() if s.split == split)

    @property
    def training_styles(self) -> tuple[str, ...]:
        """Styles that have every concept and may be trained on."""
        return tuple(name for name, s in self.sheets.items() if s.split == "train")

    @property
    def extra_styles(self) -> tuple[str, ...]:
        """More styles for training, in which some concepts are missing (`present` says which are there)."""
        return tuple(name for name, s in self.sheets.items() if s.split == "extra")

    def index(self, name: str) -> int:
        """The concept with this English name; DataError if there is none."""
        if name not in self.names:
            raise DataError(f"no emoji is named {name!r}: names are Unicode's, such as {self.names[0]!r}")
        return self.names.index(name)

    def present(self, style: str) -> np.ndarray:
        """Which concepts the style has: (concepts,) bool."""
        have = np.zeros(len(self), dtype=bool)
        have[list(self._sheet(style).present)] = True
        return have

    def pixels(self, style: str) -> np.ndarray:
        """The whole style: (concepts, 72, 72, 4) uint8 RGBA, read-only; a missing concept is fully transparent."""
        if style not in self._decoded:
            self._decoded[style] = _decode(self._sheet(style), len(self))
        return self._decoded[style]

    def picture(self, style: str, index: int) -> np.ndarray:
        """One picture: (72, 72, 4) uint8 RGBA; DataError where the style lacks the concept."""
        sheet = self._sheet(style)
        if not 0 <= index < len(self) or index not in sheet.present:
            raise DataError(f"style {style!r} has no emoji number {index} (0 to {len(self) - 1})")
        return self.pixels(style)[index]

    def _sheet(self, style: str) -> Style:
        if style not in self.sheets:
            raise DataError(f"no emoji style {style!r}: choose one of {', '.join(self.sheets)}")
        return self.sheets[style]


def default_root() -> Path:
    """The emoji of the shipped data. Raises DataError when there is none."""
    return samples_folder() / "emoji"


def load(root: str | Path | None = None) -> EmojiSet:
    """Read the emoji set and verify every sheet's checksum.

    Raises DataError, in one line, when a file is missing or damaged.
    """
    root = Path(root) if root is not None else default_root()
    raw = _read(root / INDEX)
    try:
        index = json.loads(gzip.decompress(raw))
        concepts, languages = index["concepts"], index["languages"]  # columns: entry i of each is about concept i
        count = len(concepts["character"])
        sheets = {
            s["name"]: Style(
                **{k: s[k] for k in ("name", "title", "license", "split", "columns", "sha256")},
                present=tuple(range(count) if s["present"] is None else map(int, s["present"])),
                file=root / s["file"],
            )
            for s in index["styles"]
        }
        emoji = EmojiSet(
            names=tuple(concepts["labels"]["en"]),
            characters=tuple(concepts["character"]),
            groups=tuple(concepts["group"]),
            subgroups=tuple(concepts["subgroup"]),
            labels={language: tuple(concepts["labels"][language]) for language in languages},
            keywords={
                language: tuple(tuple(words.split("|")) if words else () for words in concepts["keywords"][language])
                for language in languages
            },
            sheets=sheets,
        )
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{root / INDEX} is no index of emoji ({error!r}): {REBUILD}") from error
    for sheet in sheets.values():
        if hashlib.sha256(_read(sheet.file)).hexdigest() != sheet.sha256:
            raise DataError(f"{sheet.file} is damaged (its checksum differs from {INDEX}): {REBUILD}")
    return emoji


def over_background(pixels: np.ndarray, background: np.ndarray | tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """Lay RGBA pictures over a colour: (..., height, width, 4) uint8 -> (..., height, width, 3) uint8."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    mixed = pixels[..., :3] * alpha + np.asarray(background, dtype=np.float32) * (1 - alpha)
    return np.round(mixed).astype(np.uint8)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {REBUILD}") from error


def _decode(sheet: Style, concepts: int) -> np.ndarray:
    """Cut a sheet into cells and put them at their concepts' places."""
    try:
        with Image.open(io.BytesIO(_read(sheet.file))) as image:
            page = np.asarray(image.convert("RGBA"))
    except (OSError, ValueError) as error:  # Pillow's ways to say that a file is no picture
        raise DataError(f"{sheet.file} is no picture ({error}): {REBUILD}") from error
    rows = -(-len(sheet.present) // sheet.columns)
    if page.shape != (rows * SIZE, sheet.columns * SIZE, 4):
        raise DataError(
            f"{sheet.file} is {page.shape[1]}x{page.shape[0]} pixels, expected {sheet.columns * SIZE}x{rows * SIZE}"
        )
    alpha = page[..., 3]
    snapped = np.where(alpha < FAINT, 0, np.where(alpha > 255 - FAINT, 255, alpha))
    page = np.concatenate([np.where(snapped[..., None] > 0, page[..., :3], 0), snapped[..., None]], axis=-1)
    cells = page.reshape(rows, SIZE, sheet.columns, SIZE, 4).swapaxes(1, 2)  # (rows, columns, height, width, 4)
    pictures = np.zeros((concepts, SIZE, SIZE, 4), dtype=np.uint8)
    pictures[list(sheet.present)] = cells.reshape(-1, SIZE, SIZE, 4)[: len(sheet.present)]
    pictures.flags.writeable = False
    return pictures
