"""Make `data_samples/emoji/` from published npm packages (the ordinary `npm pack` client; needs the registry once).

A concept is kept when every full style draws it. Unicode's groups "symbols" and "flags" are left out: they are written
or heraldic signs rather than pictures of things; so are the 24 clock faces, which differ by the angle of a hand.
Sheets are AVIF, which keeps colour at full resolution and still takes two thirds of WebP's bytes; the same packages
give the same pixels.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import DataError
from .emoji import INDEX, SIZE, default_root

LANGUAGES = ("en", "de", "es", "fr", "ja", "zh")
COLUMNS = 30
QUALITY = 36  # of AVIF: an eighth of the lossless size, no loss to be seen at 72 px
LINE_QUALITY = 18  # of styles in black alone, which are nothing but the edge of their transparency
NAMES = "emojibase-data@17.0.0"
MARK = "<!-- emoji -->"  # this builder's section of DATA.md ends at the next such mark


@dataclass(frozen=True)
class Source:
    """Where a style comes from."""

    name: str
    title: str
    package: str  # npm, with its version
    kind: str  # "files": one picture per code point; "iconify": SVG bodies by name; "font": glyphs
    where: str  # inside the package
    license: str  # SPDX
    author: str
    split: str = "train"


SOURCES = (
    Source("noto", "Noto Color Emoji", "emoji-datasource-google@16.0.0", "files", "img/google/64/{}.png",
           "Apache-2.0", "Google"),
    Source("twemoji", "Twemoji", "emoji-datasource-twitter@16.0.0", "files", "img/twitter/64/{}.png",
           "CC-BY-4.0", "Twitter, Inc. and other contributors"),
    Source("fluent", "Fluent Emoji 3D", "@lobehub/fluent-emoji-3d@1.1.0", "files", "assets/{}.webp",
           "MIT", "Microsoft"),
    Source("fluent-flat", "Fluent Emoji Flat", "@iconify-json/fluent-emoji-flat@1.2.6", "iconify", "icons.json",
           "MIT", "Microsoft"),
    Source("noto-v1", "Noto Emoji, first version", "@iconify-json/noto-v1@1.2.5", "iconify", "icons.json",
           "Apache-2.0", "Google"),
    Source("emojione", "EmojiOne 2", "@iconify-json/emojione@1.2.3", "iconify", "icons.json",
           "CC-BY-4.0", "Emoji One"),
    Source("openmoji", "OpenMoji", "openmoji@17.0.0", "files", "color/svg/{}.svg",
           "CC-BY-SA-4.0", "OpenMoji (HfG Schwaebisch Gmuend)", "test"),
    Source("emojione-v1", "EmojiOne 1", "@iconify-json/emojione-v1@1.2.3", "iconify", "icons.json",
           "CC-BY-SA-4.0", "Emoji One", "extra"),
    Source("fxemoji", "FxEmojis", "@iconify-json/fxemoji@1.2.2", "iconify", "icons.json",
           "Apache-2.0", "Mozilla", "extra"),
    Source("streamline", "Streamline Emojis", "@iconify-json/streamline-emojis@1.2.4", "iconify", "icons.json",
           "CC-BY-4.0", "Streamline", "extra"),
    Source("noto-line", "Noto Emoji (one colour)", "@fontsource/noto-emoji@5.3.2", "font",
           "files/noto-emoji-emoji-500-normal.woff", "OFL-1.1", "Google", "extra"),
    Source("fluent-line", "Fluent Emoji High Contrast", "@iconify-json/fluent-emoji-high-contrast@1.2.6", "iconify",
           "icons.json", "MIT", "Microsoft", "extra"),
)  # fmt: skip


def build(root: str | Path | None = None, cache: str | Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Build the emoji folder at `root` (default: data_samples/emoji), keeping downloaded packages in `cache`.

    Raises DataError when npm is absent, a package cannot be fetched, or a package lacks an expected file.
    """
    root = Path(root) if root is not None else default_root()
    cache = Path(cache) if cache is not None else Path("build") / "emoji-packages"
    root.mkdir(parents=True, exist_ok=True)
    names = Package(fetch(NAMES, cache))
    finders = {}
    for source in SOURCES:
        say(f"{source.name}: {source.package}")
        finders[source.name] = FINDERS[source.kind](Package(fetch(source.package, cache)), source)
    concepts, found = select(read_concepts(names), finders)
    say(f"{len(concepts)} concepts in every full style")
    styles = []
    for source in SOURCES:
        present = [i for i, pictures in enumerate(found[source.name]) if pictures is not None]
        data = sheet_bytes([square(found[source.name][i]()) for i in present])
        write_atomic(root / f"{source.name}.avif", data)
        say(f"{source.name}.avif: {len(present)} pictures, {len(data) / 1e6:.2f} MB")
        styles.append(describe(source, None if len(present) == len(concepts) else present, data))
    index = {"languages": LANGUAGES, "styles": styles, "concepts": columns(concepts)}
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    write_atomic(root / INDEX, gzip.compress(text.encode(), mtime=0))
    write_section(root.parent / "DATA.md", len(concepts), styles)
    return root


