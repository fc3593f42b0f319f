"""Scenes: emoji of one artist on coloured cards, placed in a small picture; every box is known. COCO in and out."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..errors import DataError
from . import emoji
from .folders import samples_folder
from .splits import held_out, pick
from .words import BY_WORD, COLOURS, CONCEPTS

SIZES = (112, 168)  # pixels of a side: 16 or 36 tokens at 28 pixels a token
GRID = 100  # boxes are told in hundredths of a side


@dataclass(frozen=True)
class Thing:
    """One emoji on its card."""

    word: str  # of the words table; else the Unicode name
    index: int  # in the emoji set
    box: tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, right and lower edge exclusive
    colour: str | None  # of the card behind it, or None for no card

    @property
    def centre(self) -> tuple[float, float]:
        """x, y in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Scene:
    """A picture's content, before it is drawn."""

    size: int
    style: str
    background: tuple[int, int, int]
    things: tuple[Thing, ...]

    def told_box(self, thing: Thing) -> str:
        """A box as the model tells it: "x1,y1,x2,y2" in hundredths of a side."""
        return ",".join(str(round(edge * GRID / self.size)) for edge in thing.box)


@functools.cache
def emoji_set() -> emoji.EmojiSet:
    """The shipped pictures, read once per process."""
    return emoji.load(samples_folder() / "emoji")


@functools.cache
def index_of(word: str) -> int:
    """Place of a word's picture in the emoji set."""
    return emoji_set().index(BY_WORD[word].emoji)


@functools.cache
def styles(split: str) -> tuple[str, ...]:
    """Artists whose pictures may be used: all but the test style, in training and for new scenes in known styles."""
    everyone = emoji_set()
    return everyone.training_styles + (everyone.extra_styles if split == "train" else ())


@functools.cache
def styles_with(index: int, split: str) -> tuple[str, ...]:
    """Those of `styles` that have the concept."""
    return tuple(style for style in styles(split) if emoji_set().present(style)[index])


@functools.cache
def anything(split: str) -> tuple[int, ...]:
    """Concepts for questions that name none. One in ten, outside the words table, is never shown in training."""
    named = {index_of(concept.word) for concept in CONCEPTS}
    names = emoji_set().names
    others = [i for i in range(len(names)) if i not in named]
    return tuple(i for i in others if held_out("concept", names[i], 0.1) == (split == "test"))


def compose(
    rng: np.random.Generator,
    words: list[str] | list[int],
    split: str,
    style: str | None = None,
    size: int | None = None,
    cards: float = 0.5,
) -> Scene:
    """A scene of the given words (or emoji indices), each at a place of its own.

    style: an artist; default one of the split's who drew them all. cards: how likely the things lie on coloured cards.
    Raises DataError for more things than fit (12)."""
    indices = [index_of(w) if isinstance(w, str) else int(w) for w in words]
    if not 1 <= len(indices) <= 12:
        raise DataError(f"a scene of {len(indices)} things: 1 to 12 fit")
    if style is None:
        common = [s for s in styles(split) if all(s in styles_with(i, split) for i in indices)]
        style = pick(rng, common)
    size = size or (SIZES[0] if len(indices) < 5 and rng.random() < 0.8 else SIZES[1])
    with_cards = rng.random() < cards
    things = []
    for word, index, box in zip(words, indices, places(rng, len(indices), size), strict=True):
        name = word if isinstance(word, str) else emoji_set().names[index]
        things.append(Thing(name, index, box, pick(rng, sorted(COLOURS)) if with_cards else None))
    return Scene(size, style, paper(rng), tuple(things))


def paper(rng: np.random.Generator) -> tuple[int, int, int]:
    """A light background."""
    red, green, blue = (int(c) for c in rng.integers(200, 256, 3))
    return red, green, blue


def places(rng: np.random.Generator, count: int, size: int) -> list[tuple[int, int, int, int]]:
    """`count` square boxes that do not touch, shuffled over the cells of a grid and shaken within them."""
    across = int(np.ceil(np.sqrt(count)))
    down = int(np.ceil(count / across))
    if count == 2 and rng.random() < 0.7:
        across, down = 2, 2  # two things may stand in any two of four places
    if rng.random() < 0.5:
        across, down = down, across
    width, height = size / across, size / down
    boxes = []
    for cell in rng.permutation(across * down)[:count]:
        side = min(width, height) * rng.uniform(0.6, 0.94)
        x = (cell % across) * width + rng.uniform(0, width - side)
        y = (cell // across) * height + rng.uniform(0, height - side)
        boxes.append((round(x), round(y), round(x + side), round(y + side)))
    return boxes


def draw(scene: Scene, rng: np.random.Generator | None = None) -> Image.Image:
    """The scene as an RGB picture. With `rng`, as training sees it: light, and a slight turn of every thing."""
    canvas = Image.new("RGB", (scene.size, scene.size), scene.background)
    pen = ImageDraw.Draw(canvas)
    for thing in scene.things:
        x1, y1, x2, y2 = thing.box
        side = x2 - x1
        if thing.colour is not None:
            pen.rounded_rectangle((x1, y1, x2 - 1, y2 - 1), side // 5, fill=COLOURS[thing.colour], outline=(90, 90, 90))
        inner = round(side * (0.74 if thing.colour is not None else 1.0))
        turn = 0.0 if rng is None else float(rng.uniform(-12, 12))
        tile = picture(scene.style, thing.index, inner, turn)
        canvas.paste(tile, (x1 + (side - inner) // 2, y1 + (side - inner) // 2), tile)
    return canvas if rng is None else lit(canvas, rng)


def picture(style: str, index: int, side: int, turn: float = 0.0) -> Image.Image:
    """One emoji as an RGBA square of `side` pixels, turned by `turn` degrees."""
    tile = Image.fromarray(emoji_set().pixels(style)[index])
    if turn:
        tile = tile.rotate(turn, Image.Resampling.BILINEAR)
    return tile.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)


def lit(canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another light on the whole picture: contrast and brightness by some ten percent, and a little grain."""
    pixels = np.asarray(canvas, np.float32)
    pixels = pixels * rng.uniform(0.85, 1.1) + rng.uniform(-12, 12)
    pixels += rng.normal(0, 3, (*pixels.shape[:2], 1)).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def relation(one: Thing, other: Thing) -> str | None:
    """Where `one` is, seen from `other`: left, right, above, below; None when no one of them is plain."""
    dx, dy = (a - b for a, b in zip(one.centre, other.centre, strict=True))
    if abs(dx) > 1.6 * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) > 1.6 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def coco(scenes: list[Scene], names: list[str]) -> dict[str, Any]:
    """Scenes as a COCO instances table: images, annotations (bbox = x, y, width, height), categories."""
    words = sorted({thing.word for scene in scenes for thing in scene.things})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (scene, name) in enumerate(zip(scenes, names, strict=True), 1):
        images.append({"id": number, "file_name": name, "width": scene.size, "height": scene.size})
        for thing in scene.things:
            x1, y1, x2, y2 = thing.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": words.index(thing.word) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": n, "name": word} for n, word in enumerate(words, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
