"""Twenty steps of the nano decoder on other numbers of processes, saved and resumed on others, and with one killed.

    python -m benchmarks.processes [--steps 20]

All runs are the recipe `language` with FSDP2 over gloo on a CPU, and differ in nothing but the processes. Beside each
stand the largest differences from one undisturbed process: of a loss, and of a parameter (by its norm) at the end,
both relative. Writes benchmarks/results/processes.md and .json.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp  # noqa: F401 - before the forks, so that each process need not import it again
from torch import Tensor

from omni_lab.errors import OmniLabError
from omni_lab.runtime import hardware
from omni_lab.train.log import read_log
from omni_lab.train.loop import train
from omni_lab.train.nano import processor
from omni_lab.train.recipe import Batch
from omni_lab.train.recipes.thinker import Language

RESULTS = Path(__file__).parent / "results"
TOLD = "stopped.txt"


class Killed(Language):
    """Ends the second process by kill -9, in the step after the checkpoint."""

    left = 0  # losses until then

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        self.left -= 1
        if self.left < 0 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch, optimiser)


def recipe(steps: int, kind: type[Language] = Language) -> Language:
    settings = replace(Language.scales["smoke"], steps=steps, accumulate=4, length=128, save_every=steps // 2)
    return kind(settings, seed=1)


def run(folder: Path, steps: int, kind: type[Language] = Language) -> dict[str, Tensor]:
    """Train to the end, or resume; the final weights."""
    result = train(recipe(steps, kind), folder, resume=True, device="cpu", progress=False)
    return {name: p.detach() for name, p in result.model.named_parameters()}


def fork(world: int, work: Callable[[], object]) -> list[int]:
    """Do `work` in `world` processes, as torchrun does, without importing torch again; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            code = 1
            try:
                work()
                code = 0
            except BaseException:  # the child must not go on as its parent
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def together(world: int, folder: Path, steps: int) -> None:
    if any(fork(world, lambda: run(folder, steps))):
        sys.exit(f"processes: {folder.name} failed on {world} processes, see above")


def lose_one(folder: Path, steps: int) -> str:
    """A run of two that loses one: what the other said."""
    folder.mkdir()

    def work() -> None:
        Killed.left = 2 * (steps // 2) + 1  # two micro-batches a step each
        try:
            run(folder, steps, Killed)
        except OmniLabError as error:
            (folder / TOLD).write_text(str(error))

    codes = fork(2, work)
    if codes != [0, -signal.SIGKILL] or not (folder / TOLD).exists():
        sys.exit(f"processes: the run that lost a process ended with {codes}, without its line")
    return (folder / TOLD).read_text()


def losses(folder: Path) -> list[float]:
    return [float(row["value"]) for row in read_log(folder / "log.csv") if row["name"] == "loss"]


def halfway(whole: Path, part: Path, steps: int) -> Path:
    """A copy of a run as it stood after its first checkpoint."""
    shutil.copytree(whole, part)
    shutil.rmtree(part / f"step_{steps:08d}")
    return part


def measured(root: Path, steps: int) -> dict[str, Any]:
    """Run everything; figures by the name of the run."""
    expected = run(root / "one process", steps)
    together(2, root / "two processes", steps)
    cut = {
        "saved on two, resumed on one": ("two processes", 1),
        "saved on two, resumed on four": ("two processes", 4),
        "saved on one, resumed on two": ("one process", 2),
    }
    for name, (source, world) in cut.items():
        folder = halfway(root / source, root / name, steps)
        if world > 1:
            together(world, folder, steps)
        else:
            run(folder, steps)
    lost = root / "two, one killed (kill -9), resumed on two"
    line = lose_one(lost, steps)
    together(2, lost, steps)
    first, table = losses(root / "one process"), {}
    for folder in (root / "two processes", *(root / name for name in cut), lost):
        own = losses(folder)
        if len(own) != len(first):
            sys.exit(f"processes: {folder.name} logged {len(own)} steps of {len(first)}")
        weights = run(folder, steps)  # has ended: reads the last checkpoint, whoever wrote it
        apart = max(float((weights[k] - expected[k]).norm() / expected[k].norm().clamp(min=1e-6)) for k in expected)
        loss = max(abs(a - b) / abs(b) for a, b in zip(own, first, strict=True))
        table[folder.name] = {"loss": loss, "weights": apart}
    return {
        "date": date.today().isoformat(),
        "steps": steps,
        "first_loss": first[0],
        "last_loss": first[-1],
        "runs": table,
        "line": line,
    }


def page(found: dict[str, Any]) -> str:
    """The table."""
    rows = [f"| {name} | {r['loss']:.1e} | {r['weights']:.1e} |" for name, r in found["runs"].items()]
    return "\n".join([
        "# The same run on other numbers of processes",
        "",
        f"{found['steps']} steps of the recipe `language` (nano decoder, float32), FSDP2 over gloo, "
        f"{hardware('cpu').name}, {found['date']}, torch {torch.__version__}; saved after half of the steps. The loss "
        f"goes from {found['first_loss']:.3f} to {found['last_loss']:.3f}. Largest relative difference from one "
        "process that runs through:",
        "",
        "| run | of a step's loss (logged to six digits) | of a parameter (norm) at the end |",
        "|---|---|---|",
        *rows,
        "",
        f"The process that was left said: \"{found['line']}\"",
        "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    processor()  # before the forks
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), chosen.steps)
    (RESULTS / "processes.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "processes.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
