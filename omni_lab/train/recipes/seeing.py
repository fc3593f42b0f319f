"""The vision encoder alone learns to name what each token of a picture lies on, before a language model looks.

Next-token loss would have a decoder find out by itself which stretch of a picture belongs to which word of an answer.
Here every token is told: the name of the thing under it and the colour of its card, or the letters that have their
middle in it, *in the language model's own words*; how far away the thing's edges are; and which letter stands in which
strip of it. What is right at which place, and how the words are asked for, stands in train/naming.py. The two heads
that measure and read are thrown away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import preset
from ...data import pictures
from ...data.splits import generator
from ...thinker import Thinker
from .. import naming
from ..balance import beyond
from ..naming import NOTHING, SIGNS, SLICES, words_of
from ..optimise import decay_groups
from ..parts import need_part, save_part
from ..recipe import Batch, Recipe, Settings


@dataclass(frozen=True)
class SeeingSettings(Settings):
    writing: float = naming.WRITING  # share of pictures that are pages of writing
    most: int = naming.MOST  # things in a scene


CPU = SeeingSettings(steps=2000, batch_size=32, learning_rate=2e-3, ema=0.998, evaluate_every=500, workers=1)


class Seeing(Recipe):
    """Picture -> names, colours, edges and letters, place by place, through the thinker's vision encoder."""

    name: ClassVar[str] = "seeing"
    reads: ClassVar[tuple[str, ...]] = ("hearing",)
    writes: ClassVar[tuple[str, ...]] = ("seeing",)
    scales: ClassVar[Mapping[str, Settings]] = {
        "smoke": replace(CPU, steps=2, batch_size=2, workers=0, evaluate_every=0, log_every=1, ema=0.5),
        "cpu": CPU,
        "t4": replace(CPU, batch_size=64, workers=2),
        "gpu": replace(CPU, batch_size=128, workers=12),
    }
    settings: SeeingSettings

    def build(self) -> nn.Module:
        config = preset(self.settings.preset).thinker_config
        thinker = Thinker(config)
        need_part(self.parts, "hearing", thinker, self.name)
        width = config.vision_config.out_hidden_size
        heads = {"edges": nn.Linear(width, 4), "letters": nn.Linear(width, SLICES * (len(SIGNS) + 1))}
        return nn.ModuleDict({"thinker": thinker, **heads})

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        learning = [model["thinker"].visual, model["edges"], model["letters"]]
        return {"main": decay_groups([p for part in learning for p in part.named_parameters()], self.settings)}

    def blocks(self, model: Any) -> list[nn.Module]:
        return [*model["thinker"].visual.blocks]

    def compile(self, model: Any) -> None:
        """Nothing: its pictures have many sizes."""

    def batch(self, index: int) -> Batch:
        rng = generator("seeing batch", "train", self.seed, index)
        return self.pack([self.example(rng, "train") for _ in range(self.settings.batch_size)])

    def example(self, rng: np.random.Generator, split: str, style: str | None = None) -> tuple[Any, dict[str, Tensor]]:
        """A picture and what its tokens must say (naming.example)."""
        return naming.example(rng, split, style, self.settings.writing, self.settings.most)

    def pack(self, examples: Sequence[tuple[Any, dict[str, Tensor]]]) -> Batch:
        """Pictures and their tokens' labels, one picture after another."""
        return naming.pack(examples) | {"samples": len(examples)}

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = model["thinker"].visual(batch["pixel_values"], batch["image_grid_thw"])  # (tokens, hidden_size)
        logits = words_of(model["thinker"], tokens)
        names, empty = naming.naming_loss(logits, batch["words"]), naming.emptiness_loss(logits, batch["words"])
        words = model["thinker"].model.embed_tokens.weight[list(naming.concept_ids())]
        loudness = beyond(tokens, words).square().mean()
        tokens = F.rms_norm(tokens, tokens.shape[-1:])  # what measures and reads does not hear how loud they are
        misses = (model["edges"](tokens).float() - batch["edges"]).abs() * batch["things"]
        edges = misses.sum() / (4 * batch["things"].sum()).clamp(min=1)
        letters = model["letters"](tokens).float().unflatten(-1, (SLICES, -1))  # (tokens, slices, signs)
        reading = F.cross_entropy(letters.flatten(0, 1), batch["letters"].flatten(), ignore_index=NOTHING)
        reading = reading if batch["letters"].ne(NOTHING).any() else letters.sum() * 0.0
        parts = {"names": names, "empty": empty, "edges": edges, "reading": reading, "loudness": loudness}
        return names + 0.3 * empty + edges + 2 * reading + 0.1 * loudness, parts

    def evaluate(self, model: Any) -> dict[str, float]:
        """Shares of tokens right: names in known styles and in the one never trained on, colours; of letters read."""
        count = 4 if self.settings.steps < 100 else 100
        figures = {}
        nothing = naming.empty_id()
        for title, style in (("names", None), ("names, unseen style", pictures.UNSEEN_STYLE)):
            rng, examples = generator("seeing evaluation", "test", 0, 0), []
            plain = type(self)(replace(self.settings, writing=0.0))
            batch = plain.pack([plain.example(rng, "test", style) for _ in range(count)])
            logits, wanted = self.seen(model, batch)
            for what, ids, column in (("", naming.concept_ids(), 0), (", colours", naming.colour_ids(), 1)):
                there = wanted[:, column] != NOTHING
                said = torch.tensor(ids)[logits[there][:, list(ids)].argmax(-1).cpu()]
                figures[title + what] = (said == wanted[there][:, column].cpu()).float().mean().item()
            empty = (wanted == NOTHING).all(1)
            figures[f"{title}, empty places"] = (logits[empty].argmax(-1) == nothing).float().mean().item()
        rng = generator("seeing evaluation", "test", 0, 1)
        pages = type(self)(replace(self.settings, writing=1.0))
        examples = [pages.example(rng, "test") for _ in range(count)]
        batch, device = pages.pack(examples), model["letters"].weight.device
        tokens = model["thinker"].visual(batch["pixel_values"].to(device), batch["image_grid_thw"].to(device))
        said = model["letters"](F.rms_norm(tokens, tokens.shape[-1:])).unflatten(-1, (SLICES, -1)).argmax(-1).cpu()
        letters, signs = batch["letters"] > 0, torch.tensor(naming.sign_ids())
        best = signs[words_of(model["thinker"], tokens)[:, signs].argmax(-1).cpu()]  # the likeliest sign of each token
        figures["letters, as words"] = (best[:, None] == batch["words"]).any(1)[letters.any(1)].float().mean().item()
        figures["letters"] = (said == batch["letters"])[letters].float().mean().item()
        return figures

    def seen(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """(word logits of all tokens, their wanted words)."""
        device = model["letters"].weight.device
        tokens = model["thinker"].visual(batch["pixel_values"].to(device), batch["image_grid_thw"].to(device))
        return words_of(model["thinker"], tokens), batch["words"]

    def finish(self, model: Any) -> None:
        save_part(self.parts, self.name, model["thinker"])
