"""Captioned pictures from the field's sets: a folder or a hub name in, small square pictures and their captions out.

Understood are Parquet files as hubs store them (Flickr8k, Flickr30k, COCO: a column "image", captions in columns whose
names begin with "caption", "text" or "sentence") and COCO's own layout (annotations/captions_*.json beside a folder of
pictures of the same name).
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from . import readers
from .emoji import SIZE
from .shards import located, parquet_rows

CAPTION_COLUMNS = ("caption", "text", "sentence")


def load(source: str | Path, limit: int | None = None) -> tuple[np.ndarray, list[list[str]]]:
    """Pictures (n, 72, 72, 4) uint8 RGBA, opaque, and the captions of each; the first `limit` of the set.

    source: a folder, or a hub name such as "jxie/flickr8k", which is downloaded once. Raises DataError where there is
    neither, and where a file is damaged."""
    folder, tables = located(source)
    listings = sorted(folder.glob("annotations/captions_*.json"))
    if tables:
        found = (pair for table in tables for pair in from_parquet(table))
    elif listings:
        found = (pair for listing in listings for pair in from_coco(listing))
    else:
        raise DataError(f"{folder}: neither *.parquet nor annotations/captions_*.json in it, so no captioned pictures")
    pictures, captions = [], []
    for picture, told in found:
        pictures.append(square(picture))
        captions.append(told)
        if len(pictures) == limit:
            break
    if not pictures:
        raise DataError(f"{folder}: no captioned picture in it")
    return np.stack(pictures), captions


def from_parquet(path: Path):
    """(picture, captions) of each row."""
    for place, row in parquet_rows(path):
        told = [text for name, value in row.items() if name.startswith(CAPTION_COLUMNS) for text in as_list(value)]
        raw = row["image"].get("bytes") if isinstance(row.get("image"), dict) else row.get("image")
        if not isinstance(raw, bytes) or not raw or not told:
            raise DataError(f"{place} has no image (its bytes) or no caption")
        try:
            yield readers.open_picture(raw), told
        except (OSError, DataError) as error:
            raise DataError(f"{place} holds no picture ({error})") from error


def from_coco(path: Path):
    """(picture, captions) of each picture of a captions file; pictures lie in the folder that the file is named for."""
    folder = path.parent.parent / path.stem.removeprefix("captions_")
    table = readers.load_json(path)
    try:
        told: dict[Any, list[str]] = {}
        for annotation in table["annotations"]:
            told.setdefault(annotation["image_id"], []).append(annotation["caption"].strip())
        files = [(folder / entry["file_name"], told[entry["id"]]) for entry in table["images"] if entry["id"] in told]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a COCO captions table") from error
    for file, captions in files:
        try:
            yield readers.open_picture(file), captions
        except (OSError, DataError) as error:
            raise DataError(f"{file}: cannot be read as a picture ({error})") from error


def as_list(value: Any) -> list[str]:
    """Captions of one column: a text or a list of texts."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, str)]


def square(picture: Image.Image) -> np.ndarray:
    """The middle of a picture as (72, 72, 4) uint8, opaque."""
    side = min(picture.size)
    left, top = ((extent - side) // 2 for extent in picture.size)
    middle = picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(middle.convert("RGBA"))
