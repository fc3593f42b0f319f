"""`omni-lab train RECIPE --scale S`: one recipe, or `all` of them in order, into one folder.

The folder holds a run per recipe (`RECIPE/`: log.csv, checkpoints), what they trained (`parts/`), and, once all that
belongs to the omni model is there, the model itself (`checkpoint/`). Under torchrun the same command trains on all
processes: torchrun --nproc-per-node 8 -m omni_lab.cli train thinker_2 --scale gpu --out runs/a --set accumulate=8
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from ..errors import ConfigError
from ..runtime import default_scale
from .recipe import Recipe, Settings
from .recipes import GROUPS, RECIPES, find

GRACE = 300.0  # seconds that a codec which was told to stop has for its checkpoint
SHORT_GRACE = 40.0  # where the run has a time limit


def train(
    recipe: Annotated[str, typer.Argument(help=f"{', '.join(GROUPS)}, or one of {', '.join(RECIPES)}")],
    scale: Annotated[str, typer.Option(help="smoke, cpu, t4 or gpu; default: what this machine carries")] = "",
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("runs/nano"),
    resume: Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint")] = False,
    seed: Annotated[int, typer.Option(help="seed of weights, data and noise")] = 0,
    minutes: Annotated[float, typer.Option(help="save and stop after so long")] = math.inf,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; default: the first GPU")] = "",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="write TensorBoard files too")] = False,
    steps: Annotated[float, typer.Option(help="times the steps of each recipe: 0.1 is a tenth")] = 1.0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="change a setting: name=value")] = None,
) -> None:
    """Train a recipe, or a group of them in order; finished recipes are passed over when resuming."""
    scale, names = scale or default_scale(), GROUPS.get(recipe, (recipe,))
    kinds = [find(name) for name in names]  # an unknown name must not be found out after an hour
    deadline, rows, finished = time.monotonic() + 60 * minutes, [], True
    options = ["--scale", scale, "--out", str(out), "--seed", str(seed), "--steps", str(steps), "--device", device]
    options += ["--minutes", str(minutes), *(part for pair in set_ or [] for part in ("--set", pair))]
    from .distributed import processes

    with (
        processes(device or None) as (group, _),
        codec_beside(recipe == "all" and scale == "gpu", options, out, resume, minutes) as codec,
    ):
        for name, kind in zip(names, kinds, strict=True):
            shared = codec is not None and name in GROUPS["codec"]
            # What the codec has finished is passed over below; what it could not finish is done here.
            if codec is not None and (codec.heard or (shared and not codec.ended(deadline))):
                typer.echo(f"stopped before {name}; --resume goes on from here")
                finished = False
                break
            made = kind.at(scale, seed, out / "parts")
            count = max(1, round(made.settings.steps * steps))
            made.settings = changed(replace(made.settings, steps=count), set_ or [])
            left = (deadline - time.monotonic()) / 60
            result = run(made, out / name, resume or shared, device, left, tensorboard)
            rows.append((name, result.step, result.seconds, result.figures))
            finished = result.finished
            if finished and result.heard and name != names[-1]:  # when the last step was done
                typer.echo(f"stopped behind {name}; --resume goes on from here")
                finished = False
            if not finished:
                break
    if group.first:
        summary(rows, out)
    if group.first and recipe in GROUPS and finished:
        join(out, made.settings.preset)


def join(out: Path, preset: str) -> None:
    """Put the whole model together, if all its parts are there. By one process: the others have left."""
    from .parts import assemble, missing

    if lacking := missing(out / "parts"):
        typer.echo(f"no whole model yet: not trained here are {', '.join(lacking)}")
    else:
        typer.echo(f"the whole model: {assemble(out / 'parts', out / 'checkpoint', preset)}")


@dataclass(frozen=True)
class Beside:
    """The codec's process, and the signals that this one has heard since it started."""

    process: subprocess.Popen
    heard: list[int]
    grace: float  # seconds to save in, once told to stop

    def ended(self, deadline: float) -> bool:
        """Whether the process ends before a signal is heard here and before `deadline`, of `time.monotonic`."""
        while not self.heard and time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)  # a signal that has a handler does not interrupt it
                return True
        return False

    def stop(self) -> None:
        """Let it save and leave. One that takes longer than `grace` is killed: its last checkpoint is whole."""
        self.process.terminate()
        try:
            self.process.wait(self.grace)
        except subprocess.TimeoutExpired:
            self.process.kill()


