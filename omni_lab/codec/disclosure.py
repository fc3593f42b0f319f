"""An audible mark on speech in an enrolled voice: two short high tones every two seconds, for as long as it speaks.

Whoever hears it knows that no person is speaking, without software and also when a piece has been cut out; and a
program finds it (`found`). It is a notice, no lock: who has the waveform and means harm can filter two tones out.

Notable: the mark is added, so that lengths stay as they are, and it depends on the time since the reply began alone,
so that speech made in chunks carries the same mark as speech made at once.
"""

import functools
import math

import torch
from torch import Tensor

from ..errors import InputError

TONES = (2500.0, 3000.0)  # Hz, one after the other: within the band of a telephone
TONE = 0.08  # seconds of each
PERIOD = 2.0  # seconds from mark to mark
LEVEL = 0.05  # amplitude; speech peaks at about 0.5
NEARBY = 100.0  # Hz: a tone stands out from what sounds this far above and below, a voice's harmonics rarely do
STANDS_OUT = 5.0  # times the level nearby, in the mean of all marks; unmarked speech of the course reaches 3.5


@functools.lru_cache(maxsize=4)
def one_period(sample_rate: int) -> Tensor:
    """The mark and the silence behind it: (PERIOD * sample_rate,). Tones rise and fall softly, so that none clicks."""
    count = round(TONE * sample_rate)
    time = torch.arange(count) / sample_rate
    tones = [LEVEL * torch.hann_window(count) * torch.sin(2 * math.pi * f * time) for f in TONES]
    return torch.cat([*tones, torch.zeros(round(PERIOD * sample_rate) - len(TONES) * count)])


def mark(wave: Tensor, sample_rate: int = 24_000, start: int = 0) -> Tensor:
    """Speech with the mark in it: (..., samples) in [-1, 1] -> the same shape.

    start: samples that were spoken before these, when a reply comes in chunks. Raises InputError."""
    if sample_rate < 2 * max(TONES):
        raise InputError(f"disclosure: {sample_rate} Hz cannot hold a tone of {max(TONES):g} Hz")
    period = one_period(sample_rate).to(wave)
    place = (start + torch.arange(wave.shape[-1], device=wave.device)) % len(period)
    return (wave + period[place]).clamp(-1, 1)


def tone_level(wave: Tensor, sample_rate: int, frequency: float, window: int) -> Tensor:
    """Amplitude of one tone in each window of `window` samples, whatever its phase: (samples,) -> (windows,).

    One bin of a Fourier transform at any frequency (Goertzel 1958). What does not fill a window is left out."""
    rows = wave[: len(wave) // window * window].reshape(-1, window)  # (windows, window)
    turn = 2 * math.pi * frequency / sample_rate * torch.arange(window, dtype=wave.dtype, device=wave.device)
    real, imaginary = rows @ turn.cos(), rows @ turn.sin()
    return 2 / window * (real.square() + imaginary.square()).sqrt()


def found(wave: Tensor, sample_rate: int = 24_000) -> bool:
    """Whether speech (samples,) carries the mark, wherever in a period it was cut. Needs at least a period (2 s)."""
    window = round(TONE * sample_rate)
    step = window // 4
    if len(wave) < round(PERIOD * sample_rate):
        return False
    return max(prominence(wave.float()[offset:], sample_rate, window) for offset in range(0, window, step)) > STANDS_OUT


def prominence(wave: Tensor, sample_rate: int, window: int) -> float:
    """How far both tones, in turn, stand out from what is near them, at the best place of the period."""
    ratios = []
    for frequency in TONES:
        near = [tone_level(wave, sample_rate, frequency + side, window) for side in (-NEARBY, NEARBY)]
        ratios.append(tone_level(wave, sample_rate, frequency, window) / (torch.stack(near).mean(0) + 1e-4))
    both = torch.minimum(ratios[0][:-1], ratios[1][1:]).clamp(max=50.0)  # first tone, then the second
    period = round(PERIOD * sample_rate) // window
    rounds = max(1, len(both) // period)
    folded = both[: rounds * period].reshape(rounds, -1)  # every row one period, or what there is of one
    return float(folded.clamp(min=1e-3).log().mean(0).exp().max())
