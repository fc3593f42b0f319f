"""Lab 03's recogniser: a published encoder under any attention block, and two ways to read its vectors as text.

`WhisperReader` hands our encoder's frames to Whisper's own decoder, untouched: what does it make of encoders that
attend in blocks? `Speller` is the smallest adapter that can be trained: vectors at 40 ms -> letters, by CTC (Graves
et al. 2006).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import jiwer
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from ..encoders.audio import AudioEncoder, pair_average
from ..errors import InputError
from ..processing import audio
from ..train.optimise import AdamW

RATE = 16_000  # Hz
LETTERS = "_ abcdefghijklmnopqrstuvwxyz'"  # CTC's blank first


def log_mel(wave: np.ndarray, mels: int = 80, seconds: float | None = None) -> Tensor:
    """Whisper's log-mel of a wave (samples,) at 16 kHz: (mels, frames of 10 ms); `seconds`: padded with silence."""
    width = None if seconds is None else int(100 * seconds)
    return audio.log_mel([wave], extractor(mels), width)[0][0]


@cache
def extractor(mels: int) -> WhisperFeatureExtractor:
    """The reference's feature extractor, kept: it computes its filters once."""
    return WhisperFeatureExtractor(feature_size=mels)


@torch.no_grad()
def hear(encoder: AudioEncoder, wave: np.ndarray, seconds: float | None = None) -> Tensor:
    """The encoder's frames of one wave at 20 ms, before pooling and projection: (frames, d_model)."""
    mel = log_mel(wave, encoder.config.num_mel_bins, seconds).to(encoder.proj.weight.device)
    return encoder.ln_post(encoder.frames(mel[None], [mel.shape[1]])[0])


def set_block(encoder: AudioEncoder, seconds: float) -> AudioEncoder:
    """The same encoder with attention blocks of `seconds` (30: the whole of Whisper's input)."""
    encoder.config = replace(encoder.config, n_window=round(50 * seconds))
    return encoder


class WhisperReader:
    """Whisper's decoder, run by CTranslate2: frames (1500, d_model) of 30 s -> text."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        import ctranslate2
        from tokenizers import Tokenizer

        self.model = ctranslate2.models.Whisper(str(folder), intra_threads=threads, compute_type="float32")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        names = ("<|startoftranscript|>", "<|notimestamps|>")
        self.prompt = [self.tokenizer.token_to_id(name) for name in names]

    def read(self, frames: Tensor, longest: int = 40) -> str:
        """The likeliest next token, again and again, at most `longest`."""
        import ctranslate2

        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(frames[None].cpu().numpy()))
        found = self.model.generate(view, [self.prompt], beam_size=1, max_length=longest)
        return self.tokenizer.decode(found[0].sequences_ids[0]).strip()


class Speller(nn.Module):
    """Vectors at 40 ms -> log-probabilities of letters: (batch, length, dim) -> (batch, length, letters)."""

    def __init__(self, dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.near = nn.Conv1d(dim, hidden, kernel_size=5, padding=2)
        self.out = nn.Linear(hidden, len(LETTERS))

    def forward(self, x: Tensor) -> Tensor:
        near = F.gelu(self.near(F.dropout(x, 0.2, self.training).transpose(1, 2)))  # (batch, hidden, length)
        return self.out(F.dropout(near.transpose(1, 2), 0.2, self.training)).log_softmax(-1)


def spell(text: str) -> list[int]:
    """Text as ids of LETTERS; what is no letter falls away."""
    kept = " ".join("".join(c if c in LETTERS[1:] else " " for c in text.lower()).split())
    return [LETTERS.index(c) for c in kept]


def read_letters(log_p: Tensor) -> str:
    """The best letter of each 40 ms, repeats merged and blanks dropped: (length, letters) -> text."""
    best = torch.unique_consecutive(log_p.argmax(-1))
    return "".join(LETTERS[i] for i in best.tolist() if i)


def letter_error_rate(references: Sequence[str], heard: Sequence[str]) -> float:
    """Letters to change, add or drop, over the letters of the references; case and punctuation do not count."""
    said, found = (["".join(LETTERS[i] for i in spell(text)) for text in texts] for texts in (references, heard))
    return float(jiwer.cer(said, found))


def tokens_of(encoder: AudioEncoder, waves: Sequence[np.ndarray]) -> list[Tensor]:
    """Each wave's vectors at 40 ms: (tokens, d_model)."""
    return [pair_average(hear(encoder, wave)) for wave in waves]


def train_speller(
    tokens: Sequence[Tensor], texts: Sequence[str], steps: int, seed: int = 0, batch: int = 16, lr: float = 2e-3
) -> tuple[Speller, list[float]]:
    """Fit a Speller, where the vectors lie, to them and their texts; returns it and the loss (nats a letter) a step.

    Raises InputError when there is nothing to learn from."""
    pairs = [(x, torch.tensor(spell(t))) for x, t in zip(tokens, texts, strict=True) if len(x) >= len(spell(t)) > 0]
    if not pairs:
        raise InputError("no recording is long enough for its text")
    torch.manual_seed(seed)
    speller = Speller(pairs[0][0].shape[1]).to(pairs[0][0].device).train()
    optimiser = AdamW(speller.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    rng, losses = np.random.default_rng(seed), []
    for _ in range(steps):
        chosen = [pairs[i] for i in rng.choice(len(pairs), min(batch, len(pairs)), replace=False)]
        x = nn.utils.rnn.pad_sequence([x for x, _ in chosen], batch_first=True)
        log_p = speller(x).transpose(0, 1)  # (length, batch, letters), as CTC wants it
        lengths = torch.tensor([len(x) for x, _ in chosen], device=x.device)
        letters = torch.tensor([len(t) for _, t in chosen], device=x.device)
        targets = torch.cat([t for _, t in chosen]).to(x.device)
        loss = F.ctc_loss(log_p, targets, lengths, letters, zero_infinity=True, reduction="sum") / letters.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return speller.eval(), losses
