"""The one training loop: any recipe, any scale, one process or many; killed at any moment, it resumes to the same bits.

What makes that exact: micro-batch i is a pure function of (settings, seed, i); all random generators are seeded from
(seed, i) before its loss; a checkpoint holds weights, their average, both Adam moments, the loss scale and the account
of bad data; the learning rate is a function of the step.
"""

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import layers
from ..errors import ConfigError, OmniLabError
from ..runtime import Hardware, free_memory, seed_everything, threads
from . import checkpoints
from .distributed import Gathered, Processes, clip_gradients, on_all_weights, processes, reshard, shard, total, union
from .loader import BadData, indexes, load, to_device
from .log import RunLog
from .optimise import ExponentialAverage, adamw, recompute_in_backward, warmup_cosine
from .recipe import Batch, Recipe, Settings

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LEAST = {"steps": 1, "batch_size": 1, "accumulate": 1, "log_every": 1, "workers": 0}
LEAST |= {"evaluate_every": 0, "save_every": 0}
FREE_TO_CHANGE = {"workers", "log_every", "evaluate_every", "save_every", "compile", "checkpoint_activations"}


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    model: nn.Module  # with the averaged weights, in eval mode
    step: int  # optimiser steps done
    finished: bool  # False: stopped by a signal or by the clock, to be resumed
    heard: bool  # a signal to stop, which may have come when the last step was done
    seconds: float  # of training, all sittings together
    figures: dict[str, float]  # the last evaluation


def train(
    recipe: Recipe,
    out: str | Path,
    resume: bool = False,
    device: str | torch.device | None = None,
    minutes: float = math.inf,
    progress: bool = True,
    tensorboard: bool = False,
) -> Result:
    """Run `recipe`; checkpoints and `log.csv` go to the folder `out`.

    resume: go on from the newest checkpoint in `out`, if there is one. minutes: save and stop after so long.
    Raises ConfigError if `out` holds a run and `resume` is not asked for, or if its settings were others.
    """
    with processes(device) as (group, here):
        run = Run(recipe, Path(out), resume, group, here, progress, tensorboard)
        try:
            # Not while the model is built: there is nothing to save, and who stops it need not wait.
            with stop_signal() as stop, run.few_threads():
                return run.go(stop, minutes)
        finally:
            run.log.close()


