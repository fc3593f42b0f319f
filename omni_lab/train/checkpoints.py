"""Checkpoints of a run: a folder `step_00000123/` that is complete from the moment it has that name.

One process writes `state.safetensors`, several write torch.distributed.checkpoint shards; either is read by any number
of processes. `state.json` holds everything that is no tensor, and of each file beside it a fingerprint, so that a shard
that is missing, cut off, or of another step is told by its name. Nothing is unpickled but the shard index that
torch.distributed.checkpoint writes. Random states need no place in it: the loop derives them from the step (recipe.py).
"""

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import __version__
from ..errors import CheckpointError
from .optimise import ExponentialAverage, local

KEPT = 2  # newest checkpoints that stay on the disk
FORM = 1  # of the files; counted up by a change that older code cannot read
PIECES, PIECE = 16, 4096  # of a fingerprint: how many, and their bytes


def run_tensors(
    model: nn.Module, optimisers: Mapping[str, torch.optim.Optimizer], average: ExponentialAverage
) -> dict[str, Tensor]:
    """Every tensor that a run must keep, by name: model/..., ema/..., optimiser/NAME/.... Loading copies into these."""
    names = {id(p): name for name, p in model.named_parameters()}
    tensors = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    saved = model.state_dict(keep_vars=True)
    tensors |= {f"model/{name}": saved[name] for name, _ in model.named_buffers() if name in saved}
    tensors |= {f"ema/{name}": t for name, t in average.average.items()}
    for label, optimiser in optimisers.items():
        for parameter, state in optimiser.state.items():
            tensors |= {f"optimiser/{label}/{names[id(parameter)]}/{k}": t for k, t in state.items()}
    return tensors


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write `folder/step_N` atomically (all processes call it), then remove all but the newest checkpoints."""
    final = folder / f"step_{step:08d}"
    part = folder / f"{final.name}.part"
    first = not dist.is_initialized() or dist.get_rank() == 0
    if first:
        for stale in (part, final):
            shutil.rmtree(stale, ignore_errors=True)
        part.mkdir(parents=True)
    if dist.is_initialized():
        import torch.distributed.checkpoint as dcp

        dist.barrier()
        dcp.save(tensors, checkpoint_id=part)
    else:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, part / "state.safetensors")
    if first:
        known = {"form": FORM, "omni_lab": __version__, "torch": torch.__version__, "files": fingerprints(part)}
        (part / "state.json").write_text(json.dumps(state | known, indent=1))
        flush(part)
        os.replace(part, final)
        for old in saved_steps(folder)[:-KEPT]:
            shutil.rmtree(folder / f"step_{old:08d}")
    if dist.is_initialized():
        dist.barrier()
    return final


def fingerprints(folder: Path) -> dict[str, str]:
    """Of each file its size and a checksum of pieces spread evenly over it: a moment's reading, however large it is.

    It tells files of two steps apart and finds one that was cut off; it does not look for a single flipped bit.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        size, value = path.stat().st_size, 0
        with path.open("rb") as file:
            for number in range(PIECES):
                file.seek(max(size - PIECE, 0) * number // (PIECES - 1))
                value = zlib.crc32(file.read(PIECE), value)
        found[path.name] = f"{size} bytes, {value:08x}"
    return found


def check_files(path: Path, state: dict[str, Any]) -> None:
    """Raise CheckpointError unless the checkpoint is of a form that this version reads and its files are those that
    were saved with it. Checkpoints from before there were fingerprints pass."""
    if state.get("form", FORM) > FORM:
        raise CheckpointError(
            f"{path}: written by omni_lab {state.get('omni_lab')} in form {state['form']}; this is omni_lab "
            f"{__version__}, which reads form {FORM}: update omni_lab"
        )
    there = fingerprints(path)
    for name, saved in state.get("files", {}).items():
        if name not in there:
            raise CheckpointError(f"{path / name}: missing; {way_on(path)}")
        if there[name] != saved:
            raise CheckpointError(
                f"{path / name}: damaged or of another checkpoint ({there[name]}; saved were {saved}); {way_on(path)}"
            )


def way_on(path: Path) -> str:
    """What to do about checkpoint `path`, which cannot be read."""
    earlier = [step for step in saved_steps(path.parent) if step < int(path.name[5:])]
    if earlier:
        return f"remove {path} to go on from step {earlier[-1]}"
    return "put it back, or start anew in another folder"


def flush(folder: Path) -> None:
    """Wait until the files of `folder` are on the disk, so that a power cut cannot leave an empty one behind."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def saved_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in `folder`, oldest first."""
    found = folder.glob("step_*") if folder.is_dir() else []
    return sorted(int(p.name[5:]) for p in found if p.name[5:].isdigit() and (p / "state.json").exists())


def read_state(folder: Path, step: int) -> dict[str, Any]:
    """What `save` was given as `state`. Raises CheckpointError."""
    path = folder / f"step_{step:08d}" / "state.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: no readable checkpoint state ({error}); {way_on(path.parent)}") from error


@torch.no_grad()
def load(folder: Path, step: int, tensors: dict[str, Tensor]) -> None:
    """Copy checkpoint `step` into `tensors`, whole or sharded, whatever number of processes wrote it.

    Raises CheckpointError naming the first file that is missing or was changed, or the first tensor that is missing,
    extra or of another shape.
    """
    path = folder / f"step_{step:08d}"
    check_files(path, read_state(folder, step))
    if not (path / "state.safetensors").exists():
        load_shards(path, tensors)
        return
    try:
        with safe_open(path / "state.safetensors", "pt") as file:
            check_names(path, set(file.keys()), set(tensors))
            for name, target in tensors.items():
                copy_whole(name, file.get_tensor(name), target, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}/state.safetensors: damaged ({error})") from error


def load_shards(path: Path, tensors: dict[str, Tensor]) -> None:
    """Read torch.distributed.checkpoint shards into plain or sharded tensors."""
    import torch.distributed.checkpoint as dcp

    try:
        reader = dcp.FileSystemReader(path)
        check_names(path, set(reader.read_metadata().state_dict_metadata), set(tensors))
        dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    except (OSError, EOFError, ValueError, dcp.api.CheckpointException) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: damaged checkpoint shards ({str(error).splitlines()[0]})") from error


def check_names(path: Path, there: set[str], wanted: set[str]) -> None:
    """Raise CheckpointError for a tensor on one side only."""
    for problem, names in (("misses", wanted - there), ("holds unknown", there - wanted)):
        if names:
            raise CheckpointError(f"{path}: {problem} {min(names)} ({len(names)} such): was the model changed?")


def copy_whole(name: str, whole: Tensor, target: Tensor, path: Path) -> None:
    """Copy a whole tensor into a plain or sharded one."""
    if whole.shape != target.shape:
        raise CheckpointError(f"{path}: {name} is {tuple(whole.shape)}, the model has {tuple(target.shape)}")
    if hasattr(target, "device_mesh"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        whole = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements)
    local(target).copy_(local(whole))
