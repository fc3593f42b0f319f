"""Sound and pictures as they arrive -> what the encoders take, in blocks of 2 s (report, section 2.2).

The audio encoder's attention stays within 2 s, the vision encoder's within a pair of frames: a block encoded when it
is complete equals the same block of the whole. One thing does not: Whisper's log-mel cuts off what is 80 dB below the
loudest sound of the whole clip. Here it is 80 dB below the loudest sound so far.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..processing import image
from ..processing.audio import audio_array, rate_ratio, resampler

BLOCK_FRAMES = 200  # mel frames of the encoder's block: 2 s
FLOOR = 8.0  # decades below the loudest that still count


class Packets:
    """Samples at one rate in, packet by packet; at another out, as if the whole had been resampled at once."""

    def __init__(self, given: Any, rate: int) -> None:
        """given, rate: Hz in and out. Raises InputError for no usable rate."""
        ratio = rate_ratio(given, rate)
        self.given, self.into, self.out = given, ratio.numerator, ratio.denominator  # samples in and out of one period
        self.filters = resampler(self.into, self.out) if ratio != 1 else None
        self.reach = 0 if self.filters is None else self.filters.width  # samples that a filter sees on either side
        self.samples = np.zeros(0, dtype=np.float32)  # from the beginning of period `first` on
        self.first = self.done = 0  # periods: of samples[0]; given out

    def add(self, wave: np.ndarray, last: bool = False) -> np.ndarray:
        """The next packet (samples,) -> (n,) of which all is known that the filters see; last: all that is left."""
        if self.filters is None:
            return wave
        self.samples = np.concatenate((self.samples, wave))
        ready = self.first + max(0, len(self.samples) - self.reach) // self.into
        if not last and ready <= self.done or not len(self.samples):
            return np.zeros(0, dtype=np.float32)
        out = self.filters(torch.from_numpy(self.samples)).numpy()
        out = out[(self.done - self.first) * self.out : None if last else (ready - self.first) * self.out]
        kept = max(self.first, ready - -(-self.reach // self.into))
        self.samples, self.first, self.done = self.samples[(kept - self.first) * self.into :], kept, ready
        return out


class MelFrames:
    """Samples in, log-mel frames out, each once: Whisper's, of a clip whose end is not known yet."""

    def __init__(self, extractor: Any) -> None:
        self.rate, self.hop, self.size = extractor.sampling_rate, extractor.hop_length, extractor.n_fft
        self.filters = torch.from_numpy(np.asarray(extractor.mel_filters, dtype=np.float32)).T  # (mels, bins)
        self.window = torch.hann_window(self.size)
        self.samples = np.zeros(0, dtype=np.float32)  # from sample `first` on
        self.first = self.total = self.frames = 0  # sample of samples[0]; samples heard; frames given out
        self.loudest = -float("inf")
        self.packets = Packets(self.rate, self.rate)

    def add(self, wave: Any, rate: int | None = None) -> None:
        """More sound: (samples,) at `rate` Hz (default: the extractor's). Raises InputError."""
        wave, rate = audio_array(wave), self.rate if rate is None else rate
        if rate != self.packets.given:
            packets = Packets(rate, self.rate)
            self.finish()
            self.packets = packets
        self.hear(self.packets.add(wave))

    def finish(self) -> None:
        """The sound is over: what waited for more of it is heard too."""
        self.hear(self.packets.add(np.zeros(0, dtype=np.float32), last=True))
        self.packets = Packets(self.rate, self.rate)

    def hear(self, wave: np.ndarray) -> None:
        """More samples at `rate`: (samples,)."""
        self.samples = np.concatenate((self.samples, wave))
        self.total += len(wave)

    def ready(self, frames: int) -> bool:
        """Whether that many frames more can be made: a window reaches half its size beyond the frame."""
        return self.total >= (self.frames + frames - 1) * self.hop + self.size // 2 + 1

    def left(self) -> int:
        """Frames that the sound so far makes beyond those given out, if it ends here."""
        return -(-self.total // self.hop) - self.frames

    def take(self, frames: int) -> Tensor:
        """The next frames: (mels, frames), float32. Beyond the end of the sound there is silence."""
        half = self.size // 2
        start, end = self.frames * self.hop - half, (self.frames + frames - 1) * self.hop + half
        wave = self.samples[max(0, start) - self.first : end - self.first]
        wave = np.pad(wave, (0, max(0, end - self.total)))
        if start < 0:  # mirrored, as the whole clip's beginning is
            wave = np.pad(wave, (-start, 0), mode="reflect") if len(wave) > -start else np.pad(wave, (-start, 0))
        spectrum = torch.stft(
            torch.from_numpy(wave), self.size, self.hop, window=self.window, center=False, return_complex=True
        )
        mel = (self.filters @ spectrum.abs().square()).clamp(min=1e-10).log10()  # (mels, frames)
        self.loudest = max(self.loudest, float(mel.max()))
        self.frames += frames
        kept = max(0, self.frames * self.hop - half)
        self.samples, self.first = self.samples[kept - self.first :], kept
        return (mel.clamp(min=self.loudest - FLOOR) + 4.0) / 4.0


class FilmFrames:
    """Pictures with times in, pairs of frames out at 2 a second, as the reference samples a video."""

    def __init__(self, config: image.PixelConfig, fps: float = 2.0) -> None:
        self.config, self.fps = config, fps
        self.shown: list[tuple[float, Tensor]] = []  # pictures that may still be sampled, by time in seconds
        self.taken = 0  # frames given out
        self.size: tuple[int, ...] | None = None

    @property
    def second_per_grid(self) -> float:
        """Seconds of a pair of frames."""
        return self.config.temporal_patch_size / self.fps

    def add(self, picture: Any, time: float) -> None:
        """One more picture, shown from `time` (seconds) on. Raises InputError, MediaError."""
        pixels = image.load_image(picture)
        if self.size is not None and tuple(pixels.shape) != self.size:
            raise InputError(f"a frame is {tuple(pixels.shape)}, those before it are {self.size}")
        if self.shown and time < self.shown[-1][0]:
            raise InputError(f"a frame of {time:.2f} s came after one of {self.shown[-1][0]:.2f} s")
        self.size = tuple(pixels.shape)
        self.shown.append((time, pixels))

    def take(self, pairs: int) -> tuple[Tensor, tuple[int, int, int]]:
        """Patches and grid of the next `pairs` pairs: each moment has the last picture shown by then."""
        count = pairs * self.config.temporal_patch_size
        moments = [(self.taken + i) / self.fps + 1e-6 for i in range(count)]
        chosen = [
            next((pixels for time, pixels in reversed(self.shown) if time <= moment), self.shown[0][1])
            for moment in moments
        ]
        self.taken += count
        last = max((i for i, (time, _) in enumerate(self.shown) if time <= moments[-1]), default=0)
        del self.shown[:last]
        return image.pixel_values(torch.stack(chosen), self.config)
