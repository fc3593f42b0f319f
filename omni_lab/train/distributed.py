"""Past one process: torchrun starts the processes, FSDP2 shards the model over them, each takes its own micro-batches.

    torchrun --nproc-per-node 8 -m omni_lab.cli train thinker_2 --scale gpu --out runs/a --set accumulate=8

The same recipe files run unchanged. The micro-batches of a step are numbered over all processes, and randomness is
drawn by that number, so two processes compute what one would, up to the order in which gradients are added.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import __version__
from ..errors import ConfigError, OmniLabError
from ..runtime import Hardware, hardware
from .recipe import Recipe

PATIENCE = timedelta(minutes=10)  # a collective that waits longer has lost a process


@dataclass(frozen=True)
class Processes:
    """This process's place among those of the run."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


@contextmanager
def processes(device: str | torch.device | None = None) -> Iterator[tuple[Processes, Hardware]]:
    """Join the other processes if torchrun started this one; leave them at the end. Within another such block: wait
    for the others there, and leave nobody.

    Whoever trains one recipe after the other does so within one block. Members of a group find each other through
    torchrun's store, where a second group of the same processes would find what the first has left.
    A process that dies takes its connections along: the survivors stop with an OmniLabError that says so.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and "WORLD_SIZE" not in os.environ:
        yield Processes(), hardware(device)
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    here, outermost = hardware(own_device(device)), not dist.is_initialized()
    if here.device.type == "cuda":
        torch.cuda.set_device(here.device)
    if outermost:
        dist.init_process_group("nccl" if here.device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        need_one_version()
        yield Processes(rank, world), here
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not lost_peer(error):
            raise
        raise OmniLabError(
            f"process {rank} of {world} stops: another process of this run has died or hangs; its own message stands "
            "above. Start the same command with --resume to go on from the last checkpoint"
        ) from error
    finally:
        if outermost:
            dist.destroy_process_group()


def own_device(device: str | torch.device | None) -> str:
    """`device`, or the best there is for this one of torchrun's processes: a card without a number is its own."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if str(device) == "cuda" else str(device)


def need_one_version() -> None:
    """Raise ConfigError when the processes, which may be on several machines, run different versions."""
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, f"omni_lab {__version__} with torch {torch.__version__}")
    for rank, version in enumerate(told):
        if version != told[0]:
            raise ConfigError(f"process {rank} runs {version}, process 0 {told[0]}: install one version everywhere")


def lost_peer(error: BaseException) -> bool:
    """Is this what a collective says when the other end of a connection has gone?"""
    text = str(error).lower()
    signs = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "nccl")
    return isinstance(error, dist.DistError) or any(sign in text for sign in signs)


class Gathered(nn.Module):
    """Calls a function on a model. Where FSDP2 has sharded the model, its weights are whole while the function runs.

    A recipe's loss may enter a model anywhere, and read a table of embeddings without calling what it belongs to. FSDP2
    gathers weights when a module is *called*, so the loss itself is what is called. Not with its batch: in front of a
    tensor among the arguments that has a gradient FSDP2 would let go of the weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Any]) -> Any:
        """function(model)"""
        return function(self.model)


def on_all_weights(loss: Callable[..., tuple[Tensor, Any]], model: nn.Module, **given: Any) -> tuple[Tensor, Any]:
    """A recipe's loss, with a gradient of zero for every gathered weight that it left out.

    A process whose batch holds no sound has none for the audio encoder, and the sum over processes would not fit."""
    value, figures = loss(model, **given)
    whole = [p.sum() for p in model.parameters() if p.requires_grad and not hasattr(p, "to_local")]
    return value + 0.0 * torch.stack(whole).sum(), figures


def shard(whole: Gathered, blocks: list[nn.Module], here: Hardware, dtype: torch.dtype) -> None:
    """FSDP2: each block, then the rest, over all processes; gradients are reduced in float32.

    Blocks are gathered in `dtype` and return float32, the rest as it is, for autocast to round as it would in one
    process; evaluated, which is done without autocast, blocks still compute in `dtype`. Whoever uses the model must do
    so through `whole`."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if dtype == torch.float16:
        raise ConfigError("fp16 with loss scaling runs on one process only: --set dtype=float32")
    mesh = init_device_mesh(here.device.type, (dist.get_world_size(),))
    inside, returned = (dtype, torch.float32) if dtype != torch.float32 else (None, None)
    policy = MixedPrecisionPolicy(inside, reduce_dtype=torch.float32, output_dtype=returned)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
        if hasattr(block, "queries_and_keys"):  # a way in besides calling it
            register_fsdp_forward_method(block, "queries_and_keys")
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    numbers = {p for p in whole.parameters() if p.ndim == 0}  # FSDP2 takes none: see `clip_gradients`
    fully_shard(whole, mesh=mesh, mp_policy=exact, ignored_params=numbers)


def clip_gradients(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """Scale gradients in place so that their norm is at most `limit`; returns the norm before, a scalar.

    Sharded or not. What every process has whole (single numbers) gets the mean of all processes' gradients first."""
    sharded = [p for p in parameters if hasattr(p, "to_local")]
    if not sharded:
        return nn.utils.clip_grad_norm_(parameters, limit)
    whole = [p for p in parameters if not hasattr(p, "to_local")]
    for p in whole:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        dist.all_reduce(p.grad)
        p.grad /= dist.get_world_size()
    norms = [nn.utils.get_total_norm([p.grad for p in some if p.grad is not None]) for some in (sharded, whole)]
    device = sharded[0].device
    norm = torch.stack([(n.full_tensor() if hasattr(n, "full_tensor") else n).to(device) for n in norms]).norm()
    for some in (sharded, whole):
        nn.utils.clip_grads_with_norm_(some, limit, norm)
    return norm


def reshard(model: nn.Module) -> None:
    """Let go of gathered weights. After a pass without a backward pass they stay gathered, and would go stale."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def total(value: float, device: torch.device) -> float:
    """Sum of `value` over all processes."""
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.item()


def whole_model(recipe: Recipe, model: nn.Module) -> nn.Module:
    """An unsharded copy of a sharded model on the CPU of the first process (others get one with empty weights)."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    whole = recipe.build().eval()
    if dist.get_rank() == 0:
        whole.load_state_dict(state)
    return whole


def union(names: Iterable[str]) -> list[str]:
    """What any process names, in the same order on all: a process whose batches held no sound has no loss on it."""
    if not dist.is_initialized():
        return sorted(names)
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, list(names))
    return sorted({name for each in told for name in each})
