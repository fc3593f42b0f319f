"""Weights of the decoders in 8 or 4 bits, by torchao: fewer bytes to hold, and fewer to read for every token.

Weight-only: a matrix is stored in few bits with scales beside it, and multiplied in the model's own type. "int8" is an
integer with a scale for each row; "nf4" sixteen levels placed where a normal distribution has its weights, with a
scale for every 64 (Dettmers et al. 2023, section 3). Embeddings, heads, norms and encoders stay as they are: they are
few, and errors in them are felt.

A matrix is quantised as it is read from the file, so that the model is never there in 16 bits.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import checkpoints
from .errors import CheckpointError, ConfigError, OmniLabError
from .runtime import Hardware, free_memory

KINDS = ("int8", "nf4")
BLOCK = 64  # weights that share a scale in nf4
BYTES = {"int8": 1.0, "nf4": 0.5 + 1 / BLOCK}  # a weight, scales of blocks included
# As safetensors calls them; floats of other kinds are converted, and their size is that of what they become.
STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
DECODERS = re.compile(r"(thinker|talker)\.model\.layers\.\d+\..*_proj\.weight")


def check_kind(kind: str | None) -> None:
    """Raise ConfigError for an unknown kind, OmniLabError when torchao is not installed."""
    if kind is None:
        return
    if kind not in KINDS:
        raise ConfigError(f"quantise {kind!r}: choose one of {', '.join(KINDS)}, or None")
    try:
        import torchao  # noqa: F401
    except ImportError as error:
        raise OmniLabError(f"quantise {kind!r} needs torchao: `pip install torchao`") from error


def bytes_to_load(
    files: Mapping[str, Path],
    dtype_of: Callable[[str, torch.dtype], torch.dtype],
    kind: str | None,
    device: torch.device,
    ignored: tuple[str, ...] = (),
) -> float:
    """Bytes that the tensors of `files` will take on `device`, from the files' headers alone.

    The arguments are those of `checkpoints.load_weights`. On the CPU a tensor that keeps its type stays memory-mapped,
    and is not counted. Raises CheckpointError."""
    total = 0.0
    for path in set(files.values()):
        with checkpoints.opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if files.get(name) != path or (ignored and name.startswith(ignored)):
                    continue
                part = file.get_slice(name)
                stored = STORED.get(part.get_dtype(), torch.float32)
                kept = dtype_of(name, stored) if stored.is_floating_point else stored
                count = math.prod(part.get_shape())
                if kind is not None and DECODERS.fullmatch(name):
                    total += BYTES[kind] * count
                elif device.type != "cpu" or kept != stored:
                    total += kept.itemsize * count
    return total


def need_to_load(
    folder: Path,
    files: Mapping[str, Path],
    dtype_of: Callable[[str, torch.dtype], torch.dtype],
    kind: str | None,
    here: Hardware,
    ignored: tuple[str, ...] = (),
) -> None:
    """Raise CheckpointError, with what would fit, when a checkpoint needs more memory than there is."""
    free = free_memory(here)
    needed = {way: bytes_to_load(files, dtype_of, way, here.device, ignored) for way in (kind, *KINDS)}
    if needed[kind] <= free:
        return
    ways = [f"quantise={way!r} ({needed[way] / 1e9:.1f} GB)" for way in KINDS if needed[way] <= free]
    raise CheckpointError(
        f"{folder}: its weights need {needed[kind] / 1e9:.1f} GB and {free / 1e9:.1f} GB are free on {here.name}; "
        f"what would fit: {', '.join(ways) or 'a smaller checkpoint, or a card with more memory'}"
    )


def quantised(name: str, tensor: torch.Tensor, kind: str) -> torch.Tensor:
    """A tensor of a checkpoint as it is kept: matrices of the decoders quantised, others as they come.

    Raises ConfigError for a matrix that does not divide into blocks."""
    if not DECODERS.fullmatch(name):
        return tensor
    if kind == "int8":
        return in_int8(tensor)
    if tensor.numel() % BLOCK:
        raise ConfigError(f"{name} has {tensor.numel()} weights, which do not divide into blocks of {BLOCK}: use int8")
    return in_nf4(tensor)


def in_int8(weight: torch.Tensor) -> torch.Tensor:
    """(rows, columns) with one scale a row."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    box: Any = nn.Sequential(nn.Linear(1, 1, bias=False))  # torchao quantises modules
    box[0].weight = nn.Parameter(weight.detach(), requires_grad=False)
    quantize_(box, Int8WeightOnlyConfig(set_inductor_config=False))
    return box[0].weight


def in_nf4(weight: torch.Tensor) -> torch.Tensor:
    """(rows, columns) with one scale a block of weights; the scales are in 8 bits themselves."""
    from torchao.quantization import to_nf4

    scales = weight.numel() // BLOCK
    shared = math.gcd(scales, 256)  # scales that share a scale of their own
    return nn.Parameter(to_nf4(weight.detach().contiguous(), BLOCK, shared), requires_grad=False)


def is_quantised(model: nn.Module) -> bool:
    """Whether any weight is quantised."""
    return any(type(p.data).__module__.startswith("torchao") for p in model.parameters())
