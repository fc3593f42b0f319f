"""Sound in a notebook: a player with compressed sound, a spectrogram, and both in words for who cannot hear or see."""

import base64
import html
import io

import numpy as np
import soundfile
import torch
from IPython.display import HTML, display

from ..errors import InputError
from .plots import figure, picture

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


def play(wave: torch.Tensor | np.ndarray, rate: int, alt: str, spectrogram: bool = True) -> None:
    """Show a player for `wave` (samples,) in [-1, 1] at `rate` Hz, and its spectrogram.

    alt: what is heard, in words. The sound is kept as MP3 (about 4 kB a second), so that a notebook stays small.
    Raises InputError for a wave that is empty, not finite or of another shape, or a rate that MP3 does not have."""
    given = wave.detach().cpu().float() if isinstance(wave, torch.Tensor) else wave  # numpy has no bfloat16
    samples = np.asarray(given, dtype=np.float32)
    if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all():
        raise InputError(f"play: expected finite samples of shape (samples,), got shape {samples.shape}")
    if len(alt.split()) < 3:
        raise InputError("play: a sound needs alt text of at least three words: say what is heard")
    data = base64.b64encode(mp3(samples, rate)).decode()
    label = html.escape(alt, quote=True)
    player = f'<audio controls preload="none" aria-label="{label}" src="data:audio/mpeg;base64,{data}"></audio>'
    level = float(root_mean_square(torch.from_numpy(samples.copy())))
    words = f"{html.escape(alt)} ({samples.size / rate:.1f} s, level {level:.2f})"
    still = "<br>" + picture(spectrogram_of(samples, rate), f"Spectrogram: {alt}") if spectrogram else ""
    display(HTML(f"<figure>{player}<figcaption>{words}</figcaption>{still}</figure>"))


def root_mean_square(wave: torch.Tensor) -> torch.Tensor:
    """Loudness of each wave: (..., samples) -> (...). What lab 00 has one write."""
    return wave.square().mean(dim=-1).sqrt()


def mp3(samples: np.ndarray, rate: int) -> bytes:
    """`samples` (samples,) float32 as an MP3 file, mono. Raises InputError for a rate that the format lacks."""
    if rate not in MP3_RATES:
        raise InputError(f"play: {rate} Hz is no MP3 rate; resample to one of {', '.join(map(str, MP3_RATES))}")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), rate, format="MP3", subtype="MPEG_LAYER_III")
    return buffer.getvalue()


def spectrogram_of(samples: np.ndarray, rate: int) -> object:
    """A small figure: time in seconds, frequency in kHz, 80 dB of range."""
    made, axis = figure(width=6.0, height=1.6)
    size = min(512, samples.size)
    window = torch.hann_window(size)
    hop = max(1, size // 4)
    power = torch.stft(torch.from_numpy(samples.copy()), size, hop, window=window, return_complex=True).abs() ** 2
    level = 10 * torch.log10(power + 1e-10)  # (frequencies, frames), dB
    top = float(level.max())
    extent = (0.0, samples.size / rate, 0.0, rate / 2000)
    axis.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=top - 80, vmax=top)
    axis.set(xlabel="time (s)", ylabel="kHz")
    axis.grid(False)
    return made
