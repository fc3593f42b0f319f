"""Speech tokenizer: a codebook of mel pairs, fitted a batch at a time from entries that are real moments of speech.

What distances are measured by is counted before: discriminants of the phonemes that the source voice says, of which its
network tells when each is heard (`speech.timed`).

Notable: Adam divides each gradient by its usual size, so an entry that few vectors are nearest to moves as fast as one
with many; and an entry that nobody is nearest to cannot arise from a start at real moments while the rate stays small.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...codec.mel import LOG_FLOOR
from ...codec.speech_tokenizer import FRAMES_PER_CODE, pairs, windows
from ...config import preset
from ...data.splits import generator
from .. import discriminants, speech_bank
from ..parts import new_tokenizer, save_part
from ..recipe import Batch, Recipe, Settings

SILENCE = torch.tensor(LOG_FLOOR).log().item()
ALIGNED = 2  # shards of the bank whose phonemes the discriminants are found by
BEHIND = 1  # codes that a phoneme was heard before: what follows a sound tells it apart, too


@dataclass(frozen=True)
class SpeechTokenizerSettings(Settings, speech_bank.Supply):
    everybody: bool = False  # fit to all the bank's speakers, in place of the source voice


CPU = SpeechTokenizerSettings(
    steps=600,
    batch_size=64,
    learning_rate=2e-2,
    betas=(0.9, 0.99),
    weight_decay=0.0,
    ema=0.98,
    shards=8,
    sentences=speech_bank.SOLO,
    evaluate_every=200,
    save_every=100,
)


class SpeechTokenizerRecipe(Recipe):
    """Wave -> codes (report, section 2.3; never published)."""

    name: ClassVar[str] = "speech_tokenizer"
    writes: ClassVar[tuple[str, ...]] = ("speech_tokenizer",)
    scales: ClassVar[Mapping[str, Settings]] = {
        "smoke": replace(CPU, steps=4, batch_size=2, shards=1, sentences=4, evaluate_every=0, log_every=1, ema=0.5),
        "cpu": CPU,
        "t4": replace(CPU, batch_size=128, workers=2),
        "gpu": replace(CPU, batch_size=256, shards=24, workers=3),
    }
    settings: SpeechTokenizerSettings

    def build(self) -> nn.Module:
        """A tokenizer whose discriminants are those of phonemes, and whose entries are moments drawn at random."""
        model = new_tokenizer(preset(self.settings.preset))
        if model.discriminants is not None:
            self.find_discriminants(model)
        mels = self.mels("train", 0)
        moments = torch.cat([pairs(mel) for mel in mels])
        vectors = torch.cat([model.vectors(mel) for mel in mels])
        generator = torch.Generator().manual_seed(self.seed)
        size = len(model.codebook)
        # Too little sound (a smoke test) repeats its moments, and a little noise keeps them apart.
        chosen = torch.cat([torch.randperm(len(moments), generator=generator) for _ in range(-(-size // len(moments)))])
        start = moments[chosen[:size]]
        with torch.no_grad():
            model.codebook.copy_(start + 0.05 * torch.randn(start.shape, generator=generator))
            if model.discriminants is not None:
                model.centres.copy_(vectors[chosen[:size], : model.config.discriminants])
        return model

    def find_discriminants(self, model: Any) -> None:
        """Tell by the source voice's last frames which phoneme was heard at the end of the code before."""
        rows, labels = [], []
        for number in range(min(ALIGNED, self.settings.shards)):
            for clip in speech_bank.solo("train", number, self.settings.sentences):
                phonemes = torch.from_numpy(clip.phonemes[1::FRAMES_PER_CODE].astype(np.int64))
                rows.append(windows(clip.mel, model.config.window)[BEHIND:])
                labels.append(phonemes[: len(rows[-1])])
        discriminants.fit(model.discriminants, torch.cat(rows), torch.cat(labels))

    def mels(self, split: str, number: int) -> list[Tensor]:
        """The mels of a shard of the bank: of the source voice, or of everybody."""
        if not self.settings.everybody:
            return [clip.mel for clip in speech_bank.solo(split, number, self.settings.sentences)]
        return [clip.mel for pair in speech_bank.shard(split, number, self.settings.sentences) for clip in pair]

    def batch(self, index: int) -> Batch:
        rng = generator("tokenizer batch", "train", self.seed, index)
        number = int(rng.integers(min(self.settings.shards, 2 + int(index * self.settings.growth))))
        mels = self.mels("train", number)
        mel, mask = pack([mels[i] for i in rng.integers(len(mels), size=self.settings.batch_size)])
        return {"mel": mel, "mask": mask, "samples": len(mel)}

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        return model(batch["mel"], batch["mask"]), {}

    def evaluate(self, model: Any) -> dict[str, float]:
        """Mel error in nats, and how many codes are in use in effect, on sentences never heard."""
        mel, mask = pack(self.mels("test", 0)[: 8 if self.settings.steps < 100 else 64])
        mel, mask = mel.to(model.codebook.device), mask.to(model.codebook.device)
        codes = model.codes(mel)
        error = (model.mel(codes) - mel).abs().mean(-1)[mask].mean()
        used = codes[mask[:, ::FRAMES_PER_CODE]]
        shares = torch.bincount(used, minlength=len(model.codebook)) / len(used)
        return {"mel": error.item(), "perplexity": torch.special.entr(shares).sum().exp().item()}

    def finish(self, model: Any) -> None:
        # As the checkpoint keeps it: what learns from these codes is to learn from those that will be heard.
        save_part(self.parts, "speech_tokenizer", model.bfloat16().float())


def pack(mels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips padded to one length of whole codes, and where they are."""
    return speech_bank.pad(mels, SILENCE, FRAMES_PER_CODE)
