"""What machine a table was measured on: `python -m benchmarks.machine` prints the line that stands above each.

Ratios depend on it. Where a processor's matrix kernels are far from their limit, better ones show; where both libraries
run at the limit, the rest of a step is all there is to win.
"""

import platform
import time
from pathlib import Path

import torch

from omni_lab.runtime import hardware

SIZE, ROUNDS = 768, 5  # of the square matrices; the best round counts


def processor() -> str:
    """The processor's name as the system gives it, with family and model where the name alone says little."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = found.get("model name", platform.machine())
    return f"{name}, family {found['cpu family']}, model {found['model']}" if "cpu family" in found else name


def gigaflops(dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations a nanosecond in a product of two matrices, with torch's present number of threads."""
    a, b = torch.randn(2, SIZE, SIZE).to(dtype)
    taken = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        a @ b
        taken.append(time.perf_counter() - begin)
    return 2 * SIZE**3 / min(taken) / 1e9


def described() -> str:
    """Cores or card, the processor, and how fast it multiplies, in one line."""
    name = hardware().name if hardware().device.type == "cuda" else f"{hardware().name} ({processor()})"
    speed, threads = gigaflops(), torch.get_num_threads()
    return f"{name}; a float32 product of matrices runs at {speed:.0f} GFLOP/s on {threads} thread{'s'[: threads - 1]}"


def main() -> None:
    """Command line."""
    print(described())


if __name__ == "__main__":
    main()
