"""Lab 02's three trainings: the language model reads pictures told in words; W learns to tell them (stage 1); W and
the language model learn from instructions (stage 2). The image tower is lab 01's and never changes.

Notable: a language model of billions of words has read tables and maps. Ours is tiny, so its own training tells it
pictures as tables of words: each place's thing. What stage 1 then teaches W is to write such a table: a
"visual tokenizer", as section 4.2 of the paper calls it.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ... import clip, llava
from ...bpe import read_tokenizer
from ...clip import CLIP
from ...config import TextConfig
from ...data import instructions
from ...data.folders import samples_folder
from ...data.instructions import Example
from ...data.splits import generator, pick
from ..optimise import decay_groups
from ..parts import need_part, save_part
from ..recipe import Batch, Recipe, Settings

TEST_BATCHES = 2  # that evaluation takes the loss of
WORDS = 2  # that a place is told in at most: colour and thing
LARGER = TextConfig(
    vocab_size=2048, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
    num_key_value_heads=8, max_position_embeddings=1024, rope_theta=1e4, mrope_section=(32,),
)  # fmt: skip
MODELS = {"nano": llava.LlavaConfig(), "small": llava.LlavaConfig(text=LARGER)}


@dataclass(frozen=True)
class LlavaSettings(Settings):
    """`batch_size` counts dialogues."""

    start: str = ""  # the part to go on from; "": the recipe's own choice


class Llava(Recipe):
    """One stage: its kinds of examples, told or seen, and what learns."""

    stage: str  # of llava.STAGES
    kinds: ClassVar[tuple[str, ...]] = instructions.KINDS
    told: ClassVar[bool] = False  # the picture comes in words
    settings: LlavaSettings

    @cached_property
    def encoder(self) -> CLIP:
        return CLIP.load(samples_folder() / "checkpoints" / "clip")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return read_tokenizer(samples_folder() / "checkpoints" / "nano" / "tokenizer.json")

    @property
    def config(self) -> llava.LlavaConfig:
        return MODELS[self.settings.preset]

    @cached_property
    def side(self) -> int:
        """Places in a row of the grid."""
        return llava.grid_shape(self.encoder.visual, self.config.image_size)[1]

    def build(self) -> nn.Module:
        model = llava.LLaVA(self.config, self.tokenizer, self.encoder.visual)
        start = self.settings.start or next(iter(self.reads), "")
        if start:
            need_part(self.parts, start, model, self.name)
        return model

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        chosen = set(llava.trainable([name for name, _ in model.named_parameters()], self.stage))
        return {"main": decay_groups([(n, p) for n, p in model.named_parameters() if n in chosen], self.settings)}

    def batch(self, index: int) -> Batch:
        """Dialogues number `index` of training; see `collate`."""
        return self.collate(self.examples("train", index))

    def examples(self, split: str, index: int) -> list[Example]:
        """One batch of examples, a pure function of (seed, index)."""
        rng = generator(f"llava {self.stage}", split, self.seed, index)
        return [instructions.example(rng, split, pick(rng, self.kinds)) for _ in range(self.settings.batch_size)]

    def collate(self, examples: list[Example]) -> Batch:
        """ids and labels (batch, longest), padded on the right, and "told" (batch, places, WORDS) ids with -1 for none
        or "pictures" (batch, 3, size, size). The loss is a mean over answers' tokens, whose number is the weight."""
        side, size = self.side, self.config.image_size
        rows = [self.row(example, side * side) for example in examples]
        longest = max(len(ids) for ids, _ in rows)
        batch: Batch = {"ids": torch.zeros(len(rows), longest, dtype=torch.long), "samples": len(rows)}
        batch["labels"] = torch.full_like(batch["ids"], llava.IGNORED)
        for i, (ids, labels) in enumerate(rows):
            batch["ids"][i, : len(ids)], batch["labels"][i, : len(ids)] = ids, labels
        batch["weight"] = float((batch["labels"] != llava.IGNORED).sum())
        if self.told:
            batch["told"] = torch.stack([told_ids(self.tokenizer, instructions.told(e.scene, side)) for e in examples])
        else:
            batch["pictures"] = clip.to_input(np.stack([np.asarray(e.picture) for e in examples]), size)
        return batch

    def row(self, example: Example, places: int) -> tuple[Tensor, Tensor]:
        """Ids and labels of one dialogue in ChatML, the picture's placeholders before its first question."""
        pieces = llava.chatml(llava.with_picture(example.turns, places), llava.SYSTEM)
        encoded = self.tokenizer.encode_batch([text for text, _ in pieces], add_special_tokens=False)
        return llava.answer_labels([e.ids for e in encoded], [learned for _, learned in pieces])

    def features(self, model: llava.LLaVA, batch: Batch) -> Tensor:
        """What the language model gets for the pictures: (batch, places, dim)."""
        return model.read(batch["told"]) if self.told else model.project(model.look(batch["pictures"]))

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        loss = llava.answer_loss(model(batch["ids"], self.features(model, batch)), batch["labels"])
        return loss, {"answer loss": loss}

    @cached_property
    def test_batches(self) -> list[Batch]:
        return [self.collate(self.examples("test", i)) for i in range(TEST_BATCHES)]

    def evaluate(self, model: Any) -> dict[str, float]:
        """Loss of held-out answers, with each one's own picture and with its neighbour's: a model that does not look
        finds no difference."""
        device = model.projector.weight.device
        right: list[float] = []
        wrong: list[float] = []
        for batch in self.test_batches:
            batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
            features = self.features(model, batch)
            for found, seen in ((right, features), (wrong, features.roll(1, dims=0))):
                found.append(float(llava.answer_loss(model(batch["ids"], seen), batch["labels"])))
        return {"answer loss": float(np.mean(right)), "answer loss with another's picture": float(np.mean(wrong))}

    def finish(self, model: nn.Module) -> None:
        for name in self.writes:
            save_part(self.parts, name, model)