@contextmanager
def codec_beside(
    wanted: bool, options: list[str], out: Path, resume: bool, minutes: float = math.inf
) -> Iterator[Beside | None]:
    """Train the codec in a process of its own while the thinker trains: neither fills a big GPU, or 16 cores, alone.

    It says what it does in `codec.log`, and stops with a checkpoint when this process leaves the block. Ctrl-C and
    SIGTERM do not end this process within the block, which would leave the other one behind: they are `heard`.
    """
    if not wanted or "WORLD_SIZE" in os.environ:
        yield None
        return
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "omni_lab.cli", "train", "codec", *options, *(["--resume"] if resume else [])]
    from .loop import stop_signal

    with (
        stop_signal() as heard,
        (out / "codec.log").open("a") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        typer.echo(f"the codec trains beside this: {out / 'codec.log'}")
        codec = Beside(process, heard, GRACE if math.isinf(minutes) else SHORT_GRACE)
        try:
            yield codec
        finally:
            codec.stop()


def run(recipe: Recipe, folder: Path, resume: bool, device: str, minutes: float, tensorboard: bool):
    """One recipe by the loop."""
    from .loop import train as train_loop

    return train_loop(recipe, folder, resume, device or None, minutes, tensorboard=tensorboard)


def changed(settings: Settings, pairs: list[str]) -> Settings:
    """`settings` with name=value pairs applied, each read as the type of its field; of several values, as in
    betas=0.9,0.98, each as the type that the field declares. Raises ConfigError."""
    kinds = {entry.name: type(getattr(settings, entry.name)) for entry in fields(settings)}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in kinds:
            raise ConfigError(f"--set {pair}: expected name=value with a name of {', '.join(kinds)}")
        if kinds[name] is tuple:
            values[name] = several(pair, value, get_args(get_type_hints(type(settings))[name]))
            continue
        try:
            read = {"true": True, "false": False}[value.lower()] if kinds[name] is bool else kinds[name](value)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"--set {pair}: {value!r} is no {kinds[name].__name__}") from error
        values[name] = read
    return replace(settings, **values)


def several(pair: str, value: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values between the commas of `value`; kinds: (float, float) for two of them, (str, ...) for any number.

    pair: the whole option, for the message. Raises ConfigError."""
    given = [part.strip() for part in value.split(",")] if value.strip() else []
    any_number = kinds[-1] is ...
    expected = f"{kinds[0].__name__} values" if any_number else ", ".join(kind.__name__ for kind in kinds)
    try:
        if "" in given:
            raise ValueError("nothing between two commas")
        wanted = kinds[:1] * len(given) if any_number else kinds
        return tuple(kind(part) for kind, part in zip(wanted, given, strict=True))
    except ValueError as error:
        raise ConfigError(f"--set {pair}: expected {expected}, separated by commas") from error


def summary(rows: list[tuple[str, int, float, dict[str, float]]], out: Path) -> None:
    """What each recipe took and reached."""
    typer.echo(f"{'recipe':<18}{'steps':>8}{'minutes':>9}  held out")
    for name, steps, seconds, figures in rows:
        reached = ", ".join(f"{k} {v:.4g}" for k, v in list(figures.items())[:4])
        typer.echo(f"{name:<18}{steps:>8}{seconds / 60:>9.1f}  {reached}")
    typer.echo(f"logs and weights: {out}")
