"""The mel spectrogram between DiT and vocoder: 80 bands, 24 kHz, 100 frames a second, natural logarithm.

The convention is BigVGAN's (Lee et al. 2023, section 3): magnitudes, Slaney mel filters of unit area, reflected edges
so that `samples // HOP` frames come out, and log(max(mel, 1e-5)). The release says neither which window nor which
filters its mel was made with; the vocoder's rates (a product of 240) and its decibel floor fit this choice.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from ..errors import InputError

SAMPLE_RATE = 24_000  # Hz
HOP = 240  # samples: 100 frames a second
WINDOW = 1024  # samples, 43 ms: the Hann window and the FFT
MEL_BANDS = 80
LOG_FLOOR = 1e-5  # magnitudes below are silence


def mel_spectrogram(wave: Tensor, mel_bands: int = MEL_BANDS) -> Tensor:
    """Log-mel magnitudes of a 24 kHz wave: (..., samples) in [-1, 1] -> (..., samples // 240, mel_bands).

    float32, or float64 if the wave is; differentiable in the wave. Raises InputError for less than one frame of samples
    or for samples that are no finite numbers.
    """
    samples = wave.shape[-1] if wave.ndim else 0
    if samples < HOP:
        raise InputError(f"mel spectrogram: got {samples} samples, expected at least {HOP} (one frame at 24 kHz)")
    if not wave.is_floating_point() or not bool(torch.isfinite(wave).all()):
        raise InputError(f"mel spectrogram: the wave must hold finite floating-point samples, got {wave.dtype}")
    wave = wave.float() if wave.dtype in (torch.float16, torch.bfloat16) else wave
    margin = (WINDOW - HOP) // 2  # the frame's hop stands in the middle of its window
    rows = wave.reshape(-1, samples)
    # Reflection needs more samples than it mirrors; a wave this short (17 ms) ends in silence first.
    rows = F.pad(rows, (0, max(0, margin + 1 - samples)))
    rows = F.pad(rows.unsqueeze(1), (margin, margin), mode="reflect").squeeze(1)
    window = torch.hann_window(WINDOW, dtype=rows.dtype, device=rows.device)
    spectrum = torch.stft(rows, WINDOW, HOP, window=window, center=False, return_complex=True)
    # The small term keeps the square root's gradient finite in silence.
    magnitude = torch.sqrt(torch.view_as_real(spectrum).square().sum(-1) + 1e-9)  # (rows, bins, frames)
    mel = magnitude.transpose(1, 2) @ mel_filters(mel_bands, rows.dtype, rows.device)  # (rows, frames, bands)
    mel = mel[:, : samples // HOP].clamp(min=LOG_FLOOR).log()
    return mel.reshape(*wave.shape[:-1], -1, mel_bands)


@lru_cache(maxsize=8)
def mel_filters(mel_bands: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Slaney's mel filters from 0 to 12 kHz, each of unit area: (513 frequency bins, mel_bands)."""
    bins = WINDOW // 2 + 1
    with torch.inference_mode(False):  # kept for later callers: a tensor born in inference mode could not train
        filters = torchaudio.functional.melscale_fbanks(
            bins, 0.0, SAMPLE_RATE / 2, mel_bands, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        return filters.to(device, dtype)
