"""Speech tokenizer: rebuild the mel of the same words in another voice, and spell them, through 1024 codes.

The weights of the two losses are the ablation: `spelling` 0 leaves a plain autoencoder, `rebuilding` 0 a recogniser,
`other_voice` 0 teaches no timbre to be forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...codec.mel import LOG_FLOOR
from ...codec.speech_tokenizer import FRAMES_PER_CODE, spell
from ...config import preset
from .. import speech_bank
from ..parts import new_tokenizer, save_part
from ..recipe import Batch, Recipe, Settings

SILENCE = torch.tensor(LOG_FLOOR).log().item()


@dataclass(frozen=True)
class SpeechTokenizerSettings(Settings, speech_bank.Supply):
    rebuilding: float = 1.0  # weight of the mel loss
    spelling: float = 0.5  # weight of the CTC loss
    other_voice: float = 0.5  # share of clips to be rebuilt in another voice


CPU = SpeechTokenizerSettings(
    steps=1600, batch_size=12, learning_rate=2e-3, ema=0.999, evaluate_every=500, save_every=100
)


class SpeechTokenizerRecipe(Recipe):
    """Wave -> codes (report, section 2.4; never published)."""

    name: ClassVar[str] = "speech_tokenizer"
    writes: ClassVar[tuple[str, ...]] = ("speech_tokenizer",)
    scales: ClassVar[Mapping[str, Settings]] = {
        "smoke": replace(CPU, steps=4, batch_size=2, shards=1, sentences=4, evaluate_every=0, log_every=1, ema=0.5),
        "cpu": CPU,
        "t4": replace(CPU, steps=2500, batch_size=32, shards=60, growth=0.05, workers=2),
        "gpu": replace(CPU, steps=2500, batch_size=64, shards=200, growth=0.2, workers=3, evaluate_every=1000),
    }
    settings: SpeechTokenizerSettings

    def build(self) -> nn.Module:
        return new_tokenizer(preset(self.settings.preset))

    def batch(self, index: int) -> Batch:
        pairs, rng = speech_bank.drawn(self.settings, self.seed, index)
        heard, wanted, texts = [], [], []
        for choice in rng.choice(len(pairs), self.settings.batch_size, replace=self.settings.batch_size > len(pairs)):
            clip, other = pairs[choice][:: 1 if rng.random() < 0.5 else -1]
            target = other if rng.random() < self.settings.other_voice else clip
            # The same timing, but for a frame at the end that rounding may cut.
            frames = min(len(clip.wave), len(target.wave)) // 480 * FRAMES_PER_CODE
            heard.append(clip.mel[:frames])
            wanted.append(target.mel[:frames])
            texts.append(spell(clip.text))
        return pack(heard, wanted, texts)

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        losses = model(batch["mel"], batch["target"], batch["mask"], batch["texts"])
        return self.settings.rebuilding * losses["mel"] + self.settings.spelling * losses["ctc"], losses

    def evaluate(self, model: Any) -> dict[str, float]:
        """Losses on sentences and speakers never heard, and how many of the codes are in use."""
        pairs = speech_bank.shard("test", 0, self.settings.sentences)[: 8 if self.settings.steps < 100 else 32]
        device = model.squeeze.weight.device
        mels, texts = [clip.mel for clip, _ in pairs], [spell(clip.text) for clip, _ in pairs]
        batch = pack(mels, mels, texts)
        mel, mask = batch["mel"].to(device), batch["mask"].to(device)
        losses = model(mel, mel, mask, texts)
        codes = model.codes(mel)[mask[:, ::FRAMES_PER_CODE]]
        shares = torch.bincount(codes, minlength=model.config.codebook_size) / len(codes)
        perplexity = torch.special.entr(shares).sum().exp()
        return {name: value.item() for name, value in losses.items()} | {"perplexity": perplexity.item()}

    def finish(self, model: Any) -> None:
        save_part(self.parts, "speech_tokenizer", model)


def pack(heard: list[Tensor], wanted: list[Tensor], texts: list[list[int]]) -> Batch:
    """Pad clips to one length of whole codes."""
    mel, mask = speech_bank.pad(heard, SILENCE, FRAMES_PER_CODE)
    target, _ = speech_bank.pad(wanted, SILENCE, FRAMES_PER_CODE)
    return {"mel": mel, "target": target, "mask": mask, "texts": texts, "samples": len(heard)}
