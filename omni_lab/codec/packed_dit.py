"""The DiT for listening alone, on a CPU: few calls, each over as much as there is.

Notable:
- queries, keys and values come of one product, GELU is part of the next, and a modulated LayerNorm is one LayerNorm
  whose weight and bias are what the time says;
- head 0 is turned in place, as complex numbers;
- oneDNN keeps the weights in the layout that its kernels want.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import cpu_kernels
from .dit_layers import AdaLayerNorm, Attention, DiTLayer, FeedForward, rotary_tables

if TYPE_CHECKING:  # it imports this file
    from .dit import DiT

ROWS = 96  # for which the layout of the weights is chosen: two blocks of frames, with and without conditions
Modulation = tuple[Tensor, ...]  # (hidden_size,) each
# Keys, not yet turned, and values of the block before, by (network call, layer): (rows, size, 2, heads, head_dim).
# None: there is no block before, and none after.
Past = dict[tuple[int, int], Tensor]


def packable(dit: "DiT", x: Tensor) -> bool:
    """Whether a copy may stand for the layers: float32 on a CPU with oneDNN, without gradients or dropout, nothing
    replaced or listened to."""
    layers: Any = dit.transformer_blocks
    if torch.is_grad_enabled() or type(dit.proj_out) is not nn.Linear:
        return False
    if not cpu_kernels.applies(x, dit.proj_out.weight) or not torch.backends.mkldnn.is_available():
        return False
    if not all(type(m) in OURS for m in layers.modules()):
        return False
    if any(m.training and m.p > 0 for m in layers.modules() if isinstance(m, nn.Dropout)):
        return False
    # What the times do is computed once, so of those parts, too, nobody may wait for a call.
    heard = (layers, dit.proj_out, dit.norm_out, dit.time_embed)
    if any(cpu_kernels.listened(m) for part in heard for m in part.modules()):
        return False
    return all(max(layer.attn.reach) <= 1 for layer in layers)


LINEAR = (cpu_kernels.Linear, nn.Linear)
OURS = (nn.ModuleList, DiTLayer, AdaLayerNorm, Attention, FeedForward, *LINEAR, nn.GELU, nn.Dropout)


def linears(layer: Any) -> list[Any]:
    """The six products of a layer."""
    attention, feed = layer.attn, layer.ff.ff
    return [attention.to_q, attention.to_k, attention.to_v, attention.to_out[0], feed[0], feed[3]]


@dataclass(frozen=True)
class Plan:
    """Where the frames of one chunk stand: the same for all layers and calls. The block before stands in front."""

    blocks: int
    block_size: int
    turns: Tensor  # complex, ((1 + blocks) * block_size, 1, head_dim / 2)
    masks: dict[tuple[int, int], Tensor | None]  # added to the scores, (rows * blocks, 1, block_size, window), by reach
    keep: int | None  # which block is the next chunk's past; None: there is no next chunk


def plan(
    config: Any, rows: int, frames: int, masks: dict[tuple[int, int], Tensor | None], keep: int | None = None
) -> Plan:
    """masks: (blocks, 1, block_size, window) bool, by reach, or None where all is seen."""
    size = config.block_size
    blocks = -(-frames // size)
    cos, sin = rotary_tables((1 + blocks) * size, config.head_dim, config.rope_theta, torch.device("cpu"))
    added = {
        reach: None if mask is None else torch.zeros(mask.shape).masked_fill(~mask, -torch.inf).repeat(rows, 1, 1, 1)
        for reach, mask in masks.items()
    }
    return Plan(blocks, size, torch.complex(cos, sin)[:, None], added, keep)


class PackedLinear:
    """Linear layers that share their input, side by side, and perhaps what follows them."""

    def __init__(self, *parts: Any, gelu: bool = False) -> None:
        weight = torch.cat([part.weight.detach() for part in parts])
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        self.bias = torch.cat([part.bias.detach() for part in parts])
        self.after: tuple[str, list[Any], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *self.after)


class PackedDiTLayer:
    """A DiTLayer with its weights copied."""

    def __init__(self, layer: Any, index: int) -> None:
        query, key, value, out, wide, narrow = linears(layer)
        self.index, self.reach, self.head_dim = index, layer.attn.reach, layer.attn.head_dim
        self.qkv, self.out = PackedLinear(query, key, value), PackedLinear(out)
        self.wide, self.narrow = PackedLinear(wide, gelu=True), PackedLinear(narrow)

    def __call__(self, x: Tensor, modulation: Modulation, plan: Plan, past: Past | None, call: int) -> Tensor:
        """(rows, frames, hidden_size) -> the same; the last block may be short."""
        shift, scale, gate, shift_ff, scale_ff, gate_ff = modulation
        x = torch.addcmul(x, gate, self.out(self.attend(self.project(x, scale, shift), plan, past, call)))
        inner = self.wide(F.layer_norm(x, scale_ff.shape, scale_ff, shift_ff, eps=1e-6))
        return torch.addcmul(x, gate_ff, self.narrow(inner))

    def project(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Queries, keys and values: (rows, frames, hidden_size) -> (rows, frames, 3, heads, head_dim).

        Its caller keeps no name for them, so that `attend` frees them once it has padded them."""
        return self.qkv(F.layer_norm(x, scale.shape, scale, shift, eps=1e-6)).unflatten(2, (3, -1, self.head_dim))

    def attend(self, qkv: Tensor, plan: Plan, past: Past | None, call: int) -> Tensor:
        """Attention of each block: (rows, frames, 3, heads, head_dim) -> (rows, frames, heads * head_dim)."""
        size, (back, ahead), (rows, known, _, heads, dim) = plan.block_size, self.reach, qkv.shape
        frames = plan.blocks * size
        if known < frames:  # only here: the products, which are most of the work, need no whole blocks
            qkv = F.pad(qkv, (0, 0, 0, 0, 0, 0, 0, frames - known))
        before: Tensor | None = None
        if back:
            before = qkv.new_zeros(rows, size, 2, heads, dim)
            if past is not None and (call, self.index) in past:
                before.copy_(past[call, self.index])
                turn(before[:, :, :1], plan.turns[:size])
            if past is not None and plan.keep is not None:  # a clone: a view would hold on to the whole chunk
                past[call, self.index] = qkv[:, plan.keep * size : (plan.keep + 1) * size, 1:].clone()
        turn(qkv[:, :, :2], plan.turns[size : size + frames])
        blocked = (rows * plan.blocks, -1, heads, dim)
        query = qkv[:, :, 0].view(blocked).transpose(1, 2)
        if back or ahead:
            # (rows, blocks, neighbours, size, 2, heads, head_dim): each copied once, to where attention reads it.
            window = qkv.new_empty(rows, plan.blocks, back + 1 + ahead, size, 2, heads, dim)
            own = qkv[:, :, 1:].unflatten(1, (plan.blocks, size))
            window[:, :, back] = own
            if before is not None:
                window[:, 0, 0], window[:, 1:, 0] = before, own[:, :-1]
            if ahead:
                window[:, :-1, -1], window[:, -1, -1] = own[:, 1:], 0
            key, value = window.view(*blocked[:2], 2, heads, dim).transpose(1, 3).unbind(2)
        else:
            key, value = (qkv[:, :, i].view(blocked).transpose(1, 2) for i in (1, 2))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=plan.masks[self.reach])
        return out.transpose(1, 2).reshape(rows, frames, -1)[:, :known]


