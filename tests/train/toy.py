"""Recipes small enough to run hundreds of steps a second: one with one optimiser, one with two."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_lab.errors import DataError
from omni_lab.train.loader import usable
from omni_lab.train.optimise import decay_groups
from omni_lab.train.recipe import Batch, Recipe, Settings


@dataclass(frozen=True)
class ToySettings(Settings):
    broken: int = 0  # every so many samples one is bad; 0: none


TOY = ToySettings(steps=60, batch_size=4, learning_rate=1e-2, accumulate=4, ema=0.9, save_every=7, log_every=5)


class Toy(Recipe):
    """Regression with dropout, so that the loss draws random numbers."""

    name = "toy"
    scales = {"smoke": TOY}

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.ModuleList([nn.Linear(16, 16)])[0], nn.Linear(16, 1))

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        return [model[0], model[2]]

    def sample(self, number: int) -> Tensor:
        if self.settings.broken and number % self.settings.broken == self.settings.broken - 1:
            raise DataError(f"sample {number} is broken")
        return torch.randn(6, generator=torch.Generator().manual_seed(number))

    def batch(self, index: int) -> Batch:
        size, bad = self.settings.batch_size, []
        numbers = range(index * size, (index + 1) * size)
        x = torch.stack(usable([lambda n=n: self.sample(n) for n in numbers], bad))
        return {"x": x, "samples": size, "skipped": bad, "weight": float(1 + index % 3)}

    def loss(self, model: nn.Module, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        target = batch["x"].square().sum(1, keepdim=True).sqrt()
        loss = F.mse_loss(model(batch["x"]), target)
        return loss, {"noise": torch.rand(())}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"drawn": torch.rand(()).item()}


class TinyGAN(Toy):
    """Two optimisers over one model: the second pass reuses what the first left in the batch."""

    name = "tiny_gan"
    optimisers = ("discriminator", "generator")

    def build(self) -> nn.Module:
        return nn.ModuleDict({"generator": nn.Linear(6, 6), "discriminator": nn.Linear(6, 1)})

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        return []

    def groups(self, model: nn.Module) -> dict:
        return {name: decay_groups(model[name].named_parameters(), self.settings) for name in self.optimisers}

    def loss(self, model: nn.Module, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        if optimiser == "discriminator":
            batch["fake"] = model["generator"](batch["x"].sign())
            real, fake = model["discriminator"](batch["x"]), model["discriminator"](batch["fake"].detach())
            return (1 - real).square().mean() + fake.square().mean(), {}
        return (1 - model["discriminator"](batch["fake"])).square().mean(), {}
