"""`omni-lab export`: a checkpoint for other programs, in the reference's layout, in one type, in shards."""

import math
from pathlib import Path
from typing import Annotated

import typer

from . import checkpoints
from .errors import ConfigError
from .omni import OmniModel


def export(
    checkpoint: Annotated[str, typer.Argument(help="folder or hub id to read")],
    folder: Annotated[Path, typer.Argument(help="folder to write")],
    dtype: Annotated[str, typer.Option(help="type of the stored weights: float32, bfloat16 or float16")] = "bfloat16",
    shard_gb: Annotated[float, typer.Option(help="largest file, in GB")] = 5.0,
) -> None:
    """Write CHECKPOINT to FOLDER as transformers and serving engines read it. Raises OmniLabError."""
    kind = checkpoints.float_type(dtype)
    if not 0 < shard_gb < math.inf:
        raise ConfigError(f"shard_gb is {shard_gb}, expected a positive number")
    if folder.is_dir() and folder.resolve() == Path(checkpoint).resolve():
        raise ConfigError(f"{folder}: is the checkpoint itself; choose another folder")
    print(f"reading {checkpoint}")
    # 16 bits are read as 16 bits: the types that the DiT needs are widened by whoever loads it
    model = OmniModel.from_pretrained(checkpoint, device="cpu", dtype=kind)
    print(f"writing {folder} in {dtype}")
    model.save_pretrained(folder, int(shard_gb * 2**30), kind)
    for path in sorted(folder.iterdir()):
        print(f"  {path.name:<40} {path.stat().st_size / 2**20:10.1f} MB")
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e6:.1f} M parameters, for Qwen2_5OmniForConditionalGeneration.from_pretrained({str(folder)!r})")