def turn(x: Tensor, turns: Tensor) -> None:
    """`rotate_first_head`, in place: x (rows, frames, n, heads, head_dim), turns (frames, 1, head_dim / 2)."""
    torch.view_as_complex(x[:, :, :, 0].unflatten(-1, (-1, 2))).mul_(turns)


class PackedDiT:
    """The layers, what stands before and behind them, and what the times of a solver do to them."""

    SOLVERS = 8  # of which the modulations are kept

    def __init__(self, dit: Any) -> None:
        self.known: dict[tuple[float, ...], list[list[Modulation]]] = {}
        self.layers = [PackedDiTLayer(layer, i) for i, layer in enumerate(dit.transformer_blocks)]
        self.mel, self.out = dit.input_embed.mel, PackedLinear(dit.proj_out)

    def modulations(self, dit: Any, times: tuple[float, ...]) -> list[list[Modulation]]:
        """`packed_modulations` of the DiT of which this is a copy (not held: it would never be freed)."""
        if times not in self.known:
            while len(self.known) >= self.SOLVERS:
                del self.known[next(iter(self.known))]
            self.known[times] = packed_modulations(dit, times)
        return self.known[times]

    def velocity(
        self, noisy: Tensor, fixed: Tensor, modulations: Sequence[Modulation], plan: Plan, past: Past | None, call: int
    ) -> Tensor:
        """`DiT.velocity`, call number `call`: (batch, frames, mel_dim) and fixed (rows, frames, dim) -> like fixed."""
        repeats = len(fixed) // len(noisy)
        x = (self.mel(noisy) if len(noisy) == 1 else self.mel(noisy).repeat(repeats, 1, 1)) + fixed
        *of_layers, (scale, shift) = modulations
        for layer, modulation in zip(self.layers, of_layers, strict=True):
            x = layer(x, modulation, plan, past, call)
        return self.out(F.layer_norm(x, scale.shape, scale, shift, eps=1e-6))


def packed_modulations(dit: Any, times: tuple[float, ...]) -> list[list[Modulation]]:
    """For each time, what it does to the LayerNorm of every layer and of the output; 1 is added to the scales."""
    made: list[list[Modulation]] = [[] for _ in times]
    for prepared in dit.modulations(torch.tensor(times)):  # (parts, times, 1, hidden_size)
        parts = prepared.squeeze(2).clone()
        parts[[0] if len(parts) == 2 else [1, 4]] += 1  # scale, shift of the output; shift, scale, gate of the others
        for i in range(len(times)):
            made[i].append(tuple(parts[:, i].contiguous().unbind(0)))
    return made


def velocity(
    dit: Any, fixed: Tensor, times: tuple[float, ...], masks: dict[tuple[int, int], Tensor | None], frames: int,
    past: Past | None = None, keep: int | None = None,
) -> Callable[[int, Tensor], Tensor]:  # fmt: skip
    """The network over one chunk: a function of (number of the call, noisy mel). times: of the calls, in order.

    fixed (rows, frames, dim), masks as in `plan`; past: is read and, for block number `keep`, written."""
    packed: PackedDiT = cpu_kernels.kept(dit, PackedDiT)
    modulations = packed.modulations(dit, times)
    where = plan(dit.config, len(fixed), frames, masks, keep)
    return lambda call, noisy: packed.velocity(noisy, fixed, modulations[call], where, past, call)
