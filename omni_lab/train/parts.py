"""Trained parts of the model, each a safetensors file left by a recipe, and the whole model put together from them."""

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import CheckpointError, ConfigError


def part_path(folder: Path, name: str) -> Path:
    """Where part `name` lies."""
    return folder / f"{name}.safetensors"


def save_part(folder: Path | None, name: str, module: nn.Module) -> None:
    """Leave the weights of `module` as part `name`, atomically. Without a folder nothing is left."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = part_path(folder, name)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    # Clones: tied weights share memory, which the format does not allow.
    save_file({k: t.detach().cpu().contiguous().clone() for k, t in module.state_dict().items()}, part)
    os.replace(part, path)


def load_part(folder: Path | None, name: str, module: nn.Module) -> bool:
    """Load part `name` into `module` if it is there; says whether it was. Raises CheckpointError if it does not fit."""
    if folder is None or not part_path(folder, name).exists():
        return False
    path = part_path(folder, name)
    try:
        module.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{path}: not the weights of this model ({str(error).splitlines()[-1].strip()})"
        ) from error
    return True


def need_part(folder: Path | None, name: str, module: nn.Module, recipe: str) -> None:
    """Load part `name`. Raises ConfigError when it has not been trained yet."""
    if not load_part(folder, name, module):
        raise ConfigError(f"{recipe} needs the trained part {name!r} in {folder}: train it first, or `train all`")
