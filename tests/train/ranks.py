"""Train the toy in several processes, forked by `ranks.py FOLDER`; under torchrun `ranks.py FOLDER lose` loses one."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo
import torch.distributed.checkpoint
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp  # noqa: F401 - all of it that sharding loads, before the forks, and not in each child
from toy import TOY, Toy

from omni_lab.errors import OmniLabError
from omni_lab.train import distributed
from omni_lab.train.loop import train
from omni_lab.train.parts import need_part, save_part

SETTINGS = replace(TOY, steps=20, log_every=1, save_every=10)


class Evaluated(Toy):
    """The same, evaluated by a pass without a backward pass: gathered weights must not stay behind."""

    def evaluate(self, model):
        batch = self.batch(999)
        return {"loss": self.loss(model, batch, "main")[0].item()}


class Followed(Evaluated):
    """Reads what the run before it has left, as most recipes do, on every process."""

    def build(self):
        model = super().build()
        need_part(self.parts, "toy", model, self.name)
        return model


class Left(Evaluated):
    """Leaves its part late, as a large one is: the other process is long done."""

    def finish(self, model):
        time.sleep(1)
        save_part(self.parts, "toy", model)


class Killed(Evaluated):
    """Kills the last process (kill -9) in the twelfth step, after the checkpoint of the tenth."""

    calls = 0

    def loss(self, model, batch, optimiser):
        Killed.calls += 1
        if Killed.calls == 25 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch, optimiser)


def run(kind: type[Toy], folder: Path, dtype: str = "auto") -> None:
    settings = replace(SETTINGS, evaluate_every=4, dtype=dtype)
    train(kind(settings, seed=3), folder, resume=True, device="cpu", progress=False)


def one_after_the_other(folder: Path) -> None:
    """Two runs in this process, as a command has that trains a group of recipes."""
    with distributed.processes("cpu"):
        for kind in (Left, Followed):
            recipe = kind(replace(SETTINGS, steps=4), seed=3, parts=folder / "parts")
            train(recipe, folder / kind.__name__, device="cpu", progress=False)


def fork(world: int, work: Callable[[], object]) -> None:
    """Do `work` in `world` processes, as torchrun does, without importing torch again in each."""
    port = free_port()
    children = []
    for rank in range(world):
        pid = os.fork()
        if not pid:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            work()
            os._exit(0)
        children.append(pid)
    for pid in children:
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"a process of {world} failed")


def mixed_versions(folder: Path) -> None:
    """The second process is of another version; each writes what stops it to a file of its own."""
    if os.environ["RANK"] == "1":
        distributed.__version__ = "0.0.9"
    try:
        run(Evaluated, folder)
    except OmniLabError as error:
        folder.with_name(f"stopped_{os.environ['RANK']}.txt").write_text(str(error))


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
    if sys.argv[2:] == ["lose"]:
        try:
            run(Killed, folder)
        except OmniLabError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        sys.exit()
    if sys.argv[2:] == ["resume"]:
        fork(2, lambda: run(Evaluated, folder))
        sys.exit()
    if sys.argv[2:] == ["group"]:
        one_after_the_other(folder)
        sys.exit()
    run(Evaluated, folder / "one")
    run(Evaluated, folder / "one_in_16_bits", dtype="bfloat16")
    fork(2, lambda: run(Evaluated, folder / "two_in_16_bits", dtype="bfloat16"))
    fork(2, lambda: run(Evaluated, folder / "two"))
    halfway(folder / "two", folder / "two_then_four")
    fork(4, lambda: run(Evaluated, folder / "two_then_four"))
    fork(1, lambda: run(Evaluated, folder / "one_sharded"))
    run(Evaluated, halfway(folder / "two", folder / "two_then_one"))
    halfway(folder / "one", folder / "one_then_two")
    fork(2, lambda: run(Evaluated, folder / "one_then_two"))
    fork(2, lambda: mixed_versions(folder / "mixed"))
