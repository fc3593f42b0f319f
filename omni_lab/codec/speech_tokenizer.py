"""Wave -> codes at 50 a second: the part of the model that was never published (report, section 2.3, names it only).

What the codes must do: keep the words and the melody of speech, be easy for the talker to predict, and leave timbre to
the DiT's speaker conditions. The choice is the oldest one, vector quantisation (Gray 1984; van den Oord et al. 2017):
- Two log-mel frames (20 ms) are one vector; its code is the nearest of the vectors in a codebook. Nothing can collapse,
  and a code is known the moment its 20 ms are over.
- Near is what sounds like the same *phoneme*: distances are measured between linear discriminants (Fisher 1936) of the
  last frames, those directions in which phonemes are farthest apart for how much each varies, with the two frames
  themselves beside them at a small weight. Distances of mel frames alone (`window` of one code) are ruled by loudness
  and pitch, and throw away what tells consonants apart.
- A code is heard among others. So from there, codebook and directions learn on by what a small network reads from a
  whole sentence's codes, phonemes and mel (train/code_reader.py): half as many codes then say more.
- The codebook is fitted to one voice, the source voice. Another's sound is heard *as if that voice had said it*, and
  the DiT learns to say one rendition's codes with another speaker's timbre (`other_voice` in train/recipes/dit.py;
  the nano world can say a sentence twice with the same timing).

What was tried, with figures side by side, also how many phonemes codes keep: `python -m benchmarks.speech_tokenizer`.
A learned encoder with scalar quantisation, trained for an hour to rebuild and to spell, lost more words and was harder
to predict.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import SpeechTokenizerConfig
from ..errors import ConfigError, InputError
from . import mel as mels

FRAMES_PER_CODE = 2  # mel frames of 10 ms
MEL_MEAN, MEL_DEVIATION = -5.7, 2.6  # of log-mel frames of speech
PAIR_WEIGHT = 0.3 / MEL_DEVIATION  # of the two frames beside the discriminants, which vary by 1 within a phoneme
PART = 1_024  # rows whose distances to all centres are held at once: even if a student holds every difference
SILENCE = math.log(mels.LOG_FLOOR)  # what is before the first frame


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The number of the nearest codebook vector: (..., dim), (codes, dim) -> (...), int64.

    |v - e|^2 = |v|^2 - 2 v.e + |e|^2, of which the first term is the same for all e: one matrix product does it.
    """
    return (vectors @ codebook.T - codebook.square().sum(-1) / 2).argmax(-1)


def k_means(rows: Tensor, size: int, rounds: int = 12, seed: int = 0) -> Tensor:
    """Lloyd's method (1982) from rows drawn at random: (n, dim) -> (size, dim). Raises InputError for too few rows."""
    if len(rows) < size:
        raise InputError(f"codebook: {len(rows)} pairs of frames cannot make {size} codes")
    generator = torch.Generator().manual_seed(seed)
    return moved(rows[torch.randperm(len(rows), generator=generator)[:size]], rows, rounds)


def moved(centres: Tensor, rows: Tensor, rounds: int) -> Tensor:
    """Centres (codes, dim), each moved so many times to the middle of those rows (n, dim) that it is nearest to."""
    for _ in range(rounds):
        owner = torch.cat([nearest(part, centres) for part in rows.split(PART)])
        count = torch.bincount(owner, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, owner, rows)
        # A centre that nobody is nearest to stays where it is.
        centres = torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], centres)
    return centres


def pairs(mel: Tensor) -> Tensor:
    """Every two frames as one vector: (..., frames, mel_dim) -> (..., frames // 2, 2 * mel_dim); an odd one is cut."""
    codes = mel.shape[-2] // FRAMES_PER_CODE
    return mel[..., : codes * FRAMES_PER_CODE, :].unflatten(-2, (codes, FRAMES_PER_CODE)).flatten(-2)


def windows(mel: Tensor, frames: int) -> Tensor:
    """The last `frames` frames when each code is over: (..., n, mel_dim) -> (..., n // 2, frames * mel_dim).

    Before the first frame there was silence; an odd last frame is cut."""
    whole = mel.shape[-2] // FRAMES_PER_CODE * FRAMES_PER_CODE
    before = mel.new_full((*mel.shape[:-2], frames - FRAMES_PER_CODE, mel.shape[-1]), SILENCE)
    padded = torch.cat([before, mel[..., :whole, :]], dim=-2)
    if not whole:
        return mel.new_zeros(*mel.shape[:-2], 0, frames * mel.shape[-1])
    return padded.unfold(-2, frames, FRAMES_PER_CODE).transpose(-1, -2).flatten(-2)


