"""What thinker, talker and encoders share: RMSNorm, SwiGLU, rotary positions, attention with a KV cache, the decoder.

Notable:
- parameter names are those of the released checkpoints, so a state dict needs no mapping;
- rotary tables are functions of the configuration, not buffers: a model on the meta device has nothing to lose;
- the KV cache is allocated once and written in place; what decoding costs per token is then mostly the matrices;
- one mask is built per forward pass, and none at all where plain causality is enough (also for right padding).
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import cpu_kernels
from .config import TalkerConfig, TextConfig
from .cpu_kernels import DecoderLinear, Joined, Linear
from .errors import InputError

# An additive mask, lengths of each row's segments, or nothing; and whether plain causality is enough.
Mask = tuple[Tensor | list[list[int]] | None, bool]
DENSE_UP_TO = 8192  # tokens of packed rows for which one mask is built, but on a CPU: see `apart`


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019, eq. 4)."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and cpu_kernels.norm_applies(x, self.weight):
            return cpu_kernels.RMSNormOnCPU.apply(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class SwiGLU(Joined):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, eq. 6): (..., dim) -> (..., dim)."""

    JOINED = ("gate_proj", "up_proj")

    def __init__(self, dim: int, hidden: int, bias: bool = False, linear: type[Linear] = Linear) -> None:
        super().__init__()
        self.gate_proj = linear(dim, hidden, bias=bias)
        self.up_proj = linear(dim, hidden, bias=bias)
        self.down_proj = linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        made = self.products(x)
        gate = next(made)
        gate = F.silu(gate, inplace=not gate.is_contiguous())  # in place: part of a product that nobody else has
        return self.down_proj(gate * next(made))


@functools.lru_cache(maxsize=32)
def inverse_frequencies(head_dim: int, theta: float, device: torch.device) -> Tensor:
    """theta^(-2i / head_dim) for each pair i: (head_dim / 2,), float32 (Su et al. 2021, section 3.2.2)."""
    with torch.inference_mode(False):  # a cached inference tensor could not take part in training later
        pairs = torch.arange(0, head_dim, 2, dtype=torch.float32)
        return (1.0 / (theta ** (pairs / head_dim))).to(device)


