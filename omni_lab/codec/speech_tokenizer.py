"""Wave -> codes at 50 a second: the part of the model that was never published (report, section 2.4, names it only).

What the codes must do: keep the words and the melody of speech, leave the timbre to the DiT's speaker conditions, and
be easy for the talker to predict. The choices (train/recipes/speech_tokenizer.py has the ablation of each):
- Two mel frames (20 ms) become one vector by a strided convolution; ConvNeXt blocks (Liu et al. 2022) then look about
  0.3 s to either side. Plain k-means over pairs of frames, the baseline, looks at 20 ms alone and so must spend its
  codes on the phase of a pitch period as much as on the sound.
- Finite scalar quantisation (Mentzer et al. 2024): each of five numbers is rounded to one of four levels, 4^5 = 1024
  codes. No codebook is learnt, so none can collapse, and neighbouring codes sound alike: the talker's slips stay small.
- The decoder that teaches the codes is given the mean and deviation of the utterance's mel, and is asked for the *same
  words in another voice* half the time (the nano world can say a sentence twice with the same timing). What the codes
  need not carry, they forget.
- A CTC head on the codes must spell the sentence (Graves et al. 2006): what can be read can be predicted from text.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import SpeechTokenizerConfig
from ..errors import ConfigError, InputError
from . import mel as mels

FRAMES_PER_CODE = 2  # mel frames of 10 ms
LETTERS = "abcdefghijklmnopqrstuvwxyz' "  # what CTC spells, as ids 1 to 28; 0 is its blank
MEL_MEAN, MEL_DEVIATION = -5.7, 2.6  # of log-mel frames of speech: only a scale, nothing depends on the exact values


def levels(codebook_size: int) -> tuple[int, ...]:
    """Levels of each scalar: fours, and one eight if the size is an odd power of two. 1024 -> (4, 4, 4, 4, 4).

    Raises ConfigError for a size that is no power of two of at least 4.
    """
    bits = codebook_size.bit_length() - 1
    if codebook_size < 4 or codebook_size != 1 << bits:
        raise ConfigError(f"codebook_size is {codebook_size}, expected a power of two from 4 on")
    return (8,) * (bits % 2) + (4,) * ((bits - 3 * (bits % 2)) // 2)


def quantise(vectors: Tensor, per_scalar: tuple[int, ...]) -> Tensor:
    """Round each scalar to one of its levels in [-1, 1]: (..., scalars) -> the same, with the gradient of no rounding.

    An even number of levels lies symmetric about zero: 4 -> -1, -1/3, 1/3, 1 (Mentzer et al. 2024, section 3.1).
    """
    steps = torch.tensor(per_scalar, device=vectors.device, dtype=vectors.dtype) - 1
    scaled = (torch.tanh(vectors) + 1) / 2 * steps  # in (0, levels - 1)
    rounded = scaled + (scaled.round() - scaled).detach()  # straight through
    return rounded / steps * 2 - 1


def code_of(quantised: Tensor, per_scalar: tuple[int, ...]) -> Tensor:
    """Scalars on their levels (..., scalars) -> one number each (...), int64: digits of a mixed-radix number."""
    code = torch.zeros(quantised.shape[:-1], dtype=torch.int64, device=quantised.device)
    for place, count in enumerate(per_scalar):
        digit = ((quantised[..., place] + 1) / 2 * (count - 1)).round().long()
        code = code * count + digit
    return code


def scalars_of(codes: Tensor, per_scalar: tuple[int, ...]) -> Tensor:
    """The inverse of `code_of`: (...) int64 -> (..., scalars) float32 in [-1, 1]."""
    digits = []
    for count in reversed(per_scalar):
        digits.append((codes % count).float() / (count - 1) * 2 - 1)
        codes = codes // count
    return torch.stack(digits[::-1], dim=-1)


def spell(text: str) -> list[int]:
    """CTC targets of a sentence: its letters, apostrophes and single spaces, as ids from 1 on."""
    kept = "".join(c if c in LETTERS else " " for c in text.lower())
    return [LETTERS.index(c) + 1 for c in " ".join(kept.split())]


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then two pointwise layers: (batch, length, dim) -> the same, residual."""

    def __init__(self, dim: int, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 3 * dim)
        self.down = nn.Linear(3 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.down(F.gelu(self.up(self.norm(y))))


class SpeechTokenizer(nn.Module):
    """Mel encoder, scalar quantiser, and the two teachers that only training needs: mel decoder and speller."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        dim, self.config = config.hidden_size, config
        self.levels = levels(config.codebook_size)
        self.stem = nn.Conv1d(config.mel_dim, dim, 2 * FRAMES_PER_CODE, stride=FRAMES_PER_CODE, padding=1)
        self.encoder = nn.ModuleList([ConvNeXtBlock(dim) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(dim)
        self.squeeze = nn.Linear(dim, len(self.levels))
        # Wide enough from the start that all levels are in use, not only the two in the middle.
        nn.init.normal_(self.squeeze.weight, std=1.5 * dim**-0.5)
        self.expand = nn.Linear(len(self.levels), dim)
        self.voice = nn.Linear(2 * config.mel_dim, dim)
        self.decoder = nn.ModuleList([ConvNeXtBlock(dim) for _ in range(2)])
        self.mel_head = nn.Linear(dim, FRAMES_PER_CODE * config.mel_dim)
        self.speller = nn.ModuleList([ConvNeXtBlock(dim) for _ in range(2)])
        self.letter_head = nn.Linear(dim, len(LETTERS) + 1)

    def scalars(self, mel: Tensor) -> Tensor:
        """Before rounding: natural-log mel (batch, frames, mel_dim) -> (batch, frames // 2, scalars)."""
        x = (mel - MEL_MEAN) / MEL_DEVIATION
        x = self.stem(x.transpose(1, 2)).transpose(1, 2)  # (batch, frames // 2, dim)
        for block in self.encoder:
            x = block(x)
        return self.squeeze(self.norm(x))

    def codes(self, mel: Tensor) -> Tensor:
        """Natural-log mel (batch, frames, mel_dim) -> codes (batch, frames // 2), int64."""
        return code_of(quantise(self.scalars(mel), self.levels), self.levels)

    @torch.no_grad()
    def encode(self, wave: Tensor) -> Tensor:
        """A 24 kHz wave in [-1, 1] -> its codes at exactly 50 a second: (samples,) -> (samples // 480,), int64.

        A batch (batch, samples) of one length works too. Raises InputError for less than one code's worth of samples,
        for samples that are no finite numbers, and for a wave of another shape.
        """
        hop = FRAMES_PER_CODE * mels.HOP
        if wave.ndim not in (1, 2):
            raise InputError(f"speech tokenizer: wave is {tuple(wave.shape)}, expected (samples,) at 24 kHz")
        if wave.shape[-1] < hop:
            raise InputError(f"speech tokenizer: got {wave.shape[-1]} samples, expected at least {hop} (one code)")
        parameter = self.squeeze.weight
        mel = mels.mel_spectrogram(wave.to(parameter.device), self.config.mel_dim).to(parameter.dtype)
        codes = self.codes(mel if wave.ndim == 2 else mel[None])[..., : wave.shape[-1] // hop]
        return codes if wave.ndim == 2 else codes[0]

    def reconstruct(self, quantised: Tensor, voice: Tensor) -> Tensor:
        """The mel that the codes and a voice stand for: (batch, codes, scalars) -> (batch, 2 * codes, mel_dim).

        voice: (batch, 2 * mel_dim), from `voice_statistics`.
        """
        x = self.expand(quantised) + self.voice(voice)[:, None]
        for block in self.decoder:
            x = block(x)
        frames = self.mel_head(x).unflatten(-1, (FRAMES_PER_CODE, -1)).flatten(1, 2)  # two frames of each code
        return frames * MEL_DEVIATION + MEL_MEAN

    def letters(self, quantised: Tensor) -> Tensor:
        """Log-probabilities of letters and blank at each code: (batch, codes, scalars) -> (batch, codes, 29)."""
        x = self.expand(quantised)
        for block in self.speller:
            x = block(x)
        return self.letter_head(x).float().log_softmax(-1)

    def forward(self, mel: Tensor, target: Tensor, mask: Tensor, texts: list[list[int]]) -> dict[str, Tensor]:
        """Training losses of a batch, each a scalar: "mel" (mean absolute error in nats) and "ctc" (nats a code).

        mel: (batch, frames, mel_dim) with an even number of frames; target: the same words at the same times, perhaps
        in another voice; mask: (batch, frames) bool, False for padding; texts: targets from `spell`.
        """
        quantised = quantise(self.scalars(mel), self.levels)
        rebuilt = self.reconstruct(quantised, voice_statistics(target, mask))
        error = ((rebuilt - target).abs().mean(-1) * mask).sum() / mask.sum()
        lengths = mask.sum(1) // FRAMES_PER_CODE
        flat = torch.tensor([letter for text in texts for letter in text], device=mel.device)
        spelled = self.letters(quantised).transpose(0, 1)  # (codes, batch, letters), as ctc_loss wants it
        counts = torch.tensor([len(text) for text in texts], device=mel.device)
        ctc = F.ctc_loss(spelled, flat, lengths, counts, reduction="sum", zero_infinity=True) / lengths.sum()
        return {"mel": error, "ctc": ctc}


def voice_statistics(mel: Tensor, mask: Tensor) -> Tensor:
    """Scaled mean and deviation of each band over the real frames: (batch, frames, mel_dim) -> (batch, 2 * mel_dim)."""
    mel = (mel - MEL_MEAN) / MEL_DEVIATION
    weights = (mask / mask.sum(1, keepdim=True))[..., None]  # (batch, frames, 1)
    mean = (mel * weights).sum(1)
    variance = ((mel - mean[:, None]).square() * weights).sum(1)
    return torch.cat((mean, (variance + 1e-5).sqrt()), dim=-1)
