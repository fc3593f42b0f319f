"""The one place that decides device, dtype, threads, seed and scale.

Everything else asks here, so that a lab, a recipe and a test agree on what "this machine" means.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from .errors import ConfigError

SCALES = ("smoke", "cpu", "t4", "gpu")


@dataclass(frozen=True)
class Hardware:
    """What the current process runs on."""

    device: torch.device
    dtype: torch.dtype  # compute type under autocast: float32 on a CPU, float16 on a T4, bfloat16 from capability 8.0
    name: str  # for tables: "NVIDIA H200" or "2 CPU cores"
    memory: int  # bytes: of the card, or of the machine


def hardware(device: str | torch.device | None = None) -> Hardware:
    """Describe `device` (default: the first GPU, else Apple's, else the CPU). Raises ConfigError if it is not here."""
    device = present(device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        # A T4 claims bf16 by emulation; only from compute capability 8.0 on is it native.
        dtype = torch.bfloat16 if properties.major >= 8 else torch.float16
        return Hardware(device, dtype, properties.name, properties.total_memory)
    cores = available_cores()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return Hardware(device, torch.float32, f"{cores} CPU cores", memory)


def present(device: str | torch.device | None) -> torch.device:
    """`device`, or the best there is. Raises ConfigError for one that this machine lacks, saying what it has."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = [*["cuda"] * bool(cards), *["mps"] * torch.backends.mps.is_available(), "cpu"]
    if device is None:
        return torch.device(here[0])
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, TypeError):  # as each backend pleases
        has = ", ".join([*here, *(f"cuda:{i}" for i in range(cards))])
        raise ConfigError(f"device {str(device)!r} is not on this machine, which has {has}") from None
    return wanted


def available_cores() -> int:
    """Cores that this process may use (a container often sees fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(here: Hardware) -> int:
    """Bytes that can still be had: of the card, or of the machine."""
    if here.device.type == "cuda":
        return torch.cuda.mem_get_info(here.device)[0]
    return psutil.virtual_memory().available


def default_scale() -> str:
    """`OMNI_LAB_SCALE`, else what the hardware carries: "gpu" from 20 GB of GPU memory, "t4" below, "cpu" without."""
    chosen = os.environ.get("OMNI_LAB_SCALE")
    if chosen:
        return check_scale(chosen)
    here = hardware()
    if here.device.type != "cuda":
        return "cpu"
    return "gpu" if here.memory > 20e9 else "t4"


def check_scale(scale: str) -> str:
    """Return `scale`, or raise ConfigError if there is no such scale."""
    if scale not in SCALES:
        raise ConfigError(f"unknown scale {scale!r}: choose one of {', '.join(SCALES)}")
    return scale


def seed_everything(seed: int) -> torch.Generator:
    """Seed Python, NumPy and torch; returns a CPU generator of its own with the same seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def set_threads(count: int | None = None) -> None:
    """Have torch compute on `count` threads (default: all cores) from now on. The one place of the package that does.

    Toy tensors want 1: two were 10 to 20 times slower."""
    torch.set_num_threads(count or available_cores())


@contextmanager
def threads(count: int | None = None) -> Iterator[None]:
    """Run a block on `count` torch threads (default: all cores); see `set_threads`."""
    before = torch.get_num_threads()
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before)
