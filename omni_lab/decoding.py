"""Token-by-token decoding behind a prompt, for thinker and talker: what each token costs beyond its matrices.

Rotary tables and masks are made for many tokens at once. On a CPU a small decoder's weights are copied once into the
layout that suits a single row: q, k, v side by side, gate and up side by side, the norms' weights and the softmax's
scale multiplied in, and columns first, which MKL reads at twice the speed. The rotation of a token's queries and keys
is one small matrix for all layers. The result is the same up to rounding.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import cpu_kernels, layers
from .cpu_kernels import Linear, applies
from .errors import InputError
from .layers import Decoder, KVCache

PACK_LIMIT = 256 * 2**20  # bytes of weights up to which a copy is worth its memory


class Stepper:
    """Feeds a decoder one vector a row at a time. Positions go on from `cache.next_position`."""

    BLOCK = 128  # tokens for which tables are made at once

    def __init__(self, decoder: Decoder, head: nn.Linear, cache: KVCache) -> None:
        self.decoder, self.head, self.cache = decoder, head, cache
        self.next_position()
        self.left = 0
        self.bias: Tensor | None = None
        self.packed: list[PackedLayer] | None = None
        if packable(decoder, head):
            self.packed = cpu_kernels.kept(decoder, packed_layers)
            self.packed_head = cpu_kernels.kept(head, packed_head)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Input vector of the next token of each row, (batch, dim) -> its hidden state after the norm, (batch, dim)."""
        if self.left == 0:
            self.prepare(inputs)
        cache, at = self.cache, self.BLOCK - self.left
        rotary = (self.cos[:, :, at : at + 1], self.sin[:, :, at : at + 1])
        bias = None if self.bias is None else self.bias[..., : cache.length + 1]
        if self.packed is None or torch.is_grad_enabled():
            hidden = self.decoder.run(inputs.unsqueeze(1), rotary, (bias, False), cache).squeeze(1)
        else:
            hidden, turn = inputs, layers.apply_rotary(self.identity, *rotary).squeeze(1)  # (batch, head_dim, head_dim)
            for i, layer in enumerate(self.packed):
                hidden = layer(hidden, turn, bias, cache, i)
            cache.length += 1
            hidden = self.decoder.norm(hidden)
        cache.next_start = cache.next_position = self.next_position()
        self.left -= 1
        return hidden

    def next_position(self, ahead: int | Tensor = 1) -> Tensor:
        """Positions `ahead` of the next token's: (batch,), or (batch, n) for a tensor (n,)."""
        now = self.cache.next_position
        if now is None:
            raise InputError("decoding needs a prompt: the cache is empty")
        return now + ahead if isinstance(ahead, int) else now[:, None] + ahead

    def logits(self, hidden: Tensor) -> Tensor:
        """The head: (batch, dim) -> (batch, vocab)."""
        if self.packed is None or torch.is_grad_enabled():
            return self.head(hidden)
        return torch.mm(hidden, self.packed_head)

    def prepare(self, inputs: Tensor) -> None:
        """Make room, tables (batch, 1, BLOCK, head_dim) and, if there is padding, the mask of all coming tokens."""
        cache, config = self.cache, self.decoder.config
        cache.reserve(self.BLOCK)
        ahead = self.next_position(torch.arange(self.BLOCK, device=inputs.device))  # (batch, BLOCK)
        self.cos, self.sin = layers.rotary_tables(
            ahead.expand(3, -1, -1), config.head_dim, config.rope_theta, config.mrope_section, inputs.dtype
        )
        self.identity = torch.eye(config.head_dim, dtype=inputs.dtype, device=inputs.device)[None, None]
        self.bias = None
        if cache.key_mask is not None:
            cache.mark(None, self.BLOCK)
            self.bias = torch.zeros(cache.key_mask.shape, dtype=inputs.dtype, device=inputs.device)
            self.bias = self.bias.masked_fill_(~cache.key_mask, -math.inf)[:, None, None]  # (batch, 1, 1, capacity)
        self.left = self.BLOCK


