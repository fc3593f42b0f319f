"""Videos of figures that move and speak at known times: four seconds, a picture every half second, and their sound.

Motion is a function of time, so that the same clip can be had at 2 pictures a second (what the model samples) and at 8
(what a file holds). A moving figure hops: up in the first half of a second, down in the second half.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from . import scenes, sounds, speech
from .pictures import some_words, wanted
from .sample import Sample, user, video
from .splits import pick
from .words import COLOURS, CONCEPTS, NUMBERS, plural, with_article

SECONDS = 4.0
FPS = 2.0  # pictures a second: two make one temporal patch, so a patch is one second
SIZE = 112  # pixels of a side
HOP = 9  # pixels up and down
SYNCHRONY = "What moved when the bell rang?"
WHO = "What did the person on the left and the person on the right say?"


@dataclass(frozen=True)
class Figure:
    """One emoji in a video: where it stands, and when it hops and is there (functions of seconds)."""

    index: int  # in the emoji set
    centre: tuple[float, float]  # pixels
    side: int  # pixels
    hops: Callable[[float], bool]
    shown: Callable[[float], bool]


def always(_: float) -> bool:
    """At every second."""
    return True


def during(*spans: tuple[float, float]) -> Callable[[float], bool]:
    """Whether a second lies in one of the spans [begin, end)."""
    return lambda second: any(begin <= second < end for begin, end in spans)


def film(
    figures: list[Figure], style: str, background: tuple[int, int, int], fps: float = FPS, seconds: float = SECONDS
) -> np.ndarray:
    """The pictures of a clip: uint8 (frames, 112, 112, 3)."""
    tiles = [scenes.picture(style, figure.index, figure.side) for figure in figures]
    frames = []
    for number in range(round(seconds * fps)):
        second = number / fps
        canvas = Image.new("RGB", (SIZE, SIZE), background)
        for figure, tile in zip(figures, tiles, strict=True):
            if not figure.shown(second):
                continue
            hop = 0 if not figure.hops(second) else -HOP if second % 1.0 < 0.5 else HOP
            x, y = (round(c - figure.side / 2) for c in figure.centre)
            canvas.paste(tile, (x, y + hop), tile)
        frames.append(np.asarray(canvas))
    return np.stack(frames)


def av_synchrony(rng: np.random.Generator, split: str, fps: float = FPS) -> Sample:
    """Four things hop, each in a second of its own; a bell rings in one of them. Which moved then? (chance 1 in 4)"""
    while True:
        chosen = some_words(rng, 4)
        key = f"synchrony {chosen[0]} " + " ".join(sorted(chosen[1:]))
        if wanted("synchrony", key, split):
            break
    turns = [int(t) for t in rng.permutation(4)]  # second in which each thing hops; chosen[0] is the answer
    corners = rng.permutation(4)
    figures = []
    for word, turn, corner in zip(chosen, turns, corners, strict=True):
        centre = (28 + 56 * (corner % 2) + rng.uniform(-4, 4), 28 + 56 * (corner // 2) + rng.uniform(-3, 3))
        side = int(rng.integers(32, 40))
        figures.append(Figure(scenes.index_of(word), centre, side, during((turn, turn + 1)), always))
    bell, _ = sounds.event(rng, "bell", split)
    track = sounds.place(SECONDS, [(turns[0] + float(rng.uniform(0.05, 0.4)), bell[:16000])], rng)
    frames = film(figures, style_of(rng, chosen), scenes.paper(rng), fps)
    meta = {"key": key, "options": sorted(chosen), "second": turns[0]}
    moved = [chosen[turns.index(second)] for second in range(turns[0] + 1)]  # one a second, up to the bell
    thought = ", ".join([f"bell {turns[0]}", *(f"{second} {word}" for second, word in enumerate(moved))])
    messages = [user(SYNCHRONY, video(frames, fps, track))]
    return Sample(messages, "av_synchrony", with_article(chosen[0]), meta=meta, thought=thought)


def style_of(rng: np.random.Generator, chosen: list[str]) -> str:
    """An artist who drew all of them."""
    indices = [scenes.index_of(word) for word in chosen]
    return pick(rng, [s for s in scenes.styles("test") if all(s in scenes.styles_with(i, "test") for i in indices)])


def video_order(rng: np.random.Generator, split: str, fps: float = FPS) -> Sample:
    """Three things, one after the other, without sound: which came first, second or last? (chance 1 in 3)"""
    asked = int(rng.integers(3))
    while True:
        chosen = some_words(rng, 3)
        key = f"order {asked} " + " ".join(chosen)
        if wanted("order", key, split):
            break
    longest = int(rng.integers(3))  # one of them stays for two seconds
    begin, figures = 0.0, []
    for place, word in enumerate(chosen):
        length = 2.0 if place == longest else 1.0
        centre = tuple(56 + rng.uniform(-14, 14, 2))
        shown = during((begin, begin + length))
        figures.append(Figure(scenes.index_of(word), centre, int(rng.integers(48, 72)), during(), shown))
        begin += length
    frames = film(figures, style_of(rng, chosen), scenes.paper(rng), fps)
    question = f"What came {('first', 'second', 'last')[asked]}?"
    meta = {"key": key, "options": sorted(chosen)}
    answer, thought = with_article(chosen[asked]), ", ".join(chosen)
    return Sample([user(question, video(frames, fps))], "video_order", answer, meta=meta, thought=thought)


GREETINGS = (
    "good morning", "good night", "thank you", "hello there", "see you soon", "how are you", "well done", "my turn",
    "come here", "wait for me", "that is mine", "I am hungry",
)  # fmt: skip
PEOPLE = ("man", "woman", "boy", "girl", "old man", "old woman", "baby")


def phrase(rng: np.random.Generator) -> str:
    """A few words that last under two seconds."""
    kind = int(rng.integers(3))
    if kind == 0:
        return f"{NUMBERS[int(rng.integers(2, 11))]} {plural(pick(rng, CONCEPTS).word)}"
    if kind == 1:
        return f"a {pick(rng, [c for c in sorted(COLOURS) if c != 'orange'])} {pick(rng, CONCEPTS).word}"
    return pick(rng, GREETINGS)


def who_said_what(rng: np.random.Generator, split: str, fps: float = FPS) -> Sample:
    """Two people take turns to speak, and hop while they do; the answer says who said what, left first."""
    while True:
        said = [phrase(rng), phrase(rng)]  # left, right
        key = f"said {said[0]} | {said[1]}"
        if said[0] != said[1] and wanted("said", key, split):
            break
    names = scenes.emoji_set().names
    people = [p for p in PEOPLE if p in names]
    faces = [names.index(people[int(i)]) for i in rng.choice(len(people), 2, replace=False)]
    voices = rng.choice(len(speech.speakers("train")), 2, replace=False)
    first = int(rng.integers(2))  # who speaks first: 0 = left
    figures, events = [], []
    for place in range(2):
        begin = 0.0 if place == first else 2.0
        name = speech.speakers("train")[int(voices[place])]
        wave = fitted(speech.heard(speech.say(said[place], name, int(rng.integers(2**31)))))
        events.append((begin + 0.05, wave))
        centre = (28 + 56 * place + rng.uniform(-3, 3), 56 + rng.uniform(-20, 20))
        figures.append(Figure(faces[place], centre, int(rng.integers(36, 46)), during((begin, begin + 2)), always))
    track = sounds.place(SECONDS, events, rng)
    frames = film(figures, pick(rng, scenes.emoji_set().training_styles), scenes.paper(rng), fps)
    answer = f"left: {said[0]}. right: {said[1]}."
    meta = {"key": key, "left": said[0], "right": said[1], "first": ("left", "right")[first]}
    return Sample([user(WHO, video(frames, fps, track))], "who_said_what", answer, meta=meta)


def fitted(wave: np.ndarray, seconds: float = 1.9) -> np.ndarray:
    """A wave at 16 kHz, played faster (and so higher) when it lasts longer than `seconds`."""
    percent = int(np.ceil(100 * len(wave) / (seconds * 16000)))
    return wave if percent <= 100 else speech.resample(wave, percent, 100)
