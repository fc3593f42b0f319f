"""Can a seam be heard? Spectral flux where chunks meet, beside the flux everywhere else."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError

WINDOW, STEP = 256, 64  # samples: 11 ms windows, 2.7 ms apart at 24 kHz


def spectral_flux(wave: Tensor) -> Tensor:
    """How much the spectrum rises from each moment to the next: wave (samples,) -> (moments,), in dB a step.

    Of the amplitudes in dB (from 80 dB under the loudest on), increases alone count: a click is a sudden rise in all
    bands. Moment m compares the windows around samples m * STEP and (m + 1) * STEP."""
    window = torch.hann_window(WINDOW, device=wave.device)
    size = torch.stft(wave, WINDOW, STEP, window=window, return_complex=True).abs()  # (bands, moments + 1)
    level = 20 * torch.log10(size.clamp(min=float(size.max()) * 1e-4 + 1e-12))
    return level.diff(dim=1).clamp(min=0).mean(dim=0)


def peaks_at(wave: Tensor, borders: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The highest flux around each border, (borders,), and around every other place, in dB.

    borders: samples at which chunks begin. Both are maxima over stretches of the same length, so that they compare.
    Raises InputError without a border inside the wave."""
    flux = spectral_flux(wave)
    reach = WINDOW // STEP + 1
    peaks = torch.nn.functional.max_pool1d(flux[None, None], 2 * reach + 1, 1, reach)[0, 0]
    at = [border // STEP for border in borders if 0 < border < len(wave)]
    if not at:
        raise InputError("no chunk border lies inside the wave")
    elsewhere = torch.ones(len(peaks), dtype=torch.bool)
    for place in at:
        elsewhere[max(0, place - 2 * reach) : place + 2 * reach] = False
    return peaks[at], peaks[elsewhere]


def seam_flux(wave: Tensor, borders: Sequence[int]) -> tuple[float, float]:
    """(mean of the highest flux around each border, mean of it around all other places), in dB; see `peaks_at`."""
    at, elsewhere = peaks_at(wave, borders)
    return float(at.mean()), float(elsewhere.mean())


def seam_score(wave: Tensor, borders: Sequence[int]) -> float:
    """Whether seams stand out, in standard deviations: 0 as elsewhere, above 3 they can be measured.

    Of each border, the share of other places with less flux. Were borders like any other place, these shares would be
    spread evenly over 0 to 1, and their mean would lie around 1/2 with variance 1 / (12 borders) (Mann and Whitney
    1947, for many more places than borders)."""
    at, elsewhere = peaks_at(wave, borders)
    shares = torch.searchsorted(elsewhere.sort().values, at).double() / len(elsewhere)
    return float((shares.mean() - 0.5) * (12 * len(at)) ** 0.5)