def packable(decoder: Decoder, head: nn.Linear) -> bool:
    """Whether to copy the weights: a small float32 decoder on a CPU whose linear layers nobody has replaced."""
    linear: list[Any] = [head]
    linear += [m for name, m in decoder.layers.named_modules() if name.endswith("_proj")]
    if not all(type(m) is Linear and not m._forward_hooks and applies(m.weight, m.weight) for m in linear):
        return False
    return sum(m.weight.numel() * m.weight.element_size() for m in linear) <= PACK_LIMIT


def columns_first(*weights: Tensor) -> Tensor:
    """Weights (out, in) of layers that share their input -> one (in, sum of out), contiguous."""
    return torch.cat([weight.detach() for weight in weights]).t().contiguous()


def packed_layers(decoder: Decoder) -> list["PackedLayer"]:
    """Copies of all layers."""
    return [PackedLayer(layer) for layer in decoder.layers]


def packed_head(head: nn.Linear) -> Tensor:
    """A copy of the head: (dim, vocab)."""
    return columns_first(head.weight)


def normed_product(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """RMSNorm, whose weight has been multiplied into `weight` (dim, out), then the product: (batch, dim)."""
    before = weight[0] if bias is None else bias  # a product needs one; beta 0 leaves it out
    beta = 0 if bias is None else 1
    if len(x) > 1:
        return torch.addmm(before, F.rms_norm(x, x.shape[1:], eps=eps), weight, beta=beta)
    rms = math.sqrt(float(torch.dot(x[0], x[0])) / x.shape[1] + eps)
    return torch.addmm(before, x, weight, beta=beta, alpha=1 / rms)


class PackedLayer:
    """A DecoderLayer for one token a row, with its weights copied."""

    def __init__(self, layer: Any) -> None:  # a DecoderLayer; ModuleList hides its type
        attention, mlp = layer.self_attn, layer.mlp
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self.eps = norms[0].eps, norms[1].eps
        self.head_dim = attention.head_dim
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv = columns_first(*(p.weight for p in projections)) * norms[0].weight[:, None]
        self.qkv_bias = torch.cat([p.bias.detach() for p in projections])
        for part in (self.qkv, self.qkv_bias):
            part[..., : attention.q_proj.out_features] *= self.head_dim**-0.5
        self.out = columns_first(attention.o_proj.weight)
        self.gate_up = columns_first(mlp.gate_proj.weight, mlp.up_proj.weight) * norms[1].weight[:, None]
        self.down = columns_first(mlp.down_proj.weight)

    def __call__(self, x: Tensor, turn: Tensor, bias: Tensor | None, cache: KVCache, index: int) -> Tensor:
        """(batch, dim) -> (batch, dim). turn: (batch, head_dim, head_dim), what rotates a query or a key."""
        kv, batch, size = self.kv_heads, x.shape[0], self.head_dim
        qkv = normed_product(x, self.qkv, self.qkv_bias, self.eps[0]).view(batch, -1, size)
        query, key, value = torch.split_with_sizes(qkv, (qkv.shape[1] - 2 * kv, kv, kv), 1)
        keys = self.put(cache.keys[index], torch.bmm(key, turn), cache.length)
        values = self.put(cache.values[index], value, cache.length)
        # The queries that share a key look at the same places.
        query = torch.bmm(query, turn).view(batch * kv, -1, size)  # (batch * kv_heads, group, head_dim)
        scores = torch.bmm(query, keys.transpose(1, 2))  # (batch * kv_heads, group, tokens)
        if bias is not None:
            scores = (scores.view(batch, kv, -1, scores.shape[2]) + bias).view_as(scores)
        attended = torch.bmm(scores.softmax(-1), values)
        x = torch.addmm(x, attended.view(batch, -1), self.out)
        gate, up = normed_product(x, self.gate_up, None, self.eps[1]).chunk(2, dim=1)
        return torch.addmm(x, F.silu(gate).mul_(up), self.down)

    @staticmethod
    def put(kept: Tensor, new: Tensor, length: int) -> Tensor:
        """Write (batch, kv_heads, head_dim) behind `length` tokens; then all: (batch * kv_heads, tokens, head_dim)."""
        kept = kept.view(-1, *kept.shape[2:])  # no copy, or it would be the copy that is written to
        kept.select(1, length).copy_(new.reshape(len(kept), -1))
        return kept.narrow(1, 0, length + 1)


class StaticStepper(Stepper):
    """One token as a fixed sequence of kernels on fixed memory, which a GPU records once and then replays.

    The weights of a 3B model pass through a large GPU in little over a millisecond; launching its thousand kernels one
    by one from Python takes several times as long. Places and positions are tensors that the kernels themselves
    advance, and attention runs over the whole capacity under a mask.
    """

    BLOCK = 512
    WARM_UP = 2  # runs before recording, in which libraries allocate their workspaces

    def prepare(self, inputs: Tensor) -> None:
        """Room and tables as always, then the fixed tensors and, on a GPU, the recording."""
        super().prepare(inputs)
        cache, device = self.cache, inputs.device
        self.inputs, self.hidden = inputs.clone(), torch.empty_like(inputs)
        self.place = torch.empty(1, dtype=torch.long, device=device)  # in the cache
        self.turn = torch.empty(1, dtype=torch.long, device=device)  # in the rotary tables
        self.open = torch.empty(len(inputs), 1, 1, cache.capacity, dtype=inputs.dtype, device=device)  # additive mask
        self.rewind()
        self.graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self.record()

    def rewind(self) -> None:
        """Set places and mask to the cache's end."""
        self.place.fill_(self.cache.length)
        self.turn.zero_()
        self.open.zero_()
        if self.bias is not None:
            self.open.copy_(self.bias)
        self.open[..., self.cache.length :] = -math.inf

    def record(self) -> None:
        """Capture `advance` as a CUDA graph."""
        with torch.cuda.device(self.inputs.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(self.WARM_UP):
                    self.advance()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            # Other threads (a vocoder at work on earlier tokens) may go on using the GPU meanwhile.
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.advance()
        self.rewind()

    def advance(self) -> None:
        """`self.inputs` -> `self.hidden`, (batch, dim) each; the cache and all places move on by one."""
        rotary = (self.cos.index_select(2, self.turn), self.sin.index_select(2, self.turn))
        self.open.index_fill_(3, self.place, 0)
        hidden = self.inputs
        block: Any  # a DecoderLayer; ModuleList hides its type
        for i, block in enumerate(self.decoder.layers):
            hidden = hidden + self.attend(block.self_attn, block.input_layernorm(hidden), rotary, i)
            hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
        self.hidden.copy_(self.decoder.norm(hidden))
        self.place += 1
        self.turn += 1

    def attend(self, attention: Any, x: Tensor, rotary: tuple[Tensor, Tensor], layer: int) -> Tensor:
        """Attention of one token over the whole cache: (batch, dim) -> (batch, dim)."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        batch, kv = keys.shape[:2]
        shape = (batch, -1, 1, attention.head_dim)
        keys.index_copy_(2, self.place, layers.apply_rotary(attention.k_proj(x).view(shape), *rotary))
        values.index_copy_(2, self.place, attention.v_proj(x).view(shape))
        query = layers.apply_rotary(attention.q_proj(x).view(shape), *rotary)
        query = query.view(batch, kv, -1, attention.head_dim)  # (batch, kv_heads, group, head_dim)
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=self.open)
        return attention.o_proj(out.reshape(batch, -1))

    def __call__(self, inputs: Tensor) -> Tensor:
        """Input vector of the next token of each row, (batch, dim) -> its hidden state after the norm, (batch, dim)."""
        if self.left == 0:
            self.prepare(inputs)
        self.inputs.copy_(inputs)
        if self.graph is not None:
            self.graph.replay()
        else:
            self.advance()
        self.cache.length += 1
        self.cache.next_start = self.cache.next_position = self.next_position()
        self.left -= 1
        return self.hidden.clone()


def stepper(decoder: Decoder, head: nn.Linear, cache: KVCache) -> Stepper:
    """The way to step that suits the device. Not recorded under autocast: its casts of the weights live too briefly."""
    recorded = head.weight.device.type == "cuda" and not torch.is_autocast_enabled("cuda")
    return StaticStepper(decoder, head, cache) if recorded else Stepper(decoder, head, cache)