def rotary_tables(
    position_ids: Tensor, head_dim: int, theta: float, sections: Sequence[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of TMRoPE: (3, batch, length) ids -> two tensors (batch, 1, length, head_dim).

    `sections` says how many pairs turn with time, height and width (report, section 2.2). The first half of the sines
    is negated, so that turning needs no second negation: see `apply_rotary`.
    """
    angles = position_ids[..., None].float() * inverse_frequencies(head_dim, theta, position_ids.device)
    parts = [part[i % 3] for i, part in enumerate(angles.split(list(sections), dim=-1))]
    angle = torch.cat(parts, dim=-1).unsqueeze(1)  # (batch, 1, length, head_dim / 2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) of x by its angle: (batch, heads, length, head_dim), tables as above."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * cos, x.roll(half, dims=-1), sin)  # roll swaps the halves


class KVCache:
    """Keys and values of all layers, allocated once, written in place.

    `length` tokens are held by every row of the batch; `key_mask` (batch, capacity), True for real tokens, exists only
    once padding has come in. When the capacity is exceeded the cache grows by half.
    """

    def __init__(
        self,
        config: TextConfig | TalkerConfig,
        batch: int,
        capacity: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (batch, config.num_key_value_heads, max(capacity, 1), config.head_dim)
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.key_mask: Tensor | None = None
        self.length = 0
        # TMRoPE, (batch,) each: where the next segment of a prompt starts, and the next generated token. They differ
        # only after audio in video, where a wide frame may reach further than the sound that follows it.
        self.next_start: Tensor | None = None
        self.next_position: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Tokens a row for which there is room."""
        return self.keys[0].shape[2]

    def reserve(self, count: int, spare: bool = True) -> None:
        """Make room for `count` more tokens; spare: for more, as they may go on coming."""
        if self.length + count <= self.capacity:
            return
        extra = max(self.length + count, self.capacity * 3 // 2 if spare else 0) - self.capacity
        for kept in (self.keys, self.values):
            for layer in range(len(kept)):  # one by one: the old ones would be held beside the new
                kept[layer] = F.pad(kept[layer], (0, 0, 0, extra))
        if self.key_mask is not None:
            self.key_mask = F.pad(self.key_mask, (0, extra), value=True)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put (batch, kv_heads, new, head_dim) behind what `layer` holds; returns all of it, as views."""
        end = self.length + keys.shape[2]
        self.keys[layer][:, :, self.length : end] = keys
        self.values[layer][:, :, self.length : end] = values
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def mark(self, mask: Tensor | None, count: int) -> None:
        """Remember which of the next `count` tokens are real: (batch, count), or None when all are."""
        if mask is None and self.key_mask is None:
            return
        if self.key_mask is None:
            shape, device = (self.keys[0].shape[0], self.capacity), self.keys[0].device
            self.key_mask = torch.ones(shape, dtype=torch.bool, device=device)
        self.key_mask[:, self.length : self.length + count] = True if mask is None else mask.bool()

    def tokens(self) -> Tensor:
        """Real tokens of each row: (batch,)."""
        rows, device = self.keys[0].shape[0], self.keys[0].device
        if self.key_mask is None:
            return torch.full((rows,), self.length, device=device)
        return self.key_mask[:, : self.length].sum(-1)

    def crop(self, length: int) -> None:
        """Forget all tokens from `length` on."""
        self.length = min(self.length, length)
        if self.key_mask is not None:
            self.key_mask[:, self.length :] = True


def attention_bias(
    inputs: Tensor, attention_mask: Tensor | None, segment_ids: Tensor | None, cache: KVCache | None
) -> Mask:
    """What attention needs to know beside its inputs: (additive mask or None, is_causal), for all layers at once.

    inputs: (batch, new, dim). attention_mask: (batch, new) or (batch, past + new), 1 for real tokens. segment_ids:
    (batch, new), tokens see only their own segment. The mask is (batch, 1, new, past + new), or for packed rows that
    are long or on a CPU (`apart`) the lengths of each row's segments: at 32,768 tokens a mask would take gigabytes.
    Padding on the left sees nothing at all; attention then gives zeros there, as in the reference.
    """
    batch, new = inputs.shape[:2]
    past = cache.length if cache is not None else 0
    real = None
    if attention_mask is not None:
        if attention_mask.shape[0] != batch or attention_mask.shape[1] not in (new, past + new):
            raise InputError(
                f"attention_mask is {tuple(attention_mask.shape)}, expected ({batch}, {new}) as the tokens"
                + (f" or ({batch}, {past + new}) with those in the cache" if past else "")
            )
        real = attention_mask[:, -new:].bool()
        if cache is None and bool((real[:, :-1] | ~real[:, 1:]).all()):
            real = None  # right padding only: causality alone hides it from all real tokens
        elif cache is not None and bool(real.all()):
            real = None
    if cache is not None:
        cache.mark(real, new)
        real = None if cache.key_mask is None else cache.key_mask[:, : past + new]
    if real is None and segment_ids is None and (past == 0 or new == 1):
        return None, new > 1
    if segment_ids is not None and (past or segment_ids.shape != (batch, new)):
        raise InputError(f"segment_ids is {tuple(segment_ids.shape)}, expected ({batch}, {new}) and an empty cache")
    if real is None and segment_ids is not None and apart(inputs):
        return [torch.unique_consecutive(row, return_counts=True)[1].tolist() for row in segment_ids], True
    dtype = inputs.dtype
    if torch.is_autocast_enabled(inputs.device.type):
        dtype = torch.get_autocast_dtype(inputs.device.type)
    places = torch.arange(past + new, device=inputs.device)
    allowed = (places[past:, None] >= places)[None, None]  # (1, 1, new, past + new)
    if real is not None:
        allowed = allowed & real[:, None, None, :]
    if segment_ids is not None:
        allowed = allowed & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
    bias = torch.zeros(allowed.shape, dtype=dtype, device=inputs.device)
    return bias.masked_fill_(~allowed, -math.inf), False


def apart(inputs: Tensor) -> bool:
    """Whether each segment of packed rows (batch, length, dim) is attended to by itself, not all under one mask.

    Under a mask a token pays for all tokens of its row. On a CPU calls cost little beside that."""
    here = inputs.device.type == "cpu" and not torch.compiler.is_compiling()
    return here or inputs.shape[1] > DENSE_UP_TO


def without_padding(inputs: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    """Which tokens of (batch, length, dim) are real, where the padding can be left out: (batch, length) bool or None.

    It can on the right and on a CPU, where rows are attended to apart. On the left the reference has the last padding
    tell a row's first token."""
    if attention_mask is None or attention_mask.shape != inputs.shape[:2] or torch.compiler.is_compiling():
        return None
    if inputs.device.type != "cpu" or not inputs.numel():
        return None
    real = attention_mask.bool()
    on_the_right = bool(real[:, 0].any()) and bool((real[:, :-1] | ~real[:, 1:]).all())
    return real if on_the_right and not bool(real.all()) else None


def segmented_attention(query: Tensor, key: Tensor, value: Tensor, lengths: list[list[int]], grouped: bool) -> Tensor:
    """Causal attention in each segment of each row by itself: (batch, heads, length, head_dim) -> the same."""
    sizes = [size for row in lengths for size in row]
    # All rows one after another: each tensor is then cut, and its gradient put together again, once.
    pieces = [x.transpose(1, 2).flatten(0, 1)[None].split(sizes, dim=1) for x in (query, key, value)]
    parts = []
    for piece in zip(*pieces, strict=True):
        q, k, v = (x.transpose(1, 2) for x in piece)
        parts.append(cpu_kernels.attention(q, k, v, causal=True, grouped=grouped).transpose(1, 2))
    return torch.cat(parts, dim=1).view(query.shape[0], query.shape[2], *query.shape[1::2]).transpose(1, 2)


class Attention(Joined):
    """Causal self-attention with grouped queries (Ainslie et al. 2023): `heads` queries share `kv_heads` keys."""

    JOINED = ("q_proj", "k_proj", "v_proj")

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.grouped = heads != kv_heads
        self.q_proj = DecoderLinear(dim, heads * head_dim, bias=True)
        self.k_proj = DecoderLinear(dim, kv_heads * head_dim, bias=True)
        self.v_proj = DecoderLinear(dim, kv_heads * head_dim, bias=True)
        self.o_proj = DecoderLinear(heads * head_dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Mask,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """(batch, length, dim) -> the same; rotary tables (batch, 1, length, head_dim); mask from `attention_bias`."""
        batch, length, _ = x.shape
        query, key, value = self.turned(x, rotary)
        if cache is not None:
            key, value = cache.write(layer, key, value)
        if isinstance(mask[0], list):
            out = segmented_attention(query, key, value, mask[0], self.grouped)
        else:
            out = cpu_kernels.attention(query, key, value, mask[0], mask[1], self.grouped)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))

    def turned(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch, heads, length, head_dim) and keys, turned by their positions; keys and values of kv_heads."""
        shape = (*x.shape[:2], -1, self.head_dim)
        query, key, value = (made.view(shape).transpose(1, 2) for made in self.products(x))
        return apply_rotary(query, *rotary), apply_rotary(key, *rotary), value


class DecoderLayer(nn.Module):
    """Pre-norm attention and SwiGLU, each with a residual path: (batch, length, dim) -> the same."""

    def __init__(self, config: TextConfig | TalkerConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(dim, config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self.mlp = SwiGLU(dim, config.intermediate_size, linear=DecoderLinear)
        self.input_layernorm = RMSNorm(dim, eps)
        self.post_attention_layernorm = RMSNorm(dim, eps)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Mask,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask, cache, layer)
        return x + self.mlp(self.post_attention_layernorm(x))

    def queries_and_keys(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What its attention compares, given the layer's input: (batch, heads and kv_heads, length, head_dim)."""
        query, key, _ = self.self_attn.turned(self.input_layernorm(x), rotary)
        return query, key


class Decoder(nn.Module):
    """The transformer of thinker and talker: `embed_tokens`, `layers`, `norm`, as in the released checkpoints.

    `embedding_size` is the width of the table where it differs from the layers' (the talker's does).
    """

    def __init__(self, config: TextConfig | TalkerConfig, embedding_size: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, embedding_size or config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False  # recompute each layer in backward: less memory, a third more time

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: KVCache | None = None,
        collect: list[Tensor] | None = None,
    ) -> Tensor:
        """Last hidden states after the norm, (batch, length, dim), for inputs_embeds of that shape.

        position_ids: (3, batch, length) from `tmrope`, default: counting on from the cache. attention_mask:
        (batch, length) or (batch, past + length). segment_ids: (batch, length), for packed rows. `cache` is written
        and advanced.
        `collect` receives the input of every layer and then the normed output (the reference's `hidden_states`).
        """
        batch, length, _ = inputs_embeds.shape
        past = cache.length if cache is not None else 0
        if cache is not None:
            cache.reserve(length)
        if position_ids is None:
            places = torch.arange(past, past + length, device=inputs_embeds.device)
            position_ids = places.expand(3, batch, length)
        elif position_ids.shape[-1] != length:
            raise InputError(f"position_ids is {tuple(position_ids.shape)}, expected (3, {batch}, {length})")
        alone = cache is None and segment_ids is None
        if alone and (real := without_padding(inputs_embeds, attention_mask)) is not None:
            return self.unpadded(inputs_embeds, position_ids, real, collect)
        mask = attention_bias(inputs_embeds, attention_mask, segment_ids, cache)
        return self.run(inputs_embeds, self.rotary(position_ids, inputs_embeds.dtype), mask, cache, collect)

    def rotary(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`rotary_tables` of (3, batch, length) positions."""
        config = self.config
        return rotary_tables(position_ids, config.head_dim, config.rope_theta, config.mrope_section, dtype)

    def unpadded(self, embeds: Tensor, position_ids: Tensor, real: Tensor, collect: list[Tensor] | None) -> Tensor:
        """`forward` of the real tokens alone, all rows end to end: padding costs nothing, and comes out as zeros.

        real: (batch, length) bool; the others as in `forward`."""
        where, kept = real.flatten().nonzero().squeeze(1), None if collect is None else list[Tensor]()
        rotary = self.rotary(position_ids.flatten(1)[:, None, where], embeds.dtype)
        lengths = [size for size in real.sum(1).tolist() if size]
        hidden = self.run(embeds.flatten(0, 1).index_select(0, where)[None], rotary, ([lengths], True), None, kept)

        def put_back(x: Tensor) -> Tensor:
            return x.new_zeros(real.numel(), x.shape[-1]).index_copy(0, where, x[0]).view(*real.shape, -1)

        if collect is not None and kept is not None:
            collect += [embeds, *map(put_back, kept[1:])]
            return collect[-1]
        return put_back(hidden)

    def run(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Mask,
        cache: KVCache | None = None,
        collect: list[Tensor] | None = None,
    ) -> Tensor:
        """`forward` with tables and mask at hand, as token-by-token decoding has them; the cache must have room."""
        for i, layer in enumerate(self.layers):
            if collect is not None:
                collect.append(hidden)
            if self.gradient_checkpointing and self.training and cache is None:
                hidden = checkpoint(layer, hidden, rotary, mask, use_reentrant=False)
            else:
                hidden = layer(hidden, rotary, mask, cache, i)
        if cache is not None:
            cache.length += hidden.shape[1]
        hidden = self.norm(hidden)
        if collect is not None:
            collect.append(hidden)
        return hidden
