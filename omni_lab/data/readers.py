"""The field's own formats, read as the same samples: LLaVA JSON, COCO, LibriSpeech, LJSpeech, WebDataset tar, Parquet.

Every reader is an iterator over one pass of a set. What cannot be read (a broken picture, an empty caption, NaN in the
sound) is skipped, counted and listed in a `Report`; more than one percent of bad records stops the reading.
"""

import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError, OmniLabError
from . import video_files
from .bank import package, read_wave
from .sample import HEARING_RATE, SPEAKING_RATE, Sample, assistant, audio, check, image, user
from .speech import resample

TRANSCRIBE = "Write down what you hear."
CAPTION = "Caption."
BAD_SHARE = 0.01  # of the records: more than this stops the reading
ENOUGH = 100  # records before the share is judged (and at the end)


@dataclass
class Report:
    """What a pass over a set found."""

    good: int = 0
    bad: list[str] = field(default_factory=list)  # one line a record

    def line(self) -> str:
        """The account in a line."""
        listed = "; ".join(self.bad[:3]) + (" ..." if len(self.bad) > 3 else "")
        return f"{self.good} records read, {len(self.bad)} skipped" + (f": {listed}" if self.bad else "")

    def judge(self, source: str) -> None:
        """Raise DataError, with the list, when more than one percent is bad."""
        total = self.good + len(self.bad)
        if len(self.bad) > max(BAD_SHARE * total, 1) or (self.bad and not self.good):
            raise DataError(f"{source}: {len(self.bad)} of {total} records cannot be read: {'; '.join(self.bad[:10])}")


