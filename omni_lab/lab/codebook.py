"""Lab 05's stand-in for a trained codec: a speech tokenizer's codebook that needs seconds to fit and no vocoder.

Codes are those of `codec/speech_tokenizer.py`, of few sentences; Griffin-Lim makes them sound again. It sounds like a
robot, since an entry is the mean of many moments and their phases are guessed. Lab 07 builds the real thing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor, nn

from ..codec import mel as mels
from ..codec import speech_tokenizer
from ..codec.speaker import Speaker
from ..codec.speech_tokenizer import k_means
from ..errors import InputError


@dataclass(frozen=True)
class Codebook:
    """A code is the number of the nearest centre, as in `speech_tokenizer.SpeechTokenizer`."""

    centres: Tensor  # (codes, 2 * bands): two log-mel frames of 10 ms each

    def encode(self, wave: Tensor) -> Tensor:
        """A 24 kHz wave (samples,) -> codes (samples // 480,), int64, 50 a second."""
        return speech_tokenizer.nearest(pairs_of(wave), self.centres)

    def mel(self, codes: Tensor) -> Tensor:
        """Codes (n,) -> log-mel (2 * n, bands). Raises InputError for a code that the book lacks."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(self.centres):
            raise InputError(f"codebook: codes must lie in 0 to {len(self.centres) - 1}")
        return self.centres[codes].reshape(2 * len(codes), -1)

    def wave(self, codes: Tensor, rounds: int = 32) -> Tensor:
        """Codes (n,) -> a 24 kHz wave (480 * n,), its phases found by Griffin and Lim's method (1984)."""
        if not len(codes):
            return torch.zeros(0)
        filters = mels.mel_filters(self.centres.shape[1] // 2, torch.float32, codes.device)  # (bins, bands)
        frames = self.mel(codes)
        # The transform mirrors half a window at each end, so a very short sound is drawn out first, and cut afterwards.
        frames = torch.cat([frames, frames[-1:].expand(max(0, 8 - len(frames)), -1)])
        power = (frames.exp() @ torch.linalg.pinv(filters)).clamp(min=1e-6)  # (frames, bins)
        sizes = {"n_fft": mels.WINDOW, "hop_length": mels.HOP, "win_length": mels.WINDOW}
        wave = torchaudio.functional.griffinlim(
            power.T, torch.hann_window(mels.WINDOW), **sizes, power=1.0, n_iter=rounds, momentum=0.9,
            length=None, rand_init=False,
        )  # fmt: skip
        samples = 2 * mels.HOP * len(codes)
        wave = torch.nn.functional.pad(wave, (0, max(0, samples - len(wave))))[:samples]
        return wave / wave.abs().max().clamp(min=1.0)


class CodebookVoice(nn.Module):
    """A codebook in the place of `OmniModel.token2wav`: one voice, whoever is named; codes that it lacks are silent."""

    def __init__(self, book: Codebook, name: str, bos_token: int) -> None:
        super().__init__()
        self.book = book
        self.speakers = {name: Speaker(bos_token, torch.zeros(1, 1), torch.zeros(1, 1, 1))}

    def named_speaker(self, speaker: Speaker | str) -> Speaker:
        """`speaker` itself, or the one of that name. Raises InputError."""
        if isinstance(speaker, Speaker):
            return speaker
        if speaker not in self.speakers:
            raise InputError(f"no speaker named {speaker!r}: here speaks {', '.join(self.speakers)}")
        return self.speakers[speaker]

    def forward(self, codes: Tensor, speaker: Speaker | str, noise: Tensor | None = None) -> Tensor:
        """Codes (n,) -> a 24 kHz wave; `noise` is a DiT's, and has no use here."""
        return self.book.wave(codes[codes < len(self.book.centres)].to(self.book.centres.device))


def pairs_of(wave: Tensor) -> Tensor:
    """A 24 kHz wave (samples,) -> its log-mel, two frames a row: (samples // 480, 2 * bands)."""
    return speech_tokenizer.pairs(mels.mel_spectrogram(wave))


def fit(waves: Sequence[Tensor], size: int, rounds: int = 12, seed: int = 0) -> Codebook:
    """A codebook for the mel pairs of `waves` at 24 kHz. Raises InputError for too little sound."""
    return Codebook(k_means(torch.cat([pairs_of(wave) for wave in waves]), size, rounds, seed))
