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
# What people say to an assistant whatever it is about: each becomes a token or nearly so.
COMMON = """
 the of and to a in is it you that he was for on are with as I his they be at one have this from or had by hot
 but some what there we can out other were all your when up use word how said an each she which do their time if
 will way about many then them would write like so these her long make thing see him two has look more day could
 go come did my sound no most number who over know water than call first people may down side been now find any
 new work part take get place made live where after back little only round man year came show every good me give
 our under name very through just form much great think say help low line before turn cause same mean differ move
 right boy old too does tell sentence set three want air well also play small end put home read hand port large
 spell add even land here must big high such follow act why ask men change went light kind off need house picture
 try us again animal point mother world near build self earth father person woman video image audio music voice
 hear hears heard speak speaks spoke says left middle centre describe answer question please thank thanks hello
 sorry yes because something anything everything someone key metre tempo bell rings moves waves second third
 while during letter letters text written reads minor major beats per minute BPM Mother's Day Happy
"""


def corpus(scale: int = 1000) -> Iterator[str]:
    """Texts of the nano world; `scale` times a handful of each kind."""
    rng = splits.generator("vocabulary", "train", SEED, 0)
    for i in range(scale):
        yield f"{sentences.sentence(rng, 'train')} {sentences.sentence(rng, 'train')}"
        yield sentences.paused_sentence(rng, "train")
        yield from sentences.translated(rng, "train")
        for sample in (texts.text_qa(rng, "train"), texts.text_chat(rng, "train")):
            yield from said(sample)
        yield boxes(rng)
        if i % 25 == 0:
            yield COMMON.replace("\n", "") + COMMON.title().replace("\n", "")
    for _ in range(max(1, scale // 300)):
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
    shown = emoji.load()
    for language in LANGUAGES:
        yield from shown.labels[language]
    yield from map(" ".join, shown.keywords["en"])


def build_tokenizer(folder: str | Path) -> Any:
    """Train the nano tokenizer and write it, with the processor files, to `folder`. Returns the tokenizer."""
    return tokenizer.write_processor(folder, corpus())