class Run:
    """A run in progress: model, optimisers, average and where it stands."""

    def __init__(
        self, recipe: Recipe, out: Path, resume: bool, group: Processes, here: Hardware, progress: bool, board: bool
    ):
        self.recipe, self.out, self.group, self.here = recipe, out, group, here
        self.settings = check(recipe.settings, group, recipe.least)
        self.dtype = here.dtype if self.settings.dtype == "auto" else DTYPES[self.settings.dtype]
        if here.device.type == "cuda":
            for_a_card()
        precision = "float32" if self.dtype == torch.float32 else "autocast"
        recipe.need_to_fit(free_memory(here), precision, group.world)
        seed_everything(recipe.seed)
        recipe.device = here.device
        self.model = recipe.build().to(here.device).train()
        self.prepare_model()
        self.optimisers = {
            name: adamw(groups, self.settings, here.device) for name, groups in recipe.groups(self.model).items()
        }
        self.learning = self.freeze_the_rest()
        self.average = ExponentialAverage(self.learning, self.settings.ema)
        self.scaler = torch.amp.GradScaler(here.device.type, enabled=self.dtype == torch.float16)
        self.step, self.seconds, self.bad = 0, 0.0, BadData()
        self.figures: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}  # what the log's next row is the mean of
        self.reported, self.logged = 0.0, 0  # seconds of training, and the step, when the log was last written
        self.torch_before = torch.__version__  # that the checkpoint was saved with
        self.restore(resume)
        title = f"{recipe.name} on {here.name}"
        self.log = RunLog(out, self.step, self.settings.steps, title, progress, board, group.first)
        if self.torch_before != torch.__version__:
            self.log.say(
                f"step {self.step} was saved with torch {self.torch_before}, this is {torch.__version__}: the run goes "
                "on, but not to the same bits"
            )

    def prepare_model(self) -> None:
        """Recompute, compile and shard, in this order, each where the settings or the processes ask for it."""
        blocks = self.recipe.blocks(self.model)
        if self.settings.checkpoint_activations:
            for block in blocks:
                recompute_in_backward(block)
        if self.settings.compile:
            # Its lengths differ with each batch. Said here: a decorator would load the compiler at every start.
            layers.segmented_attention = torch.compiler.disable(layers.segmented_attention)
            self.recipe.compile(self.model)
        self.gathered, self.loss = Gathered(self.model), self.recipe.loss
        if self.group.world > 1:
            self.loss = partial(on_all_weights, self.recipe.loss)
            shard(self.gathered, blocks, self.here, self.dtype)

    def freeze_the_rest(self) -> dict[str, Tensor]:
        """Switch gradients off for what no optimiser holds; return what learns, by name."""
        chosen = {id(p) for o in self.optimisers.values() for group in o.param_groups for p in group["params"]}
        for p in self.model.parameters():
            p.requires_grad_(id(p) in chosen)
        return {name: p for name, p in self.model.named_parameters() if id(p) in chosen}

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint keeps in tensors, by name."""
        return checkpoints.run_tensors(self.model, self.optimisers, self.average)

    def restore(self, resume: bool) -> None:
        """Load the newest checkpoint if there is one and `resume` was asked for."""
        self.out.mkdir(parents=True, exist_ok=True)
        steps = checkpoints.saved_steps(self.out)
        if not steps:
            return
        if not resume:
            raise ConfigError(
                f"{self.out} holds a run at step {steps[-1]}: resume it (--resume) or name another folder"
            )
        state = checkpoints.read_state(self.out, steps[-1])
        same_run(state, self.describe(), self.out)
        checkpoints.load(self.out, steps[-1], self.tensors())
        self.step, self.seconds, self.bad = state["step"], state["seconds"], BadData(state["bad_data"])
        self.figures, self.reported = state["figures"], state["reported"]
        # Older checkpoints do not say when, but with which setting.
        self.logged = state.get("logged", self.step - self.step % state["settings"]["log_every"])
        if self.group.first:  # the sums are of all processes
            self.sums = {name: torch.tensor(value, device=self.here.device) for name, value in state["sums"].items()}
        if state["scaler"]:  # empty where the run so far was in another type: bf16 needs no scale
            self.scaler.load_state_dict(state["scaler"])
        self.torch_before = state["torch"]

    def describe(self) -> dict[str, Any]:
        """What the run is: recipe, seed and settings."""
        return {"recipe": self.recipe.name, "seed": self.recipe.seed, "settings": self.settings.as_dict()}

    def save(self) -> None:
        """Write a checkpoint of this step, unless the weights have stopped being numbers."""
        for name, p in self.learning.items():
            if not torch.isfinite(p.detach().sum()):
                raise OmniLabError(f"{name} is not finite at step {self.step}: lower the learning rate, then --resume")
        state = self.describe() | {
            "step": self.step,
            "seconds": self.seconds,
            "scaler": self.scaler.state_dict(),
            "bad_data": self.bad.state,
            "figures": self.figures,
            "sums": self.all_sums(),
            "reported": self.reported,
            "logged": self.logged,
            "processes": self.group.world,
        }
        checkpoints.save(self.out, self.step, self.tensors(), state)

    def go(self, stop: list[int], minutes: float) -> Result:
        """Train to the end, or until a signal or the clock says to stop; save, evaluate and log on the way."""
        settings, world = self.settings, self.group.world
        order = indexes(self.step, settings.steps, settings.accumulate, self.group.rank, world)
        batches: Iterator[tuple[int, Batch]] = iter(())
        if self.step < settings.steps:  # a finished run needs no workers
            batches = load(self.recipe, order, pin=self.here.device.type == "cuda")
        started = last = time.monotonic()
        while self.step < settings.steps:
            self.one_step(list(islice(batches, settings.accumulate // world)))
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            done = self.step == settings.steps
            # Every process must take the same turn, so all follow the first one to hear a signal or the clock.
            leave = total(bool(stop) or now - started > 60 * minutes, self.here.device) > 0
            if self.step % settings.log_every == 0 or done:
                self.report()
            if done or (settings.evaluate_every and self.step % settings.evaluate_every == 0):
                self.evaluate()
            if done or leave or (settings.save_every and self.step % settings.save_every == 0):
                self.save()
            last = time.monotonic()
            if leave and not done:
                self.log.say(f"stopped at step {self.step} of {settings.steps}; --resume goes on from here")
                break
        finished, heard = self.step == settings.steps, total(bool(stop), self.here.device) > 0
        self.average.swap()  # for good: what leaves the run is the average
        self.model.eval()
        if finished:
            self.finish()
        return Result(self.model, self.step, finished, heard, self.seconds, self.figures)

    def one_step(self, micro: list[tuple[int, Batch]]) -> None:
        """One optimiser step per optimiser over this process's micro-batches."""
        samples = sum(batch.get("samples", 1) for _, batch in micro)
        for _, batch in micro:
            for line in self.bad.count(batch):
                self.log.say(f"skipped: {line}")
        weights = [float(batch.pop("weight", 1.0)) for _, batch in micro]
        share = self.group.world / max(total(sum(weights), self.here.device), 1e-12)
        micro = [(index, to_device(batch, self.here.device)) for index, batch in micro]
        for name, optimiser in self.optimisers.items():
            self.model.zero_grad(set_to_none=True)
            for (index, batch), weight in zip(micro, weights, strict=True):
                seed_everything(batch_seed(self.recipe.seed, index))
                with self.autocast():
                    loss, metrics = self.gathered(partial(self.loss, batch=batch, optimiser=name))
                self.scaler.scale(loss * (weight * share)).backward()
                label = "loss" if name == "main" else f"{name} loss"
                self.add({label: loss.detach(), **metrics}, weight * share / self.group.world)
            self.update(optimiser)
        if self.scaler.is_enabled():
            self.scaler.update()
        self.average.update(self.step)
        self.step += 1
        self.add({"samples": torch.tensor(float(samples))}, 1)
        self.log.advance()

    def autocast(self) -> Any:
        """The context in which a step computes: 16 bits where the scale says so."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.here.device.type, self.dtype)

    def update(self, optimiser: torch.optim.Optimizer) -> None:
        """Clip the gradients and take the step at this moment's learning rate."""
        factor = warmup_cosine(self.step, self.settings)
        parameters = []
        for group in optimiser.param_groups:
            moves = self.step >= group.get("starts", 0.0) * self.settings.steps
            group["lr"] = group["base_lr"] * factor * moves
            if moves:
                parameters += group["params"]
                continue
            for p in group["params"]:  # Adam's moments wait for it as well, and the norm is of what moves
                p.grad = None
        if not parameters:
            return self.add({"gradient norm": torch.zeros((), device=self.here.device)}, 1)
        self.scaler.unscale_(optimiser)
        # The norm is of all processes' gradients, and each of them adds it.
        self.add({"gradient norm": clip_gradients(parameters, self.settings.clip)}, 1 / self.group.world)
        self.scaler.step(optimiser)

    @torch.no_grad()
    def add(self, values: dict[str, Tensor], weight: float) -> None:
        """Sum up for the log without waiting for the device."""
        for name, value in values.items():
            value = value.detach().float() * weight
            self.sums[name] = self.sums[name].to(value.device) + value if name in self.sums else value

    def all_sums(self) -> dict[str, float]:
        """What was summed up for the log since it was last written, by all processes."""
        device, nothing = self.here.device, torch.zeros(())
        return {name: total(self.sums.get(name, nothing).item(), device) for name in union(self.sums)}

    def few_threads(self) -> Any:
        """The context in which steps are taken: on a card the cores are the workers'."""
        return threads(2) if self.here.device.type == "cuda" and self.settings.workers else nullcontext()

    def report(self) -> None:
        """Log the means since the last report; stop when the loss is no number."""
        steps = self.step - self.logged
        means = {name: value / steps for name, value in self.all_sums().items()}
        means["samples/s"] = means.pop("samples") * steps / max(self.seconds - self.reported, 1e-9)
        if self.bad.skipped:
            means["skipped"] = self.bad.skipped
        self.sums, self.reported, self.logged = {}, self.seconds, self.step
        for name, value in means.items():
            if name.endswith("loss") and not math.isfinite(value):
                raise OmniLabError(f"{name} is {value} near step {self.step}: lower the learning rate, then --resume")
        self.log.write(self.step, self.seconds, means)

    def evaluate(self) -> None:
        """Figures of the averaged model on held-out data, without autocast: recipes make their test data in here, and
        sound that is resampled in 16 bits is other sound."""
        self.model.eval()
        seed_everything(self.recipe.seed)
        with torch.no_grad(), self.average.swapped():
            self.figures = self.gathered(self.recipe.evaluate)
            if self.group.world > 1:
                reshard(self.gathered)
        self.model.train()
        if self.figures:
            self.log.write(self.step, self.seconds, {f"held-out {k}": v for k, v in self.figures.items()})
            self.log.say(f"step {self.step}: " + ", ".join(f"{k} {v:.4g}" for k, v in self.figures.items()))

    def finish(self) -> None:
        """Let the first process leave the trained parts."""
        if self.group.world > 1:
            from .distributed import whole_model

            self.model = whole_model(self.recipe, self.model)
        if self.group.first:
            self.recipe.finish(self.model)


