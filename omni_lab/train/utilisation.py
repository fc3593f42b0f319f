"""How much of a machine a run uses: floating-point operations, bytes moved, and the roofline over both.

Model FLOPs utilisation (MFU; Chowdhery et al. 2022, appendix B) counts what the model needs, not what was executed:
recomputing activations costs time and earns nothing. Decoding at batch 1 is bound by memory instead: every weight is
read once a token.
"""

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..config import TextConfig
from ..cpu_kernels import Linear
from ..errors import InputError
from ..runtime import free_memory, hardware
from .memory import cache_bytes


@dataclass(frozen=True)
class Card:
    """What the vendor's data sheet promises, dense, without sparsity."""

    flops: float  # a second, in bf16 (T4: fp16) on tensor cores
    bandwidth: float  # bytes a second
    memory: float  # bytes


# Data sheets of NVIDIA: T4 (2019), L4 (2023), A100 (2021), H100 (2023), H200 (2024). The name of an H100 or H200 in SXM
# form does not say so ("NVIDIA H100 80GB HBM3").
CARDS = {
    "T4": Card(65e12, 320e9, 16e9),
    "L4": Card(121e12, 300e9, 24e9),
    "A100-SXM4-40GB": Card(312e12, 1555e9, 40e9),
    "A100-SXM4-80GB": Card(312e12, 2039e9, 80e9),
    "A100-PCIE-40GB": Card(312e12, 1555e9, 40e9),
    "A100 80GB PCIe": Card(312e12, 1935e9, 80e9),
    "H100": Card(989e12, 3350e9, 80e9),
    "H100 PCIe": Card(756e12, 2000e9, 80e9),
    "H100 NVL": Card(835e12, 3900e9, 94e9),
    "H200": Card(989e12, 4800e9, 141e9),
    "H200 NVL": Card(835e12, 4800e9, 141e9),
}


def words(name: str) -> set[str]:
    """The words of a card's name. Whole ones: an L40 is no L4. Drivers write "80GB PCIe" and "PCIE-40GB"."""
    return set(re.split(r"[ -]+", name.upper()))


def card(name: str) -> Card:
    """The data sheet of the GPU that torch calls `name` ("NVIDIA H200"). Raises InputError for one not in the table."""
    fitting = [known for known in CARDS if words(known) <= words(name)]
    if not fitting:
        raise InputError(f"no data sheet for {name!r}: add its dense FLOP/s and bandwidth to CARDS")
    return CARDS[max(fitting, key=lambda known: len(words(known)))]  # an H100 NVL is an H100 too


def flops_per_token(matrices: int, layers: int, heads: int, head_dim: int, length: int) -> int:
    """Floating-point operations of training on one token: forward and backward (Chowdhery et al. 2022, appendix B).

    matrices: parameters that multiply each token (layers and head; no embedding table, which is only looked up). Two
    operations a parameter forward, twice as many backward. Attention adds two products of `length` keys by head_dim in
    each head, and again twice as much backward. Causality is not taken off, as in the paper.
    """
    return 6 * matrices + 12 * layers * heads * head_dim * length


def mfu(tokens_per_second: float, flops_per_token: float, peak_flops: float, processes: int = 1) -> float:
    """Model FLOPs utilisation, as a fraction: what the model needed over what all cards could have done."""
    return tokens_per_second * flops_per_token / (peak_flops * processes)


def matrix_parameters(config: TextConfig) -> int:
    """Parameters of a decoder's layers and head that multiply each token (biases and norms are left out)."""
    width, narrow = config.hidden_size, config.num_key_value_heads * config.head_dim
    attention = 2 * width * (config.num_attention_heads * config.head_dim + narrow)
    layer = attention + 3 * width * config.intermediate_size
    return config.num_hidden_layers * layer + config.vocab_size * width


def decoder_flops(config: TextConfig, length: int) -> int:
    """`flops_per_token` of a decoder at rows of `length` tokens."""
    shape = (config.num_hidden_layers, config.num_attention_heads, config.head_dim)
    return flops_per_token(matrix_parameters(config), *shape, length)


def attainable(intensity: float, peak_flops: float, bandwidth: float) -> float:
    """The roofline (Williams et al. 2009): FLOP/s possible at `intensity` operations a byte moved."""
    return min(peak_flops, intensity * bandwidth)


def decode_limit(weight_bytes: float, cache_bytes: float, bandwidth: float, batch: int = 1) -> float:
    """Most tokens a second of all rows together: a step reads the weights once and each row's cache once."""
    return batch * bandwidth / (weight_bytes + batch * cache_bytes)


def decoder_limit(config: TextConfig, length: int, bandwidth: float, batch: int = 1, size: int = 2) -> float:
    """`decode_limit` of a decoder with `length` tokens in the cache; size: bytes a number."""
    row = cache_bytes(config, 1, length, size)
    return decode_limit(size * matrix_parameters(config), row, bandwidth, batch)


def measured_seconds(run: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """Median seconds of `run()`, after one round that does not count; waits for the device."""
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def best_seconds(run: Callable[[], object], device: torch.device, rounds: int = 8) -> float:
    """Shortest time of `run()`: a roof is what the machine can do when nothing else runs on it."""
    return min(measured_seconds(run, device, rounds=1) for _ in range(rounds))


def measured_flops(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 768) -> float:
    """FLOP/s that a product of square matrices of `size` reaches here: the roof of a machine without a data sheet."""
    layer = Linear(size, size, bias=False).to(device, dtype)  # the package's own, for it picks the faster library
    rows = torch.randn(size, size, device=device, dtype=dtype)
    with torch.no_grad():
        return 2 * size**3 / best_seconds(lambda: layer(rows), device)


def enough_to_read(device: torch.device) -> int:
    """Megabytes whose reading takes so long that starting it does not show: on a card 4 GB (a millisecond on an H200),
    or a quarter of what is free."""
    if device.type != "cuda":
        return 64
    return min(4000, free_memory(hardware(device)) // 4_000_000)


def measured_bandwidth(device: torch.device, megabytes: int | None = None) -> float:
    """Bytes a second that reading a large tensor reaches here (its sum). Default: as many as `enough_to_read`."""
    values = torch.ones((megabytes or enough_to_read(device)) * 250_000, device=device)
    return values.nbytes / best_seconds(lambda: values.sum(), device)
