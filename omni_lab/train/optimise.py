"""Learning rate, weight decay and the running average of weights: what every recipe does the same way."""

import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .recipe import Settings


def warmup_cosine(step: int, settings: Settings) -> float:
    """Factor on the learning rate at `step` (0-based): linear warm-up, then a cosine down to `settings.final`."""
    warm = max(1, round(settings.warmup * settings.steps))
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, settings.steps - warm)
    return settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def decay_groups(named: Iterable[tuple[str, Tensor]], settings: Settings, **options: Any) -> list[dict[str, Any]]:
    """Two AdamW groups: matrices with weight decay; vectors (norms, biases) and what is called an embedding without.

    `options` (e.g. lr=1e-4) go into both.
    """
    named = [(name, p) for name, p in named if p.requires_grad]
    flat = [p for name, p in named if p.ndim < 2 or "embed" in name]
    chosen = {id(p) for p in flat}
    matrices = [p for _, p in named if id(p) not in chosen]
    groups = [(matrices, settings.weight_decay), (flat, 0.0)]
    return [{"params": list(params), "weight_decay": decay, **options} for params, decay in groups if params]


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; a plain tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class AdamW(torch.optim.AdamW):
    """torch's AdamW (Loshchilov and Hutter 2019), bit for bit, which does not load the compiler.

    torch's own methods do so at a process's first step, if only to say that they are not to be compiled: some 4 s of
    processor time, more than a lab trains at smoke scale. Here stand the functions that torch wraps in that."""

    add_param_group: Any = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict: Any = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict: Any = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad: Any = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    step: Any = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def adamw(groups: list[dict[str, Any]], settings: Settings, device: torch.device) -> AdamW:
    """AdamW whose state exists before the first step, so that a checkpoint has the same entries at any moment."""
    for group in groups:
        group.setdefault("lr", settings.learning_rate)
        group["base_lr"] = group["lr"]
    fused = device.type in ("cpu", "cuda")  # one pass over the memory instead of ten
    optimiser = AdamW(groups, betas=settings.betas, fused=fused or None)
    for group in optimiser.param_groups:
        for p in group["params"]:
            optimiser.state[p] = {
                # Fused AdamW wants its counter beside the parameter, the others on the CPU.
                "step": torch.zeros((), dtype=torch.float32, device=device if fused else "cpu"),
                "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
            }
    return optimiser


class ExponentialAverage:
    """Running average of the parameters that learn: average <- decay * average + (1 - decay) * parameter."""

    def __init__(self, parameters: dict[str, Tensor], decay: float):
        """`parameters`: name -> parameter. A decay of 0 keeps no copy and averages nothing."""
        self.decay = decay
        self.parameters = parameters if decay else {}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (0-based). Early steps forget faster."""
        if not self.average:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        mine = [local(t) for t in self.average.values()]
        torch._foreach_lerp_(mine, [local(p) for p in self.parameters.values()], 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Run a block with the averaged weights in the model, then put the raw ones back."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averaged and raw weights in place."""
        for name, average in self.average.items():
            raw = local(self.parameters[name])
            kept = raw.clone()
            raw.copy_(local(average))
            local(average).copy_(kept)


def recompute_in_backward(block: nn.Module) -> None:
    """Activation checkpointing: keep only the block's inputs, run it again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    forward = block.forward

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    block.forward = recomputed