def columns(concepts: list[dict[str, Any]]) -> dict[str, Any]:
    """The concepts as columns, which say each field's name once; keywords are joined by "|", as in CLDR's own files."""
    return {
        **{k: [c[k] for c in concepts] for k in ("character", "group", "subgroup")},
        "labels": {lang: [c["labels"][lang] for c in concepts] for lang in LANGUAGES},
        "keywords": {lang: ["|".join(c["keywords"][lang]) for c in concepts] for lang in LANGUAGES},
    }


def fetch(package: str, cache: Path) -> Path:
    """The package's tarball, downloaded by `npm pack` unless it is in `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    tarball = cache / (package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not tarball.exists():
        try:
            command = [shutil.which("npm") or "npm", "pack", package, "--silent", "--pack-destination", str(cache)]
            subprocess.run(command, check=True, capture_output=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            raise DataError(f"npm could not fetch {package} ({error}): the build needs npm and its registry") from error
    if not tarball.exists():
        raise DataError(f"npm fetched {package}, but not as {tarball.name}")
    return tarball


class Package:
    """A downloaded npm package, read in place (its members lie under `package/`)."""

    def __init__(self, tarball: Path):
        self.name = tarball.name
        self.archive = tarfile.open(tarball)  # noqa: SIM115 - stays open as long as pictures are drawn from it
        # A few packages were packed under another folder's name, so the first part of a path is dropped.
        self.members = {m.name.split("/", 1)[-1]: m for m in self.archive.getmembers() if m.isfile()}

    def read(self, path: str) -> bytes:
        """The bytes of one file. Raises DataError when the package holds none of that name."""
        if path not in self.members:
            raise DataError(f"{self.name} holds no {path}: was another version fetched?")
        file = self.archive.extractfile(self.members[path])
        assert file is not None  # members are plain files
        return file.read()

    def json(self, path: str) -> Any:
        """The content of one JSON file. Raises DataError as `read`."""
        return json.loads(self.read(path))


def read_concepts(names: Package) -> Iterator[dict[str, Any]]:
    """Unicode's emoji in its own order, with captions in every language and other names to look pictures up by."""
    meta = names.json("meta/groups.json")
    tables = {lang: {e["hexcode"]: e for e in names.json(f"{lang}/data.json")} for lang in LANGUAGES}
    shortcodes = [names.json(f"en/shortcodes/{who}.json") for who in ("emojibase", "github", "iamcal", "joypixels")]
    for code, entry in sorted(tables["en"].items(), key=lambda item: item[1].get("order", 0)):
        group = meta["groups"].get(str(entry.get("group")))
        if group in (None, "component", "symbols", "flags") or re.search(r"(o’clock|-thirty)$", entry["label"]):
            continue
        aliases = [a for table in shortcodes for a in _as_list(table.get(code))]
        keywords = {lang: list(tables[lang][code].get("tags", ())) for lang in LANGUAGES}
        spoken = dict.fromkeys(a.replace("_", " ") for a in aliases if len(a) > 2 and not re.search(r"[^a-z_]", a))
        keywords["en"] += [a for a in spoken if a not in keywords["en"] and a != entry["label"]]
        yield {
            "code": code,
            "character": entry["emoji"],
            "group": group,
            "subgroup": meta["subgroups"][str(entry["subgroup"])],
            "labels": {lang: tables[lang][code]["label"] for lang in LANGUAGES},
            "keywords": keywords,
            "aliases": [entry["label"], *aliases],
        }


