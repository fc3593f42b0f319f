"""Pictures of writing: words to read, and "X + Y = 10, X = 2" to solve. In the fonts that matplotlib carries."""

import functools
import re
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .pictures import wanted
from .sample import Sample, image, user
from .scenes import emoji_set, lit
from .splits import pick

FONTS = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf", "STIXGeneral.ttf", "STIXGeneralBol.ttf", "cmr10.ttf",
)  # fmt: skip
# Pixels: 36 and 60 tokens, and a letter is about as wide as one: a token that holds two says no order.
PAGE, SHEET = (336, 84), (280, 168)
POINTS = (44, 67)  # at which letters are tried, until they fit
READ = "Read the word."
READ_ALL = "Read the page."
SOLVE = "Solve it."
LARGEST = 20


@functools.cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's folder at `size` pixels."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


@functools.cache
def lexicon() -> tuple[str, ...]:
    """English words of 3 to 8 small letters: what Unicode calls its emoji, and the keywords by which they are found."""
    everyone = emoji_set()
    text = " ".join(everyone.names) + " " + " ".join(" ".join(words) for words in everyone.keywords["en"])
    return tuple(sorted(set(re.findall(r"\b[a-z]{3,8}\b", text))))


def ocr(rng: np.random.Generator, split: str) -> Sample:
    """A word to read. The test's words are never shown in training, which mixes in made-up ones: letters count."""
    if split == "train" and rng.random() < 0.35:
        word, key = made_up(rng), "made up"
    else:
        while True:
            word = pick(rng, lexicon())
            key = f"word {word}"
            if wanted("ocr", key, split):
                break
    style = int(rng.integers(3))
    shown = (word, word.upper(), word.capitalize())[style]
    page, glyphs = write([shown], PAGE, rng, split)
    return Sample([user(READ, image(page))], "ocr", word, meta={"key": key, "shown": shown, "glyphs": glyphs})


def made_up(rng: np.random.Generator) -> str:
    """A word that can be pronounced and, but for chance, does not exist: consonants and vowels in turn."""
    while True:
        length, turn, word = int(rng.integers(3, 9)), int(rng.integers(2)), ""
        for place in range(length):
            word += pick(rng, ("bcdfghjklmnpqrstvwxyz", "aeiou")[(place + turn) % 2])
        if word not in lexicon():
            return word


Glyph = tuple[str, float, float]  # a letter, and its middle (x, y) in pixels


def write(
    lines: list[str], size: tuple[int, int], rng: np.random.Generator, split: str
) -> tuple[Image.Image, list[Glyph]]:
    """Lines of text on a page of `size` (width, height) pixels, in any font, colour and place in which they fit, and
    where each of their letters stands."""
    face, colour = pick(rng, FONTS), ink(rng)
    canvas = Image.new("RGB", size, colour[1])
    pen = ImageDraw.Draw(canvas)
    for points in range(int(rng.integers(*POINTS)), 9, -1):
        chosen = font(face, points)
        boxes = [pen.textbbox((0, 0), line, font=chosen) for line in lines]
        width, height = max(int(box[2]) for box in boxes), sum(int(box[3]) + 4 for box in boxes)
        if width <= size[0] - 8 and height <= size[1] - 4:
            break
    x, y = int(rng.integers(2, size[0] - width - 1)), int(rng.integers(0, size[1] - height + 1))
    glyphs = []
    for line, box in zip(lines, boxes, strict=True):
        pen.text((x, y), line, font=chosen, fill=colour[0])
        ends = [x + chosen.getlength(line[:i]) for i in range(len(line) + 1)]
        middle = y + (box[1] + box[3]) / 2
        glyphs += [(c, (a + b) / 2, middle) for c, a, b in zip(line, ends, ends[1:], strict=False) if c != " "]
        y += int(box[3]) + 4
    return (lit(canvas, rng) if split == "train" else canvas), glyphs


def ink(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(ink, paper): dark on light or light on dark."""
    dark, light = (tuple(int(c) for c in rng.integers(*span, 3)) for span in ((0, 90), (190, 256)))
    return (dark, light) if rng.random() < 0.75 else (light, dark)


def picture_arithmetic(rng: np.random.Generator, split: str) -> Sample:
    """ "X + Y = 10", "X = 2", "Y = ?" in a picture. The split is by equation and given value, whatever the letters."""
    key, lines, step, answer = unknown_number(rng, split)
    thought = ", ".join([*lines, step])
    if rng.random() < 0.3:
        lines = [lines[0], f"{lines[1]}, {lines[2]}"]
    page, glyphs = write(lines, SHEET, rng, split)
    meta = {"key": key, "lines": lines, "glyphs": glyphs}
    return Sample([user(SOLVE, image(page))], "picture_arithmetic", answer, meta=meta, thought=thought)


def page(rng: np.random.Generator, split: str) -> Sample:
    """The same picture, to be read: its lines as `equation` types them."""
    made = picture_arithmetic(rng, split)
    return Sample(
        [user(READ_ALL, made.messages[0]["content"][0])], "page", ", ".join(made.meta["lines"]), meta=made.meta
    )


def equation(rng: np.random.Generator, split: str) -> Sample:
    """The same, typed: "X + Y = 10, X = 2, Y = ?". What stands in a test's picture is not typed in training either."""
    key, lines, step, answer = unknown_number(rng, split)
    return Sample([user(", ".join(lines))], "equation", answer, meta={"key": key, "lines": lines}, thought=step)


def unknown_number(rng: np.random.Generator, split: str) -> tuple[str, list[str], str, str]:
    """(key, three lines such as "X + Y = 10", "X = 2", "Y = ?", what is to be reckoned, "Y = 10 - 2", the answer)."""
    while True:
        first, second = int(rng.integers(0, LARGEST + 1)), int(rng.integers(0, LARGEST + 1))
        sign = pick(rng, "+-")
        result = first + second if sign == "+" else first - second
        give_first = bool(rng.integers(2))
        key = f"arithmetic {sign} {first} {second} {give_first}"
        if 0 <= result <= LARGEST and wanted("arithmetic", key, split):
            break
    x, y = pick(rng, (("X", "Y"), ("A", "B"), ("P", "Q"), ("M", "N")))
    known, value, asked, answer = (x, first, y, second) if give_first else (y, second, x, first)
    sum_wanted = sign == "-" and not give_first
    step = f"{asked} = {result} + {value}" if sum_wanted else f"{asked} = {max(result, value)} - {min(result, value)}"
    return key, [f"{x} {sign} {y} = {result}", f"{known} = {value}", f"{asked} = ?"], step, str(answer)
