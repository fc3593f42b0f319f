"""What a recipe is: the part of training that differs from model to model. The loop (loop.py) is what does not.

A recipe answers six questions: which settings at which scale, which model, what is micro-batch number i, what is its
loss, what learns, and how good is the model now. Notable:
- `batch(index)` is a pure function of (settings, seed, index). Resuming, sharding over processes and worker processes
  then need no state at all: whoever holds the index can make the batch.
- The loop seeds every random generator from (seed, index) before `loss`, so dropout and noise resume exactly too.
- A recipe with several optimisers (a GAN) lists their names; the loop asks for one loss per name, in that order.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..runtime import check_scale

Batch = dict[str, Any]  # tensors (moved to the device by the loop), and three optional plain entries:
#   "samples": int         how many samples the batch was made from, the skipped ones included (default 1)
#   "skipped": list[str]   one line for each sample that was bad
#   "weight": float        share of this micro-batch in the mean loss of its step, e.g. its answer tokens (default 1)


@dataclass(frozen=True)
class Settings:
    """How long, how fast and how wide to train. A recipe that needs more fields subclasses this."""

    steps: int  # optimiser steps
    batch_size: int  # samples in a micro-batch
    learning_rate: float  # at the top of the warm-up
    accumulate: int = 1  # micro-batches a step, over all processes together
    preset: str = "nano"  # configuration of the model (config.PRESETS)
    warmup: float = 0.03  # share of the steps in which the learning rate climbs
    final: float = 0.05  # share of the learning rate left at the end of the cosine
    weight_decay: float = 0.01  # on matrices only
    betas: tuple[float, float] = (0.9, 0.98)  # AdamW
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.0  # decay of the averaged weights; 0: no average
    dtype: str = "auto"  # under autocast: auto (what the hardware has), float32, bfloat16 or float16
    compile: bool = False  # torch.compile
    checkpoint_activations: bool = False  # recompute blocks in the backward pass: less memory, a third more work
    workers: int = 0  # processes that make batches; 0: the training process itself
    log_every: int = 10  # steps
    evaluate_every: int = 0  # steps; 0: at the end only
    save_every: int = 200  # steps; 0: at the end only, and when it is stopped

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the checkpoint's json."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


class Recipe:
    """Base of all recipes. Subclasses set `name` and `scales` and write `build`, `batch` and `loss`."""

    name: ClassVar[str]
    scales: ClassVar[Mapping[str, Settings]]  # scale ("smoke", "cpu", "t4", "gpu") -> settings
    optimisers: ClassVar[tuple[str, ...]] = ("main",)
    reads: ClassVar[tuple[str, ...]] = ()  # parts (parts.py) that must be trained before
    writes: ClassVar[tuple[str, ...]] = ()  # parts that `finish` leaves
    least: ClassVar[Mapping[str, int]] = {}  # setting -> the smallest value that it can have
    device = torch.device("cpu")  # where it trains: the loop says so before `build`

    def __init__(self, settings: Settings, seed: int = 0, parts: Path | None = None):
        """`parts`: the folder in which trained parts are found and left; None: start from nothing, leave nothing."""
        self.settings, self.seed, self.parts = settings, seed, parts

    @classmethod
    def at(cls, scale: str, seed: int = 0, parts: Path | None = None) -> "Recipe":
        """The recipe with the settings of `scale`. Raises ConfigError if there are none."""
        if check_scale(scale) not in cls.scales:
            raise ConfigError(f"recipe {cls.name} has no {scale!r} scale: choose one of {', '.join(cls.scales)}")
        return cls(cls.scales[scale], seed, parts)

    def need_to_fit(self, available: int, precision: str, processes: int) -> None:
        """Raise OmniLabError, with what would fit, if a step needs more than `available` bytes: called before `build`.

        precision: one of memory.PRECISIONS. Default: the model is small, and nothing is counted."""

    # Each recipe knows the class of its own model, hence Any: the loop asks nothing of it but to be a module.
    def build(self) -> nn.Module:
        """The model, on the CPU in float32, with its starting weights."""
        raise TypeError(f"recipe {self.name} builds no model")

    def warm(self) -> None:
        """Make what every worker process would make anew: called once, before they are forked. Default: nothing."""

    def batch(self, index: int) -> Batch:
        """Micro-batch number `index`: a pure function of (settings, seed, index), called in worker processes."""
        raise TypeError(f"recipe {self.name} makes no batches")

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the batch for the named optimiser (scalar) and metrics to log (scalars).

        With several optimisers the same `batch` object comes once per name, so one pass can leave things in it.
        """
        raise TypeError(f"recipe {self.name} has no loss")

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        """What learns: optimiser name -> AdamW parameter groups. A group may have its own "lr" (default: the settings')
        and "starts", the share of the run before which it stays still.

        A parameter in no group is frozen. Default: everything that asks for a gradient, no decay on vectors.
        """
        from .optimise import decay_groups  # here: optimise.py reads Settings from this file

        return {"main": decay_groups(model.named_parameters(), self.settings)}

    def blocks(self, model: Any) -> list[nn.Module]:
        """Modules to shard and to recompute as units, none within another. Default: what stands in a ModuleList."""
        found: dict[str, nn.Module] = {}
        for name, module in model.named_modules():
            inside = any(name.startswith(f"{outer}.") for outer in found)
            if isinstance(module, nn.ModuleList) and not inside:
                found |= {
                    f"{name}.{i}": m for i, m in enumerate(module) if not isinstance(m, (nn.ModuleList, nn.Linear))
                }
        return list(found.values())

    def compile(self, model: Any) -> None:
        """Compile what is worth compiling, in place, so that parameter names stay."""
        model.compile()

    def evaluate(self, model: Any) -> dict[str, float]:
        """Figures of the model on held-out data, called in eval mode without gradients, with the averaged weights."""
        return {}

    def finish(self, model: Any) -> None:
        """Leave the trained parts (averaged weights) in `self.parts`. Called once, on the first process."""
