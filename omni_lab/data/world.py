"""The table of all tasks, and the endless, resumable, shardable stream of samples to train and test on."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, DataError
from . import sample as sample_module
from .sample import Sample
from .splits import check_split, generator


@dataclass(frozen=True)
class Task:
    """A kind of sample and the function that makes one: `maker(rng, split) -> Sample`."""

    maker: str  # "module.function" inside omni_lab.data, looked up when it is called
    gives: tuple[str, ...]  # media in the messages: any of image, audio, video; () for text alone
    speaks: bool = False  # whether the sample carries the spoken answer
    weight: float = 1.0  # share in a mixture
    test_only: bool = False  # made of what training must never see
    about: str = ""


TASKS: dict[str, Task] = {
    "text_qa": Task("texts.text_qa", (), about="typed questions with short answers"),
    "text_chat": Task("texts.text_chat", (), about="greetings, letters, facts, reasoning between think tags"),
    "equation": Task("rendered.equation", (), about="X + Y = 10, X = 2, Y = ?, typed"),
    "listed": Task("texts.listed", (), about="things by name, to be counted"),
    "repeat": Task("texts.repeat", (), weight=2.0, about="words in any order, to be said again"),
    "asr": Task("spoken.asr", ("audio",), weight=2.0, about="sentences of many voices, written down"),
    "asr_recorded": Task("spoken.asr_recorded", ("audio",), about="prompts read by a real person, written down"),
    "speech_translation": Task("spoken.speech_translation", ("audio",), about="English heard, three languages written"),
    "spoken_qa": Task("spoken.spoken_qa", ("audio",), about="the questions of text_qa, asked aloud"),
    "sound_events": Task("sounds.sound_events", ("audio",), about="what makes this sound"),
    "audio_order": Task("sounds.audio_order", ("audio",), about="which of two sounds came first"),
    "music": Task("music.music", ("audio",), about="key, metre and tempo of a loop"),
    "picture_qa": Task("pictures.picture_qa", ("image",), weight=3.0, about="how many, what colour, where, what"),
    "picture_qa_unseen_style": Task(
        "pictures.picture_qa_unseen_style", ("image",), test_only=True, about="the same in a style never trained on"
    ),
    "picture_talk": Task("pictures.picture_talk", ("image",), weight=2.0, about="many questions about one picture"),
    "scene_talk": Task("pictures.scene_talk", (), about="the same about a scene in words"),
    "picture_told": Task("pictures.picture_told", ("image",), about="all things of a picture, with place and colour"),
    "scene_told": Task("pictures.scene_told", (), about="the same about a scene in words"),
    "caption": Task("dialogues.described", ("image",), about="a picture and its caption"),
    "dialogue": Task("dialogues.dialogue", ("image",), about="conversation, detailed description, reasoning"),
    "picture_arithmetic": Task("rendered.picture_arithmetic", ("image",), about="X + Y = 10, X = 2, Y = ?"),
    "ocr": Task("rendered.ocr", ("image",), weight=2.0, about="a word to read"),
    "page": Task("rendered.page", ("image",), about="all that stands on a page of picture_arithmetic"),
    "grounding": Task("pictures.grounding", ("image",), weight=2.0, about="the box of a named thing"),
    "science_choice": Task("pictures.science_choice", ("image",), about="multiple choice, with or without a picture"),
    "video_order": Task("videos.video_order", ("video",), about="which of three things came first, second, last"),
    "av_synchrony": Task("videos.av_synchrony", ("video", "audio"), weight=2.0, about="what moved when the bell rang"),
    "who_said_what": Task(
        "videos.who_said_what", ("video", "audio"), weight=2.0, about="left and right, who said what"
    ),
    "say_this": Task("spoken.say_this", (), speaks=True, weight=2.0, about="a sentence to repeat aloud"),
    "spoken_reply": Task("spoken.spoken_reply", ("audio",), speaks=True, about="answers aloud"),
}


def maker_of(task: str) -> Callable[[np.random.Generator, str], Sample]:
    """The function that makes a sample of `task`. Raises DataError for a task that does not exist."""
    if task not in TASKS:
        raise DataError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    module, function = TASKS[task].maker.rsplit(".", 1)
    return getattr(importlib.import_module(f"omni_lab.data.{module}"), function)


def sample(task: str, split: str, seed: int, index: int) -> Sample:
    """Sample `index` of (task, split, seed): always the same one, on every machine."""
    made = maker_of(task)(generator(task, check_split(split), seed, index), split)
    return sample_module.check(made)


def schedule(
    tasks: Sequence[str], seed: int, index: int, text: float = 1.0, emphasis: Mapping[str, float] | None = None
) -> tuple[str, int]:
    """Which task the mixture's position `index` holds, and which of its samples.

    Tasks are drawn by their weights, those without media `text` times as often, those named in `emphasis` so many times
    as often; a sample's own index is the position, so that no sample comes twice. Raises ConfigError where all weights
    are 0.
    """
    factors = [(1.0 if TASKS[task].gives else text) * (emphasis or {}).get(task, 1.0) for task in tasks]
    weights = np.array([TASKS[task].weight for task in tasks]) * factors
    order = generator("schedule", "|".join(tasks), seed, index)
    if not weights.sum():
        raise ConfigError(f"all of {', '.join(tasks)} have the weight 0: nothing is left to draw from")
    return tasks[int(order.choice(len(tasks), p=weights / weights.sum()))], index


def emphasised(text: str) -> dict[str, float]:
    """What `ThinkerSettings.emphasis` says: task -> factor. Raises ConfigError."""
    try:
        pairs = [pair.split(":") for pair in text.split()]
        factors = {task: float(factor) for task, factor in pairs}
    except ValueError as error:
        raise ConfigError(f'emphasis is {text!r}, expected as "sound_events:4 picture_qa:0.5"') from error
    unknown = sorted(set(factors) - set(TASKS))
    if unknown or any(factor < 0 for factor in factors.values()):
        raise ConfigError(f"emphasis is {text!r}: " + (f"no task {unknown[0]}" if unknown else "a factor is negative"))
    return factors


def samples(
    tasks: Sequence[str] | None = None,
    split: str = "train",
    seed: int = 0,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Sample]:
    """Endless samples of a mixture of `tasks` (default: all).

    start: the first position of the mixture (a resumed run passes the number of positions already taken, by all ranks);
    rank, world: this process takes the positions that are rank modulo world. Raises DataError for an unknown task.
    """
    check_split(split)
    chosen = tuple(tasks) if tasks is not None else tuple(t for t in TASKS if split == "test" or not TASKS[t].test_only)
    for task in chosen:
        maker_of(task)
        if split == "train" and TASKS[task].test_only:
            raise DataError(f"{task} is a test: nothing may train on it")
    if not 0 <= rank < world:
        raise DataError(f"rank {rank} of {world} processes")
    index = start + (rank - start) % world
    while True:
        task, place = schedule(chosen, seed, index)
        yield sample(task, split, seed, place)
        index += world
