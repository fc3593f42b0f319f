"""What DPO added to a talker's weights: a file beside a checkpoint, by which it can be heard with it and without.

Eight bits a number and a scale for each tensor: the change is small beside the weights, so that this is finer than the
16 bits in which those are stored.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CheckpointError

FILE = "dpo_change.safetensors"
SCALE = ".scale"  # behind a tensor's name: what its whole numbers are multiplied by


def write(path: Path, change: Mapping[str, Tensor]) -> None:
    """Leave the change, weights by name, atomically."""
    kept: dict[str, Tensor] = {}
    for name, tensor in change.items():
        scale = tensor.abs().max().clamp(min=1e-12) / 127
        kept |= {name: (tensor / scale).round().to(torch.int8).contiguous(), name + SCALE: scale.float()[None]}
    part = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(kept, part)
    os.replace(part, path)


def read(path: Path) -> dict[str, Tensor]:
    """The change as it was written, float32. Raises CheckpointError for a damaged file."""
    try:
        kept = load_file(path)
        return {name: kept[name].float() * kept[name + SCALE] for name in kept if not name.endswith(SCALE)}
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not what DPO changed ({error}); fetch or train it again") from error


def taken_back(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The talker's weights less the change in a file. Raises CheckpointError if it is damaged or of another talker."""
    change = read(path)
    strange = [name for name in change if name not in weights or weights[name].shape != change[name].shape]
    if strange:
        raise CheckpointError(f"{path}: {strange[0]} is no weight of this talker; it belongs to another checkpoint")
    change = {name: added.to(weights[name].device) for name, added in change.items()}
    return {name: (w.float() - change[name]).to(w.dtype) if name in change else w for name, w in weights.items()}
