"""Token-by-token decoding behind a prompt, for thinker and talker: what each token costs beyond its matrices.

Rotary tables and masks are made for many tokens at once, and on a CPU the layers are run with few calls on the modules'
own weights, which lie columns first there (`cpu_kernels.DecoderLinear`): no weight is held twice. The rotation of a
token's queries and keys is one small matrix for all layers. The result is the same up to rounding. Layers that somebody
has replaced, or listens to by a hook, are called one by one as they are.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import layers
from .cpu_kernels import DecoderLinear, Joined, Linear, applies, listened
from .errors import InputError
from .layers import Attention, Decoder, DecoderLayer, KVCache, RMSNorm, SwiGLU

ROOM = 256  # tokens for which a reply makes room in the cache at once


class Stepper:
    """Feeds a decoder one vector a row at a time. Positions go on from `cache.next_position`."""

    BLOCK = 32  # tokens for which tables are made at once

    def __init__(self, decoder: Decoder, head: nn.Linear, cache: KVCache) -> None:
        self.decoder, self.head, self.cache = decoder, head, cache
        self.next_position()
        self.left = self.at = 0
        self.bias: Tensor | None = None
        self.direct: list[DirectLayer] | None = None
        if runs_directly(decoder, head):
            self.direct = [DirectLayer(layer) for layer in decoder.layers]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Input vector of the next token of each row, (batch, dim) -> its hidden state after the norm, (batch, dim)."""
        if self.left == 0:
            self.prepare(inputs)
        cache, at = self.cache, self.at
        rotary = (self.cos[:, :, at : at + 1], self.sin[:, :, at : at + 1])
        bias = None if self.bias is None else self.bias[..., : cache.length + 1]
        if self.direct is None or torch.is_grad_enabled():
            hidden = self.decoder.run(inputs.unsqueeze(1), rotary, (bias, False), cache).squeeze(1)
        else:
            with torch.inference_mode():  # calls cost less
                turn = layers.apply_rotary(self.identity, *rotary).squeeze(1)  # (batch, head_dim, head_dim)
                inner = inputs
                for layer, kept in zip(self.direct, self.kept, strict=True):
                    inner = layer(inner, turn, bias, kept, cache.length)
                cache.length += 1
                inner, factor = normed(inner, self.decoder.norm)
            hidden = inner * factor  # outside: a tensor that may take part in training
        cache.next_start = cache.next_position = self.next_position()
        self.at, self.left = at + 1, self.left - 1
        return hidden

    def next_position(self, ahead: int | Tensor = 1) -> Tensor:
        """Positions `ahead` of the next token's: (batch,), or (batch, n) for a tensor (n,)."""
        now = self.cache.next_position
        if now is None:
            raise InputError("decoding needs a prompt: the cache is empty")
        return now + ahead if isinstance(ahead, int) else now[:, None] + ahead

    def jump(self, position: Tensor) -> None:
        """The next token of each row stands at `position`, (batch,)."""
        if not torch.equal(position, self.next_position(0)):
            self.cache.next_start = self.cache.next_position = position
            self.left = 0  # the tables end here

    def logits(self, hidden: Tensor) -> Tensor:
        """The head: (batch, dim) -> (batch, vocab)."""
        return self.head(hidden)

    def prepare(self, inputs: Tensor) -> None:
        """Make tables (batch, 1, BLOCK, head_dim), room and, if there is padding, the mask of all coming tokens."""
        cache, config = self.cache, self.decoder.config
        ahead = self.next_position(torch.arange(self.BLOCK, device=inputs.device))  # (batch, BLOCK)
        self.cos, self.sin = layers.rotary_tables(
            ahead.expand(3, -1, -1), config.head_dim, config.rope_theta, config.mrope_section, inputs.dtype
        )
        self.identity = torch.eye(config.head_dim, dtype=inputs.dtype, device=inputs.device)[None, None]
        self.kept: list[tuple[Tensor, Tensor]] = []  # they would keep what the cache lets go of as it grows
        cache.reserve(1)
        self.at, self.left = 0, min(self.BLOCK, cache.capacity - cache.length)
        # (batch * kv_heads, capacity, head_dim); views, or what is written would be lost
        shape = (-1, cache.capacity, config.head_dim)
        self.kept = [(k.view(shape), v.view(shape)) for k, v in zip(cache.keys, cache.values, strict=True)]
        self.bias = None
        if cache.key_mask is not None:
            cache.mark(None, self.left)
            self.bias = torch.zeros(cache.key_mask.shape, dtype=inputs.dtype, device=inputs.device)
            self.bias = self.bias.masked_fill_(~cache.key_mask, -math.inf)[:, None, None]  # (batch, 1, 1, capacity)