def told_ids(tokenizer: Tokenizer, told: list[str]) -> Tensor:
    """Words of each place as ids: (places, WORDS), -1 for none. A word of the table is one token, with its blank."""
    found = torch.full((len(told), WORDS), -1, dtype=torch.long)
    for place, words in enumerate(told):
        for i, word in enumerate(words.split()[-WORDS:]):
            found[place, i] = tokenizer.encode(f" {word}", add_special_tokens=False).ids[0]
    return found


# At "cpu": what the four trainings of lab 02 can do together in about six minutes of one core.
CPU = LlavaSettings(300, 24, 2e-3, warmup=0.05, log_every=10, evaluate_every=30)
T4 = replace(
    CPU, steps=3000, batch_size=64, learning_rate=6e-4, preset="small", workers=2, log_every=50, evaluate_every=100
)
GPU = replace(T4, steps=6000, workers=12)


def scaled(steps: float = 1.0, rate: float = 1.0) -> dict[str, LlavaSettings]:
    """The table of scales with other numbers of steps and learning rates; both are factors."""
    table = {"smoke": replace(CPU, steps=4, batch_size=8, log_every=1, evaluate_every=2)}
    for scale, settings in (("cpu", CPU), ("t4", T4), ("gpu", GPU)):
        table[scale] = replace(
            settings, steps=round(settings.steps * steps), learning_rate=settings.learning_rate * rate
        )
    return table


class LlavaLanguage(Llava):
    """Before LLaVA: a language model that reads pictures told in words."""

    name, stage, told = "llava_language", "language", True
    scales = scaled()
    writes = ("llava_language",)


class LlavaAlign(Llava):
    """Stage 1: W alone, on captions (section 4.2)."""

    name, stage, kinds = "llava_align", "align", ("caption",)
    scales = scaled(0.7, 2.0)
    reads, writes = ("llava_language",), ("llava_align",)


class LlavaInstruct(Llava):
    """Stage 2: W and the language model, on instructions; the tower stays as it is (section 4.2)."""

    name, stage = "llava_instruct", "instruct"
    scales = scaled(0.8, 0.5)
    reads, writes = ("llava_align",), ("llava_instruct",)

    def finish(self, model: Any) -> None:
        super().finish(model)
        if self.parts is not None:
            model.save(self.parts / "llava", torch.float16)
