"""Speech tokenizer: a codebook, and the distances by which its entries are chosen, that learn from how codes are read.

It starts as k-means of moments of the source voice. What distances are measured by is counted first: discriminants of
the phonemes that this voice says, of which its network tells when each is heard (`speech.timed`). From there both learn
on, through a network that reads phonemes and mel from a sentence's codes (train/code_reader.py), and entries are drawn
to the middle of what is nearest to them all along.

Notable: Adam divides each gradient by its usual size, so an entry that few vectors are nearest to moves as fast as one
with many; and an entry that nobody is nearest to cannot arise from a start at real moments while the rate stays small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...codec.mel import LOG_FLOOR
from ...codec.speech_tokenizer import FRAMES_PER_CODE, moved, pairs, windows
from ...config import preset
from ...data import speech
from ...data.splits import generator
from .. import code_reader, discriminants, speech_bank
from ..loader import to_device
from ..optimise import decay_groups
from ..parts import need_part, new_tokenizer, save_part
from ..recipe import Batch, Recipe, Settings

SILENCE = torch.tensor(LOG_FLOOR).log().item()
ALIGNED = 2  # shards of the bank whose phonemes the discriminants are found by
BEHIND = 1  # codes that a phoneme was heard before: what follows a sound tells it apart, too
SLOWER = 0.05  # share of the learning rate with which the discriminants learn: they were found already
FASTER = 10.0  # times the learning rate for entries, which must get over distances of several units


@dataclass(frozen=True)
class SpeechTokenizerSettings(Settings, speech_bank.Supply):
    rounds: int = 15  # of k-means, from where the entries learn on
    temperature: float = 3.0  # half the squared distance within which an entry has a part in the gradient of a choice
    mel: float = 0.3  # weight of the mel that is read, in nats, beside the phonemes
    near: float = 0.04  # weight of the tokenizer's own loss: entries are to stay what they stand for
    start: str = ""  # folder with a `speech_tokenizer` whose codes learn on, with a schedule of their own; "": k-means


CPU = SpeechTokenizerSettings(
    steps=1500,
    batch_size=16,
    learning_rate=2e-3,
    ema=0.99,
    dtype="float32",
    shards=32,
    sentences=speech_bank.SOLO,
    evaluate_every=500,
    save_every=100,
)


class SpeechTokenizerRecipe(Recipe):
    """Wave -> codes (report, section 2.3; never published)."""

    name: ClassVar[str] = "speech_tokenizer"
    writes: ClassVar[tuple[str, ...]] = ("speech_tokenizer",)
    scales: ClassVar[Mapping[str, Settings]] = {
        "smoke": replace(
            CPU, steps=4, batch_size=2, shards=1, sentences=4, rounds=1, evaluate_every=0, log_every=1, ema=0.5
        ),
        "cpu": CPU,
        "t4": replace(CPU, batch_size=32, workers=2),
        "gpu": replace(CPU, batch_size=64, workers=3),
    }
    least = speech_bank.LEAST
    settings: SpeechTokenizerSettings

    def build(self) -> nn.Module:
        """A tokenizer whose discriminants are those of phonemes and whose entries are k-means, and who reads it."""
        model = new_tokenizer(preset(self.settings.preset))
        if self.settings.start:
            need_part(Path(self.settings.start), "speech_tokenizer", model, self.name)
        else:
            self.begin(model)
        if model.discriminants is not None:
            model.discriminants.requires_grad_(True)
        reader = code_reader.CodeReader(len(model.codebook), len(speech.PHONEMES) + 1, model.config.mel_dim)
        return nn.ModuleDict({"tokenizer": model, "reader": reader})

    def begin(self, model: Any) -> None:
        """Discriminants of phonemes, and k-means between them for entries."""
        if model.discriminants is not None:
            self.find_discriminants(model)
        heard = (self.clips("train", number) for number in range(min(ALIGNED, self.settings.shards)))
        mels = [clip.mel for clips in heard for clip in clips]
        moments = torch.cat([pairs(mel) for mel in mels])
        with torch.no_grad():
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
            model.place(moved(model.entries(), vectors, self.settings.rounds))

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        tokenizer, rate = model["tokenizer"], self.settings.learning_rate
        found = [p for name, p in tokenizer.named_parameters() if name.startswith("discriminants.")]
        entries = [p for name, p in tokenizer.named_parameters() if not name.startswith("discriminants.")]
        rates = ((found, SLOWER * rate), (entries, FASTER * rate))
        groups = [{"params": some, "weight_decay": 0.0, "lr": at} for some, at in rates if some]
        return {"main": decay_groups(model["reader"].named_parameters(), self.settings) + groups}

    def find_discriminants(self, model: Any) -> None:
        """Tell by the source voice's last frames which phoneme was heard at the end of the code before."""
        rows, labels = [], []
        for number in range(min(ALIGNED, self.settings.shards)):
            for clip in self.clips("train", number):
                phonemes = torch.from_numpy(clip.phonemes[1::FRAMES_PER_CODE].astype(np.int64))
                rows.append(windows(clip.mel, model.config.window)[BEHIND:])
                labels.append(phonemes[: len(rows[-1])])
        discriminants.fit(model.discriminants, torch.cat(rows), torch.cat(labels))

    def clips(self, split: str, number: int) -> tuple[speech_bank.Clip, ...]:
        """A shard of the source voice."""
        return speech_bank.solo(split, number, self.settings.sentences)

    def batch(self, index: int) -> Batch:
        rng = generator("tokenizer batch", "train", self.seed, index)
        number = int(rng.integers(min(self.settings.shards, 2 + int(index * self.settings.growth))))
        clips = self.clips("train", number)
        return packed([clips[i] for i in rng.integers(len(clips), size=self.settings.batch_size)])

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        tokenizer, real = model["tokenizer"], batch["mask"][:, ::FRAMES_PER_CODE]  # (batch, codes)
        vectors, moments = tokenizer.vectors(batch["mel"])[real], pairs(batch["mel"])[real]  # (real codes, dim)
        weights = code_reader.chosen(vectors, tokenizer.entries(), self.settings.temperature)
        rows = weights.new_zeros(*real.shape, weights.shape[-1]).masked_scatter(real[..., None], weights)
        logits, mel = model["reader"](rows)
        spoken = F.cross_entropy(logits.flatten(0, 2), batch["phonemes"].flatten(), ignore_index=speech_bank.IGNORED)
        heard = (mel[real] - moments).abs().mean()
        near = tokenizer.distance(vectors, moments, weights.argmax(-1))
        loss = spoken + self.settings.mel * heard + self.settings.near * near
        return loss, {"phonemes": spoken, "mel": heard, "distance": near}

    def evaluate(self, model: Any) -> dict[str, float]:
        """On sentences never heard: mel error of the entries as they are, in nats; how many codes are in use in effect;
        and what is read from them, as share of phonemes and in nats."""
        tokenizer = model["tokenizer"]
        batch = packed(self.clips("test", 0)[: 8 if self.settings.steps < 100 else 64])
        batch = to_device(batch, tokenizer.codebook.device)
        mel, mask, labels = batch["mel"], batch["mask"], batch["phonemes"]
        codes, real = tokenizer.codes(mel), mask[:, ::FRAMES_PER_CODE]
        error = (tokenizer.mel(codes) - mel).abs().mean(-1)[mask].mean()
        shares = torch.bincount(codes[real], minlength=len(tokenizer.codebook)) / real.sum()
        logits, _ = model["reader"](F.one_hot(codes, len(tokenizer.codebook)) * real[..., None].to(mel))
        known = labels != speech_bank.IGNORED
        return {
            "mel": error.item(),
            "perplexity": torch.special.entr(shares).sum().exp().item(),
            "phonemes": (logits.argmax(-1) == labels)[known].float().mean().item(),
            "phonemes, nats": F.cross_entropy(logits[known], labels[known]).item(),
        }

    def finish(self, model: Any) -> None:
        # As the checkpoint keeps it: what learns from these codes is to learn from those that will be heard.
        save_part(self.parts, "speech_tokenizer", model["tokenizer"].bfloat16().float())


def packed(clips: Sequence[speech_bank.Clip]) -> Batch:
    """Clips padded to one length of whole codes: mel, where it is, and the phonemes (batch, codes, 2) where known."""
    mel, mask = pack([clip.mel for clip in clips])
    phonemes, _ = speech_bank.pad([speech_bank.labels(clip) for clip in clips], speech_bank.IGNORED, FRAMES_PER_CODE)
    return {"mel": mel, "mask": mask, "phonemes": phonemes.unflatten(1, (-1, FRAMES_PER_CODE)), "samples": len(clips)}


def pack(mels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips padded to one length of whole codes, and where they are."""
    return speech_bank.pad(mels, SILENCE, FRAMES_PER_CODE)
