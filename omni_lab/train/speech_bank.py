"""Speech to train the codec on: shards of sentences said twice, made once by whichever process needs them first.

A shard is a pure function of (split, sentences, number); files in `build/speech/` only save time. Their waves are
mapped and not read: 60 shards of both kinds are 3 GB, of which each worker of a Colab machine would hold its own.
Each sentence is said by two speakers with the same timing, so that the DiT can be asked for the same words in another
voice. Every speaker of a shard says several sentences, so that a voice can be shown by another clip of it.
Shards of the source voice alone (`solo`) are what the talker learns its codes from: timbre is not its business.
"""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..codec.mel import HOP, mel_spectrogram
from ..codec.speech_tokenizer import FRAMES_PER_CODE
from ..data import sentences, speech, texts
from ..data.folders import build_folder
from ..data.splits import generator, pick
from ..errors import DataError
from .lock import only_one

SENTENCES = 50  # in a shard: about 5 minutes of sound, with both voices
UNGUESSABLE = 0.4  # share of its sentences whose words stand in no order
SOLO = 250  # in a shard of the source voice alone: about 12 minutes
STRANGERS = 4  # speakers in a shard whom no other shard has
NONE = np.zeros(0, np.uint8)
IGNORED = -100  # label of a frame whose phoneme is not known


@dataclass(frozen=True)
class Clip:
    """One sentence by one speaker."""

    text: str
    speaker: str  # a name of speech.SPEAKERS, or one that holds within the shard
    wave: np.ndarray  # int16 (samples,) at 24 kHz, a whole number of codes long
    phonemes: np.ndarray = field(default_factory=lambda: NONE)  # of each 10 ms, where they are known (speech.timed)

    @cached_property
    def mel(self) -> Tensor:
        """Natural-log mel: (frames, 80). Kept, since every epoch asks again."""
        return mel_spectrogram(torch.from_numpy(self.wave).float() / 32767)


def labels(clip: Clip) -> Tensor:
    """The phoneme of each of a clip's mel frames, int64 (frames,): IGNORED where none is known."""
    found = torch.full((len(clip.mel),), IGNORED)
    known = torch.from_numpy(clip.phonemes.astype(np.int64))[: len(found)]
    found[: len(known)] = known
    return found


@lru_cache(maxsize=64)
def shard(split: str, number: int, count: int = SENTENCES) -> tuple[tuple[Clip, Clip], ...]:
    """The `count` sentences of shard `number`, each by two speakers in one timing. Raises DataError if damaged."""
    clips = stored(f"{split}-{count}-{number:05d}.npz", partial(make, split, number, count))
    return tuple(zip(clips[::2], clips[1::2], strict=True))


@lru_cache(maxsize=64)
def solo(split: str, number: int, count: int = SOLO) -> tuple[Clip, ...]:
    """The `count` sentences of shard `number` of the source voice, with their phonemes. Raises DataError if damaged."""
    return stored(f"timed-{split}-{count}-{number:05d}.npz", partial(make_solo, split, number, count))


def stored(name: str, maker: Callable[[], list[Clip]]) -> tuple[Clip, ...]:
    """The clips of a shard's file, which is made first if it is not there. Raises DataError if it is damaged."""
    folder = build_folder() / "speech"
    with only_one(folder / f".{name}.lock"):
        if not (folder / name).exists():
            write(folder / name, maker())
    return read(folder / name)


def make(split: str, number: int, count: int) -> list[Clip]:
    """Synthesise a shard: each sentence twice, one after the other."""
    rng = generator("speech bank", split, 0, number)
    named = [speech.SPEAKERS[name] for name in speech.speakers(split)]
    strangers = [replace(speech.random_speaker(rng), name=f"stranger {i}") for i in range(STRANGERS)]
    clips = []
    for _ in range(count):
        text = some_sentence(rng, split)
        pace, seeds = float(rng.uniform(0.85, 1.15)), rng.integers(2**31, size=2)
        for each in range(2):
            some = rng.random()
            speaker = speech.SPEAKERS["heart"] if some < 0.3 else pick(rng, named if some < 0.75 else strangers)
            clips.append(said(text, replace(speaker, speed=1.0), int(seeds[each]), pace))
    return clips


def make_solo(split: str, number: int, count: int) -> list[Clip]:
    """Synthesise a shard of the source voice."""
    rng = generator("solo speech bank", split, 0, number)
    clips = []
    for _ in range(count):
        # A talker that has heard nothing but the grammar says another noun that would fit as well: it must read.
        text = texts.repeat(rng, split).answer if rng.random() < UNGUESSABLE else some_sentence(rng, split)
        seed, pace = int(rng.integers(2**31)), float(rng.uniform(0.9, 1.1))
        wave, phonemes = speech.timed(text, speech.SPEAKERS["heart"], seed, pace)
        clips.append(whole(text, "heart", wave, phonemes))
    return clips


