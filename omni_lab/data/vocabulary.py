"""The text that the nano tokenizer is trained on: what the nano world says, and the names of what it shows.

Samples are of the train split, so that no test sentence shapes the vocabulary. `build_tokenizer` writes the files that
ship in `data_samples/checkpoints/nano`; the shipped checkpoint was trained with exactly these ids, so it is built once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..processing import tokenizer
from . import emoji, recordings, sentences, splits, texts, words

SEED = 0
LANGUAGES = ("en", "de", "fr", "es")
COORDINATES = "({},{}),({},{})"  # how a box is written, in hundredths of the picture


def corpus(scale: int = 1000) -> Iterator[str]:
    """Texts of the nano world; `scale` times a handful of each kind."""
    rng = splits.generator("vocabulary", "train", SEED, 0)
    for _ in range(scale):
        yield sentences.sentence(rng, "train")
        yield sentences.sentence(rng, "train")
        yield sentences.paused_sentence(rng, "train")
        yield from sentences.sentence_pair(rng, "train")
        for sample in (texts.text_qa(rng, "train"), texts.text_chat(rng, "train")):
            yield from said(sample)
        yield boxes(rng)
    for _ in range(max(1, scale // 100)):
        yield from names()
        yield from recordings.transcripts("train")
        yield "You are a helpful assistant.\nassistant\nsystem\n"


def said(sample: Any) -> Iterator[str]:
    """The words of a sample's messages, and its answer."""
    for message in sample.messages:
        yield from (part["text"] for part in message["content"] if part["type"] == "text")
    yield sample.answer


def boxes(rng: np.random.Generator) -> str:
    """Things in a picture and where they are."""
    thing = words.CONCEPTS[int(rng.integers(len(words.CONCEPTS)))].word
    return f"The {thing} in the picture is at {COORDINATES.format(*rng.integers(0, 100, 4))}."


def names() -> Iterator[str]:
    """What the emoji show, in the languages of the nano world, and the English words they are found by."""
    for concept in emoji.load().concepts:
        yield from (concept.labels[language] for language in LANGUAGES if language in concept.labels)
        yield " ".join(concept.keywords.get("en", ()))


def build_tokenizer(folder: str | Path) -> Any:
    """Train the nano tokenizer and write it, with the processor files, to `folder`. Returns the tokenizer."""
    return tokenizer.write_processor(folder, corpus())