def as_built(decoder: Decoder) -> bool:
    """Whether layers and norms are still what `Decoder` makes, and nobody listens to any part of them. Their matrices
    may be others' (quantised ones are)."""
    layer: Any  # ModuleList hides its type
    for layer in decoder.layers:
        if type(layer) is not DecoderLayer:
            return False
        parts = layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm
        if tuple(map(type, parts)) != (Attention, SwiGLU, RMSNorm, RMSNorm):
            return False
    return type(decoder.norm) is RMSNorm and not any(map(listened, (decoder.norm, *decoder.layers.modules())))


def runs_directly(decoder: Decoder, head: nn.Linear) -> bool:
    """Whether `DirectLayer` may stand for the layers: float32 on a CPU, joined weights, and nothing that somebody has
    replaced or listens to."""
    if not as_built(decoder):
        return False
    for module in (head, decoder.norm, *decoder.layers.modules()):
        if isinstance(module, Joined):
            known = module.whole(module.members()) is not None
        elif isinstance(module, (nn.Linear, RMSNorm)):
            known = type(module) in (DecoderLinear, Linear, RMSNorm) and applies(module.weight, module.weight)
        else:
            known = isinstance(module, (DecoderLayer, nn.ModuleList))
        if not known:
            return False
    return True


def normed(x: Tensor, norm: Any) -> tuple[Tensor, float]:
    """RMSNorm without its last step: (batch, dim) -> the same, and the factor that is still to be multiplied in."""
    if len(x) > 1:
        return F.rms_norm(x, x.shape[1:], norm.weight, norm.eps), 1.0
    return x * norm.weight, 1 / math.sqrt(float(torch.dot(x[0], x[0])) / x.shape[1] + norm.eps)


def product(x: Tensor, columns: Tensor, bias: Tensor | None, factor: float) -> Tensor:
    """factor * x @ columns + bias: (batch, dim), (dim, out) -> (batch, out)."""
    if bias is None:
        return torch.addmm(columns[0], x, columns, beta=0, alpha=factor)  # beta 0 leaves the first argument out
    return torch.addmm(bias, x, columns, alpha=factor)


class DirectLayer:
    """A DecoderLayer for one token a row: the same weights, fewer calls."""

    def __init__(self, layer: Any) -> None:  # a DecoderLayer; ModuleList hides its type
        attention, mlp = layer.self_attn, layer.mlp
        self.norms = layer.input_layernorm, layer.post_attention_layernorm
        self.head_dim, self.scale = attention.head_dim, attention.head_dim**-0.5
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        self.qkv, self.qkv_bias, widths = attention.joint  # (in, query + key + value)
        self.turned = widths[0] + widths[1]  # query and key
        self.gate_up, _, (self.hidden, _) = mlp.joint
        self.out, self.down = (part.weight.detach().t() for part in (attention.o_proj, mlp.down_proj))  # (in, out)

    def __call__(
        self, x: Tensor, turn: Tensor, bias: Tensor | None, kept: tuple[Tensor, Tensor], length: int
    ) -> Tensor:
        """(batch, dim) -> (batch, dim). turn: (batch, head_dim, head_dim), what rotates a query or a key; kept: keys
        and values, (batch * kv_heads, capacity, head_dim) each, of which `length` tokens are written."""
        batch, kv, dim = x.shape[0], self.kv_heads, self.head_dim
        inner, factor = normed(x, self.norms[0])
        made = product(inner, self.qkv, self.qkv_bias, factor)
        heads = torch.bmm(made[:, : self.turned].view(batch, -1, dim), turn)  # (batch, heads + kv_heads, head_dim)
        kept[0].select(1, length).copy_(heads[:, -kv:].reshape(-1, dim))
        kept[1].select(1, length).copy_(made[:, self.turned :].reshape(-1, dim))
        keys, values = kept[0].narrow(1, 0, length + 1), kept[1].narrow(1, 0, length + 1)
        # The queries that share a key look at the same places: (batch * kv_heads, group, head_dim)
        query = heads[:, :-kv].reshape(batch * kv, -1, dim)
        scores = torch.baddbmm(query[:, :, :1], query, keys.transpose(1, 2), beta=0, alpha=self.scale)
        if bias is not None:
            scores = (scores.view(x.shape[0], kv, -1, length + 1) + bias).view_as(scores)
        attended = torch.bmm(scores.softmax(-1), values)  # (batch * kv_heads, group, head_dim)
        x = torch.addmm(x, attended.view(x.shape[0], -1), self.out)
        inner, factor = normed(x, self.norms[1])
        both = product(inner, self.gate_up, None, factor)
        return torch.addmm(x, F.silu(both[:, : self.hidden]).mul_(both[:, self.hidden :]), self.down)


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
        self.cache.reserve(self.BLOCK)  # a recording is worth a block
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
    """The way to step that suits the device. Not recorded under autocast: its casts of the weights live too briefly.
    Nor are layers that somebody has replaced or listens to: a replay calls nothing."""
    recorded = head.weight.device.type == "cuda" and not torch.is_autocast_enabled("cuda") and as_built(decoder)
    return StaticStepper(decoder, head, cache) if recorded else Stepper(decoder, head, cache)