def some_sentence(rng: np.random.Generator, split: str) -> str:
    """A sentence of the grammar, sometimes one with pauses or with hard words."""
    kind = rng.random()
    maker = sentences.sentence if kind < 0.7 else sentences.paused_sentence
    return (sentences.hard_sentence if kind > 0.85 else maker)(rng, split)


def said(text: str, speaker: speech.Speaker, seed: int, pace: float) -> Clip:
    """A sentence as `speaker` says it, cut to whole codes."""
    return whole(text, speaker.name, speech.utter(text, speaker, seed, pace))


def whole(text: str, speaker: str, wave: np.ndarray, phonemes: np.ndarray = NONE) -> Clip:
    """A wave in [-1, 1] cut to whole codes, with the phonemes of its frames where they are known."""
    codes = len(wave) // (FRAMES_PER_CODE * HOP)
    wave = (wave[: codes * FRAMES_PER_CODE * HOP] * 32767).astype(np.int16)
    return Clip(text, speaker, wave, phonemes[: codes * FRAMES_PER_CODE])


def write(path: Path, clips: list[Clip]) -> None:
    """Write a shard atomically."""
    table = [{"text": c.text, "speaker": c.speaker, "samples": len(c.wave), "phonemes": len(c.phonemes)} for c in clips]
    part = path.with_name(f".{path.name}.{os.getpid()}")
    waves, phonemes = np.concatenate([c.wave for c in clips]), np.concatenate([c.phonemes for c in clips])
    with part.open("wb") as file:
        np.savez(file, waves=waves, phonemes=phonemes, table=np.array(json.dumps(table)))
    os.replace(part, path)


def read(path: Path) -> tuple[Clip, ...]:
    """Read a shard. Raises DataError."""
    try:
        waves = mapped(path, "waves.npy")
        with np.load(path, allow_pickle=False) as file:
            table = json.loads(str(file["table"]))
            phonemes = file.get("phonemes", NONE)  # which shards written before them lack
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged ({error}); delete it and it is made again") from error
    clips, sample, phoneme = [], 0, 0
    for entry in table:
        ends = sample + entry["samples"], phoneme + entry.get("phonemes", 0)
        clips.append(Clip(entry["text"], entry["speaker"], waves[sample : ends[0]], phonemes[phoneme : ends[1]]))
        sample, phoneme = ends
    return tuple(clips)


def mapped(path: Path, name: str) -> np.ndarray:
    """One array of an npz file as a map of the file: its pages are shared between processes, and can be let go of.

    Raises OSError, ValueError, KeyError or BadZipFile for a file that is damaged or compressed."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{damaged} is not what was written")
        entry = archive.getinfo(name)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        file.seek(entry.header_offset + 26)  # of 30 bytes, after which name and extra field stand
        file.seek(sum(struct.unpack("<2H", file.read(4))), os.SEEK_CUR)
        np.lib.format.read_magic(file)
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        # "c": whoever changes the array changes a copy. A view, since the class of maps is slow to cut.
        return np.memmap(path, kind, "c", file.tell(), shape).view(np.ndarray)


@dataclass(frozen=True, kw_only=True)
class Supply:
    """How much speech a recipe draws from, as fields of its settings."""

    shards: int = 36  # of the bank, 5 minutes each
    growth: float = 0.02  # shards that come into play per micro-batch: training starts while the rest are being made
    sentences: int = SENTENCES  # in a shard


LEAST = {"shards": 1}  # settings of recipes that can do nothing without the bank


def drawn(supply: Supply, seed: int, index: int) -> tuple[tuple[tuple[Clip, Clip], ...], np.random.Generator]:
    """The shard from which micro-batch `index` draws, and its random numbers."""
    rng = generator("speech batch", "train", seed, index)
    number = int(rng.integers(min(supply.shards, 2 + int(index * supply.growth))))
    return shard("train", number, supply.sentences), rng


def drawn_solo(supply: Supply, rng: np.random.Generator, index: int) -> tuple[Clip, ...]:
    """A shard of the source voice alone for micro-batch `index`, out of as many as `drawn` chooses from, as large."""
    number = int(rng.integers(min(supply.shards, 2 + int(index * supply.growth))))
    return solo("train", number, supply.sentences * SOLO // SENTENCES)


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
