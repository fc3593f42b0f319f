"""Speech of which it is known which phoneme is heard when: the voice's network says how long each lasts.

Letters in order (CTC) leave it to the encoder to find where each is, and it finds that out late: after 300,000 clips a
third of the letters of prompts new to it were wrong, though the source voice read them. A phoneme for every 20 ms is
what recognisers were taught by first (Bourlard and Morgan 1994), and needs no search. A shard is a pure function of
its number; files in `build/speech/` only save time.
"""

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np

from ..data import speech, spoken, texts
from ..data.sample import HEARING_RATE
from ..data.splits import generator, pick
from .speech_bank import Clip, some_sentence, stored

CLIPS = 250  # in a shard: about a quarter of an hour
FRAME = HEARING_RATE // speech.PHONEME_RATE  # samples a phoneme id


def some_text(rng: np.random.Generator) -> tuple[str, float]:
    """A text of training's side, and how slowly it may be said: prompts' words as slowly as those are read, sentences,
    words in no order, and questions."""
    kind = rng.random()
    if kind < 0.5:
        return spoken.prompt_like(rng), 0.55
    if kind < 0.75:
        return some_sentence(rng, "train"), 0.75
    if kind < 0.9:
        return texts.repeat(rng, "train").answer, 0.75
    return texts.question_and_answer(rng, "train")[1].question, 0.75


def make(number: int, count: int) -> list[Clip]:
    """Synthesise a shard: the source voice, the named speakers and made up ones."""
    rng = generator("phoneme bank", "train", 0, number)
    clips: list[Clip] = []
    while len(clips) < count:
        text, slowest = some_text(rng)
        if not any(character.isalnum() for character in text):
            continue
        some = rng.random()
        speaker = speech.SPEAKERS["heart" if some < 0.2 else pick(rng, speech.speakers("train"))]
        if some > 0.6:
            speaker = speech.random_speaker(rng)
        seed, pace = int(rng.integers(2**31)), float(rng.uniform(slowest, 1.1))
        wave, phonemes = speech.timed(text, replace(speaker, speed=1.0), seed, pace)
        wave = speech.heard(wave)
        clips.append(Clip(text, speaker.name, (wave[: len(phonemes) * FRAME] * 32767).astype(np.int16), phonemes))
    return clips


@lru_cache(maxsize=64)
def shard(number: int, count: int = CLIPS) -> tuple[Clip, ...]:
    """The clips of shard `number`: int16 at 16 kHz, and the phoneme of each 10 ms. Raises DataError if damaged."""
    return stored(f"phonemes-train-{count}-{number:05d}.npz", partial(make, number, count))


def in_a_place(
    wave: np.ndarray, phonemes: np.ndarray, rng: np.random.Generator, cut: float = 0.15
) -> tuple[np.ndarray, np.ndarray]:
    """A timed wave in any room, with silence before it or its first moments cut off, and its phonemes to match.

    cut: seconds that may be missing, of what is silence for the most part."""
    begun = int(rng.integers(-int(0.2 * speech.PHONEME_RATE), int(cut * speech.PHONEME_RATE) + 1))
    if begun > 0 and not phonemes[:begun].any():
        wave, phonemes = wave[begun * FRAME :], phonemes[begun:]
    before = max(-begun, 0)
    wave = speech.in_any_room(wave, rng, before * FRAME)
    track = np.zeros(-(-len(wave) // FRAME), np.uint8)
    track[before : before + len(phonemes)] = phonemes[: len(track) - before]
    return wave, track


def said_by_the_person(rng: np.random.Generator) -> tuple[np.ndarray, str, np.ndarray]:
    """A recorded prompt, or words cut out of some, in any room: the wave, its text and its phonemes."""
    text, wave, phonemes = spoken.recorded(rng)
    wave, track = in_a_place(wave, phonemes, rng, cut=0.0)
    return wave, text, track
