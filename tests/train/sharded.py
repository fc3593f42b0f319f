"""Train recipes at smoke scale in two processes, forked: `sharded.py FOLDER RECIPE ...`; parts lie in FOLDER/parts."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo
import torch.distributed.checkpoint
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp  # noqa: F401 - before the forks, and not in each child

from omni_lab.train.loop import train
from omni_lab.train.recipes import find


def run(name: str, folder: Path) -> None:
    recipe = find(name).at("smoke", parts=folder / "parts")
    recipe.settings = replace(recipe.settings, steps=2, accumulate=2, log_every=1, dtype="float32")
    train(recipe, folder / name, device="cpu", progress=False)


if __name__ == "__main__":
    from ranks import fork

    torch.set_num_threads(1)
    for name in sys.argv[2:]:
        fork(2, lambda name=name: run(name, Path(sys.argv[1])))