def for_a_card() -> None:
    """Settings of torch for training on a CUDA device."""
    torch.set_float32_matmul_precision("high")  # TF32: what is left in float32 need not be exact to the last bit
    # torch 2.11 prefers cuDNN's attention, which plans anew for every shape (packed rows have a new one at each step),
    # and may make NaN of rows that see nothing: padding on the left.
    torch.backends.cuda.enable_cudnn_sdp(False)


def batch_seed(seed: int, index: int) -> int:
    """A seed of its own for each micro-batch, far from its neighbours' (multiplicative hashing)."""
    return (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 1) % 2**63


def check(settings: Settings, group: Processes, least_of_recipe: Mapping[str, int]) -> Settings:
    """Raise ConfigError for settings that no run, or none of this recipe, can have."""
    for name, least in {**LEAST, **least_of_recipe}.items():
        value = getattr(settings, name)
        if value < least:
            raise ConfigError(f"{name} {value}: expected at least {least}")
    if settings.dtype != "auto" and settings.dtype not in DTYPES:
        raise ConfigError(f"dtype {settings.dtype!r}: choose auto or one of {', '.join(DTYPES)}")
    if settings.accumulate % group.world:
        raise ConfigError(
            f"{settings.accumulate} micro-batches a step do not divide among {group.world} processes: "
            f"--set accumulate to a multiple of {group.world}"
        )
    return settings


def same_run(saved: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    """Raise ConfigError naming the first setting in which a saved run differs from the one that wants to resume it."""
    flat = [{"recipe": d["recipe"], "seed": d["seed"], **d["settings"]} for d in (saved, now)]
    for name in flat[1]:
        # A setting that the saved run does not know is younger than it.
        if name in flat[0] and name not in FREE_TO_CHANGE and flat[0][name] != flat[1][name]:
            raise ConfigError(f"{out} was trained with {name} {flat[0][name]}, not {flat[1][name]}: cannot resume")


@contextmanager
def stop_signal() -> Iterator[list[int]]:
    """A list that a first Ctrl-C or SIGTERM makes non-empty, so that the loop can save before it leaves. A second
    Ctrl-C raises KeyboardInterrupt."""
    heard: list[int] = []

    def hear(number: int, _: Any) -> None:
        if number == signal.SIGINT and number in heard:
            raise KeyboardInterrupt
        heard.append(number)

    try:
        before = {s: signal.signal(s, hear) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: signals go elsewhere, and nobody can send us one
        before = {}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
