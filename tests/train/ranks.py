"""Train the toy in several processes, forked by `ranks.py FOLDER`; under torchrun `ranks.py FOLDER die` loses one."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed.checkpoint
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp  # noqa: F401 - before the forks, so that each child need not import it again
from toy import TOY, Toy

from omni_lab.errors import OmniLabError
from omni_lab.train.loop import train

SETTINGS = replace(TOY, steps=20, log_every=1, save_every=10)


class Evaluated(Toy):
    """The same, evaluated by a pass without a backward pass: gathered weights must not stay behind."""

    def evaluate(self, model):
        batch = self.batch(999)
        return {"loss": self.loss(model, batch, "main")[0].item()}


class Dying(Evaluated):
    """Ends the last process, without a word, in the middle of the run."""

    calls = 0

    def loss(self, model, batch, optimiser):
        Dying.calls += 1
        if Dying.calls == 12 and os.environ["RANK"] == "1":
            os._exit(1)
        return super().loss(model, batch, optimiser)


def run(kind: type[Toy], folder: Path) -> None:
    settings = replace(SETTINGS, evaluate_every=4)
    train(kind(settings, seed=3), folder, resume=True, device="cpu", progress=False)


def fork(world: int, folder: Path, port: int) -> None:
    """What torchrun does, without importing torch again in each process."""
    children = []
    for rank in range(world):
        pid = os.fork()
        if not pid:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            run(Evaluated, folder)
            os._exit(0)
        children.append(pid)
    for pid in children:
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"a process of {world} failed")


def halfway(whole: Path, part: Path) -> Path:
    """The run in `whole` as a kill after its tenth step would have left it."""
    shutil.copytree(whole, part)
    shutil.rmtree(part / "step_00000020")
    return part


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if sys.argv[2:] == ["die"]:
        try:
            run(Dying, folder)
        except OmniLabError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
    run(Evaluated, folder / "one")
    fork(2, folder / "two", free_port())
    fork(4, halfway(folder / "two", folder / "two_then_four"), free_port())
    fork(1, folder / "one_sharded", free_port())
    run(Evaluated, halfway(folder / "two", folder / "two_then_one"))
    fork(2, halfway(folder / "one", folder / "one_then_two"), free_port())
