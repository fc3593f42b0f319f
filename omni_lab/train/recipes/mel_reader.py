"""Mel reader: which phoneme each frame of the source voice says, for the DiT to be taught by (train/mel_reader.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...data.splits import generator
from .. import speech_bank
from ..mel_reader import MelReader, unread
from ..parts import save_part
from ..recipe import Batch, Recipe, Settings


@dataclass(frozen=True)
class MelReaderSettings(Settings, speech_bank.Supply):
    frames: int = 240  # of a crop
    roughness: float = 1.0  # largest deviation of the noise on the mel, in nats: what it will read is not yet clean


CPU = MelReaderSettings(
    steps=800,
    batch_size=16,
    learning_rate=2e-3,
    ema=0.99,
    dtype="float32",
    shards=32,
    sentences=speech_bank.SOLO,
    evaluate_every=400,
    save_every=200,
)


class MelReaderRecipe(Recipe):
    """Mel -> phonemes."""

    name: ClassVar[str] = "mel_reader"
    writes: ClassVar[tuple[str, ...]] = ("mel_reader",)
    scales: ClassVar[Mapping[str, Settings]] = {
        "smoke": replace(CPU, steps=3, batch_size=2, shards=1, sentences=4, evaluate_every=0, log_every=1, ema=0.5),
        "cpu": CPU,
        "t4": replace(CPU, batch_size=32, workers=2),
        "gpu": replace(CPU, batch_size=64, workers=3),
    }
    least = speech_bank.LEAST
    settings: MelReaderSettings

    def build(self) -> nn.Module:
        return MelReader()

    def batch(self, index: int) -> Batch:
        rng = generator("mel reader batch", "train", self.seed, index)
        number = int(rng.integers(min(self.settings.shards, 2 + int(index * self.settings.growth))))
        clips = speech_bank.solo("train", number, self.settings.sentences)
        chosen = [clips[i] for i in rng.integers(len(clips), size=self.settings.batch_size)]
        return packed(chosen, self.settings.frames, rng) | {"samples": len(chosen)}

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        mel = batch["mel"]
        rough = self.settings.roughness * torch.rand(len(mel), 1, 1).to(mel)
        return unread(model(mel + rough * torch.randn(mel.shape).to(mel)), batch["phonemes"]), {}

    def evaluate(self, model: Any) -> dict[str, float]:
        """What is read from sentences never heard, without noise: share of phonemes, and nats."""
        clips = speech_bank.solo("test", 0, self.settings.sentences)[: 8 if self.settings.steps < 100 else 64]
        batch = packed(clips, self.settings.frames, generator("mel reader evaluation", "test", 0, 0))
        weight = model.phonemes.weight
        labels = batch["phonemes"].to(weight.device)
        logits = model(batch["mel"].to(weight))
        known = labels != speech_bank.IGNORED
        right = (logits.argmax(-1) == labels)[known].float().mean()
        return {"phonemes": right.item(), "phonemes, nats": unread(logits, labels).item()}

    def finish(self, model: Any) -> None:
        save_part(self.parts, "mel_reader", model)


def packed(clips: Sequence[speech_bank.Clip], frames: int, rng: np.random.Generator) -> Batch:
    """A crop of each clip: mel (batch, frames, 80) and its phonemes (batch, frames), IGNORED behind the clip's end."""
    mels, signs = [], []
    for clip in clips:
        start = int(rng.integers(max(1, len(clip.mel) - frames + 1)))
        mels.append(clip.mel[start : start + frames])
        signs.append(speech_bank.labels(clip)[start : start + frames])
    return {"mel": speech_bank.pad(mels)[0], "phonemes": speech_bank.pad(signs, speech_bank.IGNORED)[0]}