def each(
    source: str, records: Iterator[tuple[str, Any]], make: Callable[[Any], Sample], report: Report | None
) -> Iterator[Sample]:
    """The samples of all good records (name, raw); the bad ones are counted, and too many of them raise DataError."""
    report = report if report is not None else Report()
    for name, raw in records:
        try:
            sample = check(make(raw))
        except (OmniLabError, OSError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            report.bad.append(f"{name}: {' '.join(str(error).split()) or type(error).__name__}")
        else:
            report.good += 1
            yield sample
        if report.good + len(report.bad) >= ENOUGH:
            report.judge(source)
    report.judge(source)


def open_picture(source: str | Path | bytes) -> Image.Image:
    """A picture file, or its bytes, as RGB. Raises OSError or, where Pillow has another word for it, DataError."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as found:
            return found.convert("RGB")
    except (SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"not a picture that can be read ({error})") from None


def open_sound(source: str | Path | bytes, rate: int = HEARING_RATE) -> np.ndarray:
    """A sound file, or its bytes, as float32 (samples,) at `rate` Hz. Raises MediaError or ValueError."""
    if not isinstance(source, bytes):
        return read_wave(source, rate)
    soundfile = package("soundfile")
    try:
        wave, found = soundfile.read(io.BytesIO(source), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError("not a sound file") from error
    return resample(wave.mean(1), found, rate)


def load_json(path: str | Path) -> Any:
    """A JSON file. Raises DataError naming it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON") from error


def lines_of(path: str | Path) -> list[bytes]:
    """The lines of a file, ended by newlines alone: JSON may hold whatever else `str.splitlines` cuts at.

    They are not decoded yet: one that is no UTF-8 is one bad record. Raises DataError naming the file."""
    try:
        return [line.removesuffix(b"\r") for line in Path(path).read_bytes().split(b"\n")]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def shown(line: bytes) -> str:
    """The beginning of a line, by which a report names it."""
    return re.sub(r"\s+", " ", line.decode("utf-8", "replace"))[:40]


def llava(path: str | Path, folder: str | Path, report: Report | None = None, opened: bool = True) -> Iterator[Sample]:
    """LLaVA-Instruct: a JSON list of {"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}.

    folder: where the pictures lie. `<image>` in a turn says where the picture stands; it is put first. opened: hold
    the pictures; False: their paths, since a large set's pictures are more than the memory takes."""

    def make(record: dict[str, Any]) -> Sample:
        turns = record["conversations"]
        if len(turns) < 2 or turns[-1]["from"] != "gpt":
            raise DataError("the last turn is not the assistant's")
        if turns[0]["from"] == "gpt":
            raise DataError("the first turn is not the user's")
        media = []
        if record.get("image"):
            file = Path(folder) / record["image"]
            media = [image(open_picture(file)) if opened else {"type": "image", "image": file}]
        messages = []
        for number, turn in enumerate(turns[:-1]):
            text = turn["value"].replace("<image>", "").strip()
            if turn["from"] == "gpt":
                messages.append(assistant(text))
            else:
                messages.append(user(text, *(media if number == 0 else [])))
        return Sample(messages, "dialogue", turns[-1]["value"].strip(), meta={"key": str(record["id"])})

    return each(str(path), named(load_json(path), path), make, report)


def named(records: Any, path: str | Path) -> Iterator[tuple[str, Any]]:
    """(id, or the number of its place, record) of a list. Raises DataError naming the file for what is no list."""
    if not isinstance(records, list):
        raise DataError(f"{path}: holds a {type(records).__name__}, expected a list of records")
    return ((str(r.get("id", n)) if isinstance(r, dict) else str(n), r) for n, r in enumerate(records))


def coco(path: str | Path, folder: str | Path, report: Report | None = None) -> Iterator[Sample]:
    """COCO: captions, or instances: a box to ground for every annotation that its name tells from the others, so not of
    what a picture holds twice, nor of crowds (`iscrowd`). By what the annotations hold."""
    table = load_json(path)
    try:
        pictures = {entry["id"]: entry for entry in table["images"]}
        names = {entry["id"]: entry["name"] for entry in table.get("categories", ())}
        annotations = table["annotations"]
        if isinstance(annotations, list):
            annotations = told_apart(annotations)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not a COCO table (images, annotations)") from error

    def make(entry: dict[str, Any]) -> Sample:
        about = pictures[entry["image_id"]]
        picture = image(open_picture(Path(folder) / about["file_name"]))
        meta: dict[str, Any] = {"key": f"coco {entry['id']}"}
        if "caption" in entry:
            return Sample([user(CAPTION, picture)], "caption", entry["caption"].strip(), meta=meta)
        x, y, width, height = entry["bbox"]
        across, down = about["width"], about["height"]
        if min(across, down, width, height) <= 0 or not all(map(math.isfinite, entry["bbox"])):
            raise DataError(f"the box {entry['bbox']} in a picture of {across} by {down}")
        box = (x / across, y / down, (x + width) / across, (y + height) / down)
        told = ",".join(str(round(100 * edge)) for edge in box)
        question = f"Box of the {names[entry['category_id']]}?"
        return Sample([user(question, picture)], "grounding", told, meta=meta | {"box": box})

    return each(str(path), named(annotations, path), make, report)


def told_apart(annotations: list[Any]) -> list[Any]:
    """COCO's annotations without the boxes that a name does not tell from others of its picture. Malformed ones stay:
    they are counted where they are read."""

    def kind(entry: Any) -> str | None:
        boxed = isinstance(entry, dict) and "bbox" in entry
        return str((entry.get("image_id"), entry.get("category_id"))) if boxed else None

    kinds = [kind(entry) for entry in annotations]
    shown = Counter(kinds)
    return [
        entry
        for entry, name in zip(annotations, kinds, strict=True)
        if name is None or (shown[name] == 1 and not entry.get("iscrowd"))
    ]


def librispeech(folder: str | Path, report: Report | None = None, rate: int = HEARING_RATE) -> Iterator[Sample]:
    """LibriSpeech: SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt with "UTTERANCE TEXT" lines beside UTTERANCE.flac.

    rate: of the waves, in Hz; what hears takes 16 kHz."""
    folder = Path(folder)
    lists = sorted(folder.rglob("*.trans.txt"))
    if not lists:
        raise DataError(f"{folder}: no *.trans.txt below it, so no LibriSpeech folder")

    def records() -> Iterator[tuple[str, tuple[Path, bytes]]]:
        for listing in lists:
            for line in lines_of(listing):
                if line.strip():
                    yield shown(line.split()[0]), (listing.parent, line)

    def make(record: tuple[Path, bytes]) -> Sample:
        beside, line = record
        name, _, text = line.decode("utf-8").strip().partition(" ")
        path, text = beside / f"{name}.flac", text.strip().lower().capitalize()
        speaker = path.stem.split("-")[0]
        meta = {"key": path.stem, "voice": speaker}
        return Sample([user(TRANSCRIBE, audio(open_sound(path, rate)))], "asr", text, meta=meta)

    return each(str(folder), records(), make, report)


def ljspeech(folder: str | Path, report: Report | None = None) -> Iterator[Sample]:
    """LJSpeech: metadata.csv with "ID|text|normalised text" lines, and wavs/ID.wav; samples that say the text aloud."""
    folder = Path(folder)
    listing = folder / "metadata.csv"
    if not listing.is_file():
        raise DataError(f"{folder}: no metadata.csv in it, so no LJSpeech folder")

    def make(line: bytes) -> Sample:
        fields = line.decode("utf-8").split("|")
        if len(fields) < 2:
            raise DataError("no | between name and text")
        text = fields[-1].strip()
        wave = open_sound(folder / "wavs" / f"{fields[0]}.wav", SPEAKING_RATE)
        return Sample([user(f"Say: {text}")], "say_this", text, wave, meta={"key": fields[0], "voice": "ljspeech"})

    records = ((shown(line.split(b"|")[0]), line) for line in lines_of(listing) if line.strip())
    return each(str(folder), records, make, report)


PICTURES = ("jpg", "jpeg", "png", "webp")
SOUNDS = ("flac", "wav", "mp3", "ogg", "opus")


def from_fields(fields: dict[str, Any], name: str, rate: int = HEARING_RATE) -> Sample:
    """A sample from named bytes: a picture, a sound (at `rate` Hz) or both, and text (txt; or json: text, question,
    answer). What is shown is captioned, what is only heard written down, where there is no question.

    Raises DataError when there is neither picture nor sound."""
    if strange := [kind for kind in (*PICTURES, *SOUNDS) if not isinstance(fields.get(kind, b""), bytes)]:
        raise DataError(f"the {strange[0]} is no bytes but a {type(fields[strange[0]]).__name__}")
    about = json.loads(fields["json"]) if "json" in fields else {}
    text = fields["txt"].decode("utf-8") if "txt" in fields else about.get("answer", about.get("text", ""))
    pictures, sounds = ([fields[kind] for kind in kinds if kind in fields] for kinds in (PICTURES, SOUNDS))
    media = [image(open_picture(raw)) for raw in pictures[:1]] + [audio(open_sound(raw, rate)) for raw in sounds[:1]]
    if not media:
        raise DataError(f"no picture or sound among {sorted(fields)}")
    task, question = ("caption", CAPTION) if pictures else ("asr", TRANSCRIBE)
    return Sample([user(about.get("question", question), *media)], task, text.strip(), meta={"key": name})


def webdataset(
    paths: list[str | Path], report: Report | None = None, rank: int = 0, world: int = 1
) -> Iterator[Sample]:
    """WebDataset: tar shards in which the files of one record share their name up to the first dot.

    paths: the shards; this process (rank of world) takes every world-th. Records as in `from_fields`."""
    from .shards import tar_records

    shards = [Path(path) for path in paths][rank::world]
    return each("WebDataset", tar_records(shards), lambda fields: from_fields(fields, fields["__key__"]), report)


def parquet(
    path: str | Path, report: Report | None = None, rank: int = 0, world: int = 1, rate: int = HEARING_RATE
) -> Iterator[Sample]:
    """Parquet as hubs store it: columns "image" or "audio" (bytes, or {"bytes": ...}), and "text", "caption", or
    "question" and "answer". This process (rank of world) takes every world-th row group. rate: of sounds, in Hz."""
    from .shards import parquet_rows

    def make(row: dict[str, Any]) -> Sample:
        media = {k: row[k]["bytes"] if isinstance(row[k], dict) else row[k] for k in ("image", "audio") if row.get(k)}
        about = {"question": row["question"]} if row.get("question") else {}
        text = row.get("answer") or row.get("text") or row.get("caption") or row.get("sentence") or ""
        fields = {"png" if kind == "image" else "wav": raw for kind, raw in media.items()}
        sample = from_fields(fields | {"json": json.dumps(about | {"text": text})}, row["__key__"], rate)
        if row.get("speaker_id") is not None:
            sample.meta["voice"] = str(row["speaker_id"])
        return sample

    return each(str(path), parquet_rows(Path(path), rank, world), make, report)


def videos(folder: str | Path, report: Report | None = None) -> Iterator[Sample]:
    """A folder with metadata.jsonl, a line a clip: {"file", "question", "answer"}; the clips are MP4."""
    folder = Path(folder)
    if not (folder / "metadata.jsonl").is_file():
        raise DataError(f"{folder}: no metadata.jsonl in it")

    def make(line: bytes) -> Sample:
        about = json.loads(line.decode("utf-8"))
        clip = {"type": "video", "video": video_files.read(folder / about["file"])}
        meta = {"key": about["file"], **about.get("meta", {})}
        return Sample([user(about["question"], clip)], about.get("task", "video"), about["answer"], meta=meta)

    records = ((shown(line), line) for line in lines_of(folder / "metadata.jsonl") if line.strip())
    return each(str(folder), records, make, report)