class SpeechTokenizer(nn.Module):
    """A codebook over pairs of mel frames, fitted by `forward`'s loss."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        if config.codebook_size < 1:
            raise ConfigError(f"codebook_size is {config.codebook_size}, expected at least 1")
        if config.window < FRAMES_PER_CODE:
            raise ConfigError(f"speech tokenizer: window is {config.window}, expected at least {FRAMES_PER_CODE}")
        self.config = config
        # Empty and then filled: a model that is made to be loaded allocates nothing, and with nothing torch would load
        # its compiler to do sums.
        entries = nn.init.normal_(torch.empty(config.codebook_size, FRAMES_PER_CODE * config.mel_dim))
        if not entries.is_meta:
            entries.mul_(MEL_DEVIATION).add_(MEL_MEAN)  # natural-log mel, as what it stands for
        self.codebook = nn.Parameter(entries)
        self.discriminants: nn.Linear | None = None
        if config.window > FRAMES_PER_CODE:
            # Found by counting (train/discriminants.py), and frozen but where its recipe has them learn on.
            self.discriminants = nn.Linear(config.window * config.mel_dim, config.discriminants).requires_grad_(False)
            centres = torch.empty(config.codebook_size, config.discriminants)
            self.centres = nn.Parameter(nn.init.normal_(centres))

    def codes(self, mel: Tensor) -> Tensor:
        """Natural-log mel (..., frames, mel_dim) -> codes (..., frames // 2), int64."""
        return nearest(self.vectors(mel), self.entries())

    def vectors(self, mel: Tensor) -> Tensor:
        """What codes are chosen by: natural-log mel (..., frames, mel_dim) -> (..., frames // 2, dim)."""
        if self.discriminants is None:
            return pairs(mel)
        return torch.cat([self.discriminants(windows(mel, self.config.window)), PAIR_WEIGHT * pairs(mel)], dim=-1)

    def entries(self) -> Tensor:
        """Where each code lies among `vectors`: (codes, dim)."""
        if self.discriminants is None:
            return self.codebook
        return torch.cat([self.centres, PAIR_WEIGHT * self.codebook], dim=-1)

    @torch.no_grad()
    def place(self, entries: Tensor) -> None:
        """Put the codes where `entries` (codes, dim) says that they lie among `vectors`."""
        centres, moments = entries.split([entries.shape[1] - self.codebook.shape[1], self.codebook.shape[1]], dim=1)
        self.codebook.copy_(moments if self.discriminants is None else moments / PAIR_WEIGHT)
        if self.discriminants is not None:
            self.centres.copy_(centres)

    def mel(self, codes: Tensor) -> Tensor:
        """What codes stand for, each for itself: (..., n) -> natural-log mel (..., 2 * n, mel_dim).

        Raises InputError for a code that the book lacks."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(self.codebook):
            raise InputError(f"speech tokenizer: codes must lie in 0 to {len(self.codebook) - 1}")
        return self.codebook[codes].unflatten(-1, (FRAMES_PER_CODE, -1)).flatten(-3, -2)

    @torch.no_grad()
    def encode(self, wave: Any) -> Tensor:
        """A 24 kHz wave in [-1, 1] -> its codes at exactly 50 a second: (samples,) -> (samples // 480,), int64.

        wave: a tensor, or what becomes one. A batch (batch, samples) of one length works too. Raises InputError for
        less than one code's worth of samples, for samples that are no finite numbers, and for a wave of another shape.
        """
        hop = FRAMES_PER_CODE * mels.HOP
        try:
            wave = wave if torch.is_tensor(wave) else torch.as_tensor(np.array(wave))  # a copy: it may be read-only
        except (TypeError, ValueError, RuntimeError) as error:
            given = type(wave).__name__
            raise InputError(f"speech tokenizer: wave is a {given}, expected samples at 24 kHz ({error})") from None
        if wave.ndim not in (1, 2):
            raise InputError(f"speech tokenizer: wave is {tuple(wave.shape)}, expected (samples,) at 24 kHz")
        if wave.shape[-1] < hop:
            raise InputError(f"speech tokenizer: got {wave.shape[-1]} samples, expected at least {hop} (one code)")
        mel = mels.mel_spectrogram(wave.to(self.codebook.device), self.config.mel_dim).to(self.codebook.dtype)
        return self.codes(mel)

    def forward(self, mel: Tensor, mask: Tensor) -> Tensor:
        """The codebook's loss, mean squared distance of the real vectors to their nearest entry, in nats^2: a scalar.

        mel: (batch, frames, mel_dim) with an even number of frames; mask: (batch, frames) bool, False for padding.
        Its gradient pulls each entry to the middle of the vectors nearest to it: k-means, a batch at a time.
        With discriminants their mean squared distance, which has no unit, is added.
        """
        real = mask[:, ::FRAMES_PER_CODE]  # (batch, codes)
        vectors, moments = self.vectors(mel)[real], pairs(mel)[real]
        return self.distance(vectors, moments, nearest(vectors, self.entries().detach()))

    def distance(self, vectors: Tensor, moments: Tensor, chosen: Tensor) -> Tensor:
        """`forward`'s loss of `vectors` (n, dim) and the `pairs` (n, 2 * mel_dim) that they are of, whose entries are
        `chosen` (n,): a scalar."""
        loss = (self.codebook[chosen] - moments).square().mean()
        if self.discriminants is not None:
            loss = loss + (self.centres[chosen] - vectors[:, : self.config.discriminants]).square().mean()
        return loss
