"""Lab 02's examples: one to three emoji in a small picture, told about in the three kinds of LLaVA (section 3).

Every picture exists twice: drawn, for the model that sees, and told, in words for each place, for the language model
that learns to read before it has eyes.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from . import dialogues, pictures, scenes
from .dialogues import Turns
from .scenes import Scene
from .splits import check_split, pick

CELL = 48  # pixels: the size at which lab 01's CLIP knows a thing
SIZE = 2 * CELL  # pixels of a side: four cells, one thing in each at most
BRIEF = ("Describe the picture briefly.", "What is in the picture?", "Give a short caption.")
KINDS = ("caption", *dialogues.KINDS, "science")


@dataclass(frozen=True)
class Example:
    """A picture and what is said about it."""

    kind: str  # one of KINDS
    scene: Scene
    picture: Image.Image  # RGB, SIZE pixels a side
    turns: Turns  # (question, answer) pairs; the picture stands before the first question
    options: tuple[str, ...] = ()  # of a science question, the right one among them


def compose(rng: np.random.Generator, split: str, style: str | None = None) -> Scene:
    """One to three things, now and then one of them twice; which words together are the test's, a hash decides."""
    check_split(split)
    while True:
        chosen = pictures.some_words(rng, int(rng.integers(1, 4)))
        if len(chosen) < 3 and rng.random() < 0.3:
            chosen.append(chosen[0])
        if pictures.wanted("instruction", " ".join(sorted(chosen)), split):
            return board(rng, chosen, split, style)


def board(rng: np.random.Generator, chosen: list[str], split: str, style: str | None = None) -> Scene:
    """The words' pictures, each in a cell of its own, nearly filling it."""
    scene = scenes.compose(rng, chosen, split, style, size=SIZE, cards=0.0)
    things = []
    for thing, cell in zip(scene.things, rng.permutation(4), strict=False):
        side = int(rng.integers(CELL * 3 // 4, CELL))
        x, y = ((int(cell) % 2) * CELL, (int(cell) // 2) * CELL)
        x, y = (edge + int(rng.integers(0, CELL - side + 1)) for edge in (x, y))
        things.append(replace(thing, box=(x, y, x + side, y + side)))
    return replace(scene, things=tuple(things))


def example(rng: np.random.Generator, split: str, kind: str, style: str | None = None) -> Example:
    """One example of `kind`. style: an artist, default one of the split's; the test is drawn without redrawing."""
    if kind == "science":
        asked, subject, right, wrong = pictures.science_question(rng)
        scene = board(rng, [subject], split, style)
        turns = [(asked.replace("THE", "it"), right)]
        options = [right, *(wrong[int(i)] for i in rng.permutation(len(wrong))[:3])]
        options = [options[int(i)] for i in rng.permutation(len(options))]
    else:
        scene, options = compose(rng, split, style), []
        brief = [(pick(rng, BRIEF), dialogues.captions(scene)[0])]
        turns = brief if kind == "caption" else dialogues.teach(kind, scene, rng)
    return Example(kind, scene, scenes.draw(scene, rng if split == "train" else None), turns, tuple(options))


def told(scene: Scene, side: int) -> list[str]:
    """The picture in words, row by row over side x side places: "red dog" where a dog on a red card covers the middle
    of the place, "" where nothing does."""
    step = scene.size / side
    found = []
    for place in range(side * side):
        x, y = (place % side + 0.5) * step, (place // side + 0.5) * step
        here = [t for t in scene.things if t.box[0] <= x < t.box[2] and t.box[1] <= y < t.box[3]]
        found.append(" ".join(w for t in here for w in (t.colour, t.word) if w))
    return found