def _as_list(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


Picture = Callable[[], Image.Image]  # drawn late: most candidates are not kept
Finder = Callable[[dict[str, Any]], Picture | None]


def find_files(package: Package, source: Source) -> Finder:
    """Pictures named by code points; packages disagree on case and on the variation selector FE0F."""
    prefix, suffix = source.where.split("{}")
    plain = lambda code: code.upper().replace("-FE0F", "")  # noqa: E731
    paths = {
        plain(p[len(prefix) : -len(suffix)]): p for p in package.members if p.startswith(prefix) and p.endswith(suffix)
    }

    def find(concept: dict[str, Any]) -> Picture | None:
        path = paths.get(plain(concept["code"]))
        return None if path is None else lambda: _open(package.read(path))

    return find


def find_iconify(package: Package, source: Source) -> Finder:
    """SVG bodies by the slug of the Unicode name or of a shortcode; Streamline counts variants: -1, -2."""
    icons = package.json(source.where)
    bodies = {_letters(name): icon for name, icon in icons["icons"].items()}
    for name, alias in icons.get("aliases", {}).items():
        turned = alias.get("hFlip") or alias.get("vFlip") or alias.get("rotate")
        if not turned and alias["parent"] in icons["icons"]:
            bodies.setdefault(_letters(name), icons["icons"][alias["parent"]])

    def find(concept: dict[str, Any]) -> Picture | None:
        keys = [_letters(alias) for alias in concept["aliases"]]
        icon = next((bodies[k] for key in keys for k in (key, key + "1") if k in bodies), None)
        if icon is None:
            return None
        width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
        left, top = icon.get("left", 0), icon.get("top", 0)
        box = f'viewBox="{left} {top} {width} {height}"'
        # "currentColor" is what a page's text would be: black.
        body = icon["body"].replace("currentColor", "#000")
        link = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        return lambda: _open(f"<svg {link} {box}>{body}</svg>".encode())

    return find


def find_glyphs(package: Package, source: Source) -> Finder:
    """Glyphs of a font, drawn black; a sequence of several code points would need shaping and is passed over."""
    font = ImageFont.truetype(io.BytesIO(package.read(source.where)), size=128)
    missing = font.getmask("\U0010fffd")

    def find(concept: dict[str, Any]) -> Picture | None:
        code = concept["code"].replace("-FE0F", "")
        if "-" in code:
            return None
        character = chr(int(code, 16))
        mask = font.getmask(character)
        if mask.size == missing.size and bytes(mask) == bytes(missing):
            return None

        def draw() -> Image.Image:
            left, top, right, bottom = font.getbbox(character)
            image = Image.new("RGBA", (int(right - left), int(bottom - top)))
            ImageDraw.Draw(image).text((-left, -top), character, font=font, fill=(0, 0, 0, 255))
            return image

        return draw

    return find


FINDERS = {"files": find_files, "iconify": find_iconify, "font": find_glyphs}


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _open(data: bytes) -> Image.Image:
    """A picture from PNG, WebP or SVG bytes."""
    if b"<svg" in data[:400]:
        import resvg_py  # only the builder draws SVG; readers do without

        data = bytes(resvg_py.svg_to_bytes(svg_string=data.decode(), width=2 * SIZE))
    return Image.open(io.BytesIO(data)).convert("RGBA")


def select(concepts: Iterator[dict[str, Any]], finders: dict[str, Finder]) -> tuple[list[dict], dict[str, list]]:
    """Keep concepts that every full style draws; per style, one late picture (or None) a concept."""
    kept: list[dict] = []
    found: dict[str, list] = {source.name: [] for source in SOURCES}
    for concept in concepts:
        pictures = {name: finder(concept) for name, finder in finders.items()}
        if all(pictures[source.name] is not None for source in SOURCES if source.split != "extra"):
            kept.append(concept)
            for name, picture in pictures.items():
                found[name].append(picture)
    return kept, found


def square(image: Image.Image) -> np.ndarray:
    """Crop to what is drawn, then fit into 72x72 with a margin of two pixels: (72, 72, 4) uint8.

    Styles differ in their own margins; without the crop a model could tell styles apart by size alone.
    """
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    image = image.crop(box) if box else image
    inner = SIZE - 4
    scale = inner / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    page = Image.new("RGBA", (SIZE, SIZE))
    page.paste(image.resize(size, Image.Resampling.LANCZOS), ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return np.asarray(page)


def bleed(picture: np.ndarray, reach: int = 2) -> np.ndarray:
    """Carry the drawing's colours `reach` pixels outwards, under what is transparent: (72, 72, 4) uint8, the same.

    A lossy codec moves the edge of alpha by a part of a pixel; black beneath it would show as dark dots on the edge.
    """
    colour, known = picture[..., :3].astype(np.float32), picture[..., 3] > 0
    for _ in range(reach):
        around = np.pad(np.dstack([colour * known[..., None], known]), ((1, 1), (1, 1), (0, 0)))
        total = np.sum([around[y : y + SIZE, x : x + SIZE] for y in range(3) for x in range(3)], axis=0)  # (72, 72, 4)
        fresh = ~known & (total[..., 3] > 0)
        colour[fresh] = total[fresh, :3] / total[fresh, 3:]
        known = known | fresh
    return np.dstack([np.round(colour).astype(np.uint8), picture[..., 3]])


def sheet_bytes(pictures: list[np.ndarray]) -> bytes:
    """Pack (72, 72, 4) pictures row by row into one AVIF of 30 columns."""
    rows = -(-len(pictures) // COLUMNS)
    page = np.zeros((rows * SIZE, COLUMNS * SIZE, 4), dtype=np.uint8)
    for i, picture in enumerate(map(bleed, pictures)):
        y, x = divmod(i, COLUMNS)
        page[y * SIZE : (y + 1) * SIZE, x * SIZE : (x + 1) * SIZE] = picture
    out = io.BytesIO()
    how: dict[str, Any] = {"quality": LINE_QUALITY, "subsampling": "4:0:0"}
    if page[..., :3].any():
        # "iq" is the encoder's tuning for still pictures; of the colours alone, for it lets edges of alpha ring.
        how = {"quality": QUALITY, "subsampling": "4:4:4", "advanced": {"c:tune": "iq"}}
    # One thread: how an encoder shares its work among several shows in its bytes.
    Image.fromarray(page).save(out, "AVIF", speed=5, max_threads=1, **how)
    return out.getvalue()


def describe(source: Source, present: list[int] | None, data: bytes) -> dict[str, Any]:
    """The index's entry for a sheet."""
    return {
        **{k: getattr(source, k) for k in ("name", "title", "license", "split")},
        "file": f"{source.name}.avif",
        "columns": COLUMNS,
        "present": present,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def write_atomic(path: Path, data: bytes) -> None:
    """Write under a temporary name in the same folder, then rename: a reader sees the old file or the new one."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def write_section(path: Path, concepts: int, styles: list[dict[str, Any]]) -> None:
    """Put the emoji section into DATA.md, in place of the former one, and leave other sections alone."""
    counts = {s["name"]: concepts if s["present"] is None else len(s["present"]) for s in styles}
    rows = [
        f"| {s.name} | {s.title} | {s.author} | `{s.package}` | {s.license} | {counts[s.name]} | {s.split} |"
        for s in SOURCES
    ]
    section = "\n".join([
        MARK,
        "## emoji",
        "",
        f"{concepts} concepts of Unicode, drawn at {SIZE} x {SIZE} pixels, cropped to the drawing; AVIF sheets of "
        f"{COLUMNS} columns. Names and keywords ({', '.join(LANGUAGES)}): npm package `{NAMES}`, MIT, from Unicode "
        "CLDR (Unicode-3.0). Pictures were rendered, cropped and resized; nothing else was changed.",
        "",
        "| style | title | author | npm package | licence | pictures | split |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "`test` is never trained on. `extra` styles lack some concepts and are for training only. Sheets under "
        "CC-BY-SA-4.0 stay under that licence.",
        MARK,
    ])  # fmt: skip
    before = path.read_text(encoding="utf-8") if path.exists() else "# Where the data comes from\n"
    pattern = re.compile(f"{re.escape(MARK)}.*{re.escape(MARK)}", re.DOTALL)
    after = pattern.sub(lambda _: section, before) if pattern.search(before) else before.rstrip() + f"\n\n{section}\n"
    write_atomic(path, after.encode())
