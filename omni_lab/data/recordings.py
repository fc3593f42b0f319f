"""Real recordings: telephone prompts read by one person (Allison Smith, CC-BY-SA-3.0), with their transcripts.

They ship as `data_samples/audio/recordings.opus`: 9.5 minutes of the Debian package asterisk-core-sounds-en-g722.
"""

import functools
from dataclasses import dataclass

import numpy as np

from . import bank
from .folders import samples_folder
from .sentences import key_of
from .splits import held_out

TEST_SHARE = 0.52  # of the prompts: half, so that the test has two hundred
RATE = 16_000


@dataclass(frozen=True)
class Prompt:
    """One recorded prompt: wave float32 (samples,) at 16 kHz."""

    name: str
    text: str
    wave: np.ndarray

    @property
    def key(self) -> str:
        """Its words alone: two recordings of the same words are on the same side of the split."""
        return key_of(self.text)


@functools.cache
def everything() -> tuple[Prompt, ...]:
    """All shipped prompts, read once per process (about a second). Raises DataError when the file is missing."""
    found = bank.read(samples_folder() / "audio" / "recordings.opus")
    return tuple(Prompt(sound.name, sound.about["text"], sound.wave) for sound in found)


@functools.cache
def prompts(split: str) -> tuple[Prompt, ...]:
    """The prompts of a split, told apart by their words."""
    return tuple(p for p in everything() if held_out("prompt", p.key, TEST_SHARE) == (split == "test"))


@functools.cache
def transcripts(split: str) -> tuple[str, ...]:
    """What the prompts of a split say."""
    return tuple(prompt.text for prompt in prompts(split))


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """All words of all prompts: synthetic voices teach them in training one by one, as a lexicon would.

    Prompts of the test that are one word (118 of 201) are therefore heard in training, by other voices; none of several
    words is read aloud there, and no recording of either is heard."""
    return tuple(
        sorted({word.strip(",.;!?") for prompt in everything() for word in prompt.text.lower().split()} - {""})
    )
