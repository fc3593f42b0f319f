"""Lab 06's judges: whoever ranks a talker's attempts must have had no part in making them.

Each comes with a stand-in for machines on which it is not installed; which one is at work is printed.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codec import mel as mels
from ..data import speech
from ..errors import OmniLabError
from ..evaluate import ears
from . import codebook
from .announcer import Announcer

Timed = list[tuple[str, float, float]]  # (word, begin, end) in seconds
Revoice = Callable[[np.ndarray, str], Tensor]  # (a wave at 24 kHz, the speaker asked for) -> a wave at 24 kHz


def voice_judge(scale: str) -> Callable[[Any, int], np.ndarray]:
    """A wave (samples,) and its rate -> a voiceprint (dim,): `ears.voiceprint`.

    At smoke scale, and where that is not installed, the mean spectrum."""
    reason = "The judge of voices listens from scale cpu on" if scale == "smoke" else ""
    try:
        if not reason:
            ears.voice_encoder()
    except OmniLabError as error:
        reason = str(error)
    if reason:
        print(f"{reason}; here the mean spectrum stands in for it, which tells voices apart less well.")
        return mean_spectrum
    return lambda wave, rate: ears.voiceprint(np.asarray(wave, np.float32), rate)


def mean_spectrum(wave: Any, rate: int) -> np.ndarray:
    """A poor man's voiceprint: mean and deviation of each mel band, the overall level taken away: (160,)."""
    wave = torch.from_numpy(speech.resample(np.asarray(wave, np.float32), rate, mels.SAMPLE_RATE).copy())
    if len(wave) < mels.HOP or not bool(wave.abs().max() > 1e-4):
        return np.zeros(2 * mels.MEL_BANDS, np.float32)
    mel = mels.mel_spectrogram(wave)  # (frames, bands)
    mean, deviation = mel.mean(0), mel.std(0, correction=0)
    return torch.cat((mean - mean.mean(), deviation - deviation.mean())).numpy()


def deaf(scale: str) -> str:
    """Why nobody listens to waves at this scale, or on this machine; "" if the recogniser does."""
    if scale == "smoke":
        return "The recogniser listens from scale cpu on"
    try:
        ears.recogniser()
    except OmniLabError as error:
        return str(error)
    return ""


def listener(scale: str, voice: Announcer) -> Callable[[Sequence[Tensor], Sequence[Tensor]], list[Timed]]:
    """Waves at 24 kHz and the codes that made them -> words with times, as the recogniser hears each wave.

    At smoke scale, and where there is no recogniser, the announcer's codes are read instead."""
    reason = deaf(scale)
    if not reason:
        return lambda waves, codes: ears.all_words([wave.numpy() for wave in waves], 24_000)
    print(f"{reason}; here the announcer's codes are read, which is no independent judgement.")
    return lambda waves, codes: [voice.heard(row) for row in codes]


def codebook_revoice(size: int, sentences: int) -> Revoice:
    """Through a codebook like lab 05's, but fitted to all speakers in turn; it cannot be told a speaker.

    sentences: how many shipped ones it is fitted to, the last first, since the first ones are what is listened to."""
    said: dict[str, list[Tensor]] = {}
    for sound in reversed(speech.shipped()):
        said.setdefault(sound.about["speaker"], []).append(torch.from_numpy(sound.wave.copy()))
    in_turn = [wave for each in zip_longest(*said.values()) for wave in each if wave is not None]
    book = codebook.fit(in_turn[:sentences], size)
    return lambda wave, wanted: book.wave(book.encode(torch.from_numpy(np.array(wave, np.float32))))


def model_revoice(model: Any, points: int) -> Revoice:
    """Through the model's speech tokenizer, and its DiT with the reference of the speaker asked for.

    points: in time, of the Euler solver."""

    @torch.no_grad()
    def revoice(wave: np.ndarray, wanted: str) -> Tensor:
        codes = model.speech_tokenizer.encode(torch.from_numpy(np.array(wave, np.float32)))
        return model.say(codes, model.voice(wanted), num_steps=points, solver="euler")

    return revoice
