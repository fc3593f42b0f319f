"""Speech to train the codec on: shards of sentences said twice, made once by whichever process needs them first.

A shard is a pure function of (split, sentences, number); files in `build/speech/` only save time.
Each sentence is said by two speakers with the same timing, so that the speech tokenizer can be asked for the same words
in another voice. Every speaker of a shard says several sentences, so that a voice can be shown by another clip of it.
"""

import json
import os
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..codec.mel import HOP, mel_spectrogram
from ..codec.speech_tokenizer import FRAMES_PER_CODE
from ..data import sentences, speech
from ..data.folders import build_folder
from ..data.splits import generator, pick
from ..errors import DataError
from .lock import only_one

SENTENCES = 50  # in a shard: about 5 minutes of sound, with both voices
STRANGERS = 4  # speakers in a shard whom no other shard has


@dataclass(frozen=True)
class Clip:
    """One sentence by one speaker."""

    text: str
    speaker: str  # a name of speech.SPEAKERS, or one that holds within the shard
    wave: np.ndarray  # int16 (samples,) at 24 kHz, a whole number of codes long

    @cached_property
    def mel(self) -> Tensor:
        """Natural-log mel: (frames, 80). Kept, since every epoch asks again."""
        return mel_spectrogram(torch.from_numpy(self.wave).float() / 32767)


@lru_cache(maxsize=48)
def shard(split: str, number: int, count: int = SENTENCES) -> tuple[tuple[Clip, Clip], ...]:
    """The `count` sentences of shard `number`, each by two speakers in one timing. Raises DataError if damaged."""
    folder = build_folder() / "speech"
    path = folder / f"{split}-{count}-{number:05d}.npz"
    with only_one(folder / f".{path.name}.lock"):
        if not path.exists():
            write(path, make(split, number, count))
    return read(path)


def make(split: str, number: int, count: int) -> list[tuple[Clip, Clip]]:
    """Synthesise a shard."""
    rng = generator("speech bank", split, 0, number)
    named = [speech.SPEAKERS[name] for name in speech.speakers(split)]
    strangers = [replace(speech.random_speaker(rng), name=f"stranger {i}") for i in range(STRANGERS)]
    pairs = []
    for _ in range(count):
        kind = rng.random()
        maker = sentences.sentence if kind < 0.7 else sentences.paused_sentence
        text = (sentences.hard_sentence if kind > 0.85 else maker)(rng, split)
        pace, seeds = float(rng.uniform(0.85, 1.15)), rng.integers(2**31, size=2)
        pair = []
        for each in range(2):
            some = rng.random()
            speaker = speech.SPEAKERS["heart"] if some < 0.3 else pick(rng, named if some < 0.75 else strangers)
            wave = speech.utter(text, replace(speaker, speed=1.0), int(seeds[each]), pace)
            samples = len(wave) // (FRAMES_PER_CODE * HOP) * FRAMES_PER_CODE * HOP
            pair.append(Clip(text, speaker.name, (wave[:samples] * 32767).astype(np.int16)))
        pairs.append((pair[0], pair[1]))
    return pairs


def write(path: Path, pairs: list[tuple[Clip, Clip]]) -> None:
    """Write a shard atomically."""
    clips = [clip for pair in pairs for clip in pair]
    table = [{"text": c.text, "speaker": c.speaker, "samples": len(c.wave)} for c in clips]
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        np.savez(file, waves=np.concatenate([c.wave for c in clips]), table=np.array(json.dumps(table)))
    os.replace(part, path)


def read(path: Path) -> tuple[tuple[Clip, Clip], ...]:
    """Read a shard. Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            table, waves = json.loads(str(file["table"])), file["waves"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged ({error}); delete it and it is made again") from error
    ends = np.cumsum([entry["samples"] for entry in table])
    clips = [Clip(e["text"], e["speaker"], waves[end - e["samples"] : end]) for e, end in zip(table, ends, strict=True)]
    return tuple(zip(clips[::2], clips[1::2], strict=True))


@dataclass(frozen=True, kw_only=True)
class Supply:
    """How much speech a recipe draws from, as fields of its settings."""

    shards: int = 36  # of the bank, 5 minutes each
    growth: float = 0.02  # shards that come into play per micro-batch: training starts while the rest are being made
    sentences: int = SENTENCES  # in a shard


def drawn(supply: Supply, seed: int, index: int) -> tuple[tuple[tuple[Clip, Clip], ...], np.random.Generator]:
    """The shard from which micro-batch `index` draws, and its random numbers."""
    rng = generator("speech batch", "train", seed, index)
    number = int(rng.integers(min(supply.shards, 2 + int(index * supply.growth))))
    return shard("train", number, supply.sentences), rng


def pad(rows: list[Tensor], value: float = 0.0, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Rows (length, ...) -> (batch, longest, ...) and a mask (batch, longest), True where a row is."""
    longest = -(-max(len(row) for row in rows) // multiple) * multiple
    padded = rows[0].new_full((len(rows), longest, *rows[0].shape[1:]), value)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
        mask[i, : len(row)] = True
    return padded, mask


def another_by(speaker: str, clips: list[Clip], but: str, rng: np.random.Generator) -> Clip | None:
    """A clip by `speaker` that says something else than `but`, if the shard has one."""
    others = [clip for clip in clips if clip.speaker == speaker and clip.text != but]
    return pick(rng, others) if others else None
