"""The DiT's parts: embeddings of time, code, speaker and mel, block-wise attention, modulated layers.

Names of parameters are those of the released checkpoints; `dit.py` joins the parts.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DiTConfig
from ..cpu_kernels import Linear, attention
from .speaker import ECAPA

TIME_SCALE = 1000.0  # flow time 0..1 as the sinusoids see it
TIME_DIM = 256


def windows(blocked: Tensor, look_backward: int, look_ahead: int) -> Tensor:
    """Each block with its neighbours, zeros beyond the ends: (batch, blocks, size, ...) -> (batch, blocks, window, ...)

    with window = (look_backward + 1 + look_ahead) * size.
    """
    if look_backward == look_ahead == 0:
        return blocked
    blocks = blocked.shape[1]
    padding = [0, 0] * (blocked.ndim - 2) + [look_backward, look_ahead]
    padded = F.pad(blocked, padding)
    return torch.cat([padded[:, i : i + blocks] for i in range(look_backward + 1 + look_ahead)], dim=2)


def rotary_tables(frames: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of frame numbers, each (frames, head_dim / 2), float32."""
    inverse = 1.0 / (theta ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim))
    angles = torch.arange(frames, device=device).float()[:, None] * inverse
    return angles.cos(), angles.sin()


def rotate_first_head(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring pairs of head 0: x (batch, frames, heads, head_dim), tables (frames, head_dim / 2).

    All other heads stay as they are: the released weights were trained without positions there.
    """
    even, odd = x[:, :, 0, 0::2], x[:, :, 0, 1::2]  # (batch, frames, head_dim / 2)
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned.unsqueeze(2), x[:, :, 1:]), dim=2)


class TimeEmbedding(nn.Module):
    """Flow times -> vectors, by sinusoids and a two-layer MLP: (n,) -> (n, hidden_size)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.ModuleList([nn.Linear(TIME_DIM, dim), nn.SiLU(), nn.Linear(dim, dim)])

    def forward(self, time: Tensor) -> Tensor:
        half = TIME_DIM // 2
        rates = torch.exp(torch.arange(half, device=time.device).float() * (-math.log(10000) / (half - 1)))
        angles = TIME_SCALE * time[:, None] * rates.to(time.dtype)  # (n, half)
        x = torch.cat((angles.sin(), angles.cos()), dim=-1)
        for layer in self.time_mlp:
            x = layer(x)
        return x


class CodeEmbedding(nn.Module):
    """Codes -> one vector per mel frame: (batch, codes) -> (batch, codes * repeats, emb_dim)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.repeats = config.repeats
        self.codec_embed = nn.Embedding(config.num_embeds + 1, config.emb_dim)

    def forward(self, codes: Tensor) -> Tensor:
        return self.codec_embed(codes).repeat_interleave(self.repeats, dim=1)


class InputEmbedding(nn.Module):
    """One linear layer over [noisy mel | ECAPA(reference) | code embedding | speaker cond], taken apart.

    The mel's share changes with every network call, the rest does not: hence the two methods.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.sizes = (config.mel_dim, config.enc_dim, config.emb_dim, config.enc_emb_dim)
        self.proj = nn.Linear(sum(self.sizes), config.hidden_size)
        self.spk_encoder = ECAPA(config)

    def mel(self, noisy: Tensor) -> Tensor:
        """(batch, frames, mel_dim) -> (batch, frames, hidden_size)"""
        return F.linear(noisy, self.proj.weight[:, : self.sizes[0]])

    def speaker(self, conditioning: Tensor, reference_mel: Tensor) -> Tensor:
        """(batch, enc_emb_dim) and (batch, reference frames, mel_dim) -> (batch, 1, hidden_size), bias included."""
        _, of_reference, _, of_cond = self.proj.weight.split(self.sizes, dim=1)
        reference = F.linear(self.spk_encoder(reference_mel), of_reference, self.proj.bias)
        return (reference + F.linear(conditioning, of_cond)).unsqueeze(1)

    def code(self, embedded: Tensor) -> Tensor:
        """(batch, frames, emb_dim) -> (batch, frames, hidden_size)"""
        first = self.sizes[0] + self.sizes[1]
        return F.linear(embedded, self.proj.weight[:, first : first + self.sizes[2]])


class AdaLayerNorm(nn.Module):
    """Turns a time vector into `parts` shifts, scales and gates (Peebles and Xie 2023, adaLN-Zero)."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)

    def forward(self, activated: Tensor) -> Tensor:
        """(n, dim), after SiLU -> (parts, n, 1, dim), ready to be broadcast over frames."""
        return self.linear(activated).unflatten(1, (self.parts, -1)).transpose(0, 1).unsqueeze(2)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without weights of its own, then scale and shift as the time says: (batch, frames, dim)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


@dataclass(frozen=True)
class Geometry:
    """How frames lie in blocks: computed once for all layers and all network calls."""

    blocks: int
    block_size: int
    rotary: tuple[Tensor, Tensor]  # (blocks * block_size, head_dim / 2)
    masks: dict[tuple[int, int], Tensor | None]  # by (look_backward, look_ahead)


class Attention(nn.Module):
    """Self-attention in which a block of frames sees itself and its neighbours within the layer's reach."""

    def __init__(self, config: DiTConfig, look_backward: int, look_ahead: int) -> None:
        super().__init__()
        inner = config.num_attention_heads * config.head_dim
        self.head_dim = config.head_dim
        self.reach = (look_backward, look_ahead)
        self.to_q, self.to_k, self.to_v = (Linear(config.hidden_size, inner) for _ in range(3))
        self.to_out = nn.ModuleList([Linear(inner, config.hidden_size), nn.Dropout(config.dropout)])

    def forward(self, x: Tensor, geometry: Geometry) -> Tensor:
        """(batch, frames, hidden_size) -> the same, frames a whole number of blocks."""
        batch, frames, _ = x.shape
        heads = (batch, frames, -1, self.head_dim)
        query = rotate_first_head(self.to_q(x).view(heads), *geometry.rotary)
        key = rotate_first_head(self.to_k(x).view(heads), *geometry.rotary)
        value = self.to_v(x).view(heads)
        shape = (geometry.blocks, geometry.block_size)
        # (batch, blocks, window, heads, head_dim) -> (batch * blocks, heads, window, head_dim)
        key, value = (windows(t.unflatten(1, shape), *self.reach).flatten(0, 1).transpose(1, 2) for t in (key, value))
        query = query.unflatten(1, shape).flatten(0, 1).transpose(1, 2)
        mask = geometry.masks[self.reach]
        if mask is not None:
            mask = mask.expand(batch, *mask.shape[1:]).flatten(0, 1)  # (batch * blocks, 1, block_size, window)
        out = attention(query, key, value, mask)
        out = out.transpose(1, 2).reshape(batch, frames, -1)
        for layer in self.to_out:
            out = layer(out)
        return out


class FeedForward(nn.Module):
    """Linear, GELU (tanh form), dropout, linear: (..., dim) -> (..., dim)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim, inner = config.hidden_size, config.hidden_size * config.ff_mult
        layers = [Linear(dim, inner), nn.GELU(approximate="tanh"), nn.Dropout(config.dropout), Linear(inner, dim)]
        self.ff = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.ff:
            x = layer(x)
        return x


class DiTLayer(nn.Module):
    """Attention and feed-forward, both modulated and gated by the time."""

    def __init__(self, config: DiTConfig, look_backward: int, look_ahead: int) -> None:
        super().__init__()
        self.attn_norm = AdaLayerNorm(config.hidden_size, 6)
        self.attn = Attention(config, look_backward, look_ahead)
        self.ff = FeedForward(config)

    def forward(self, x: Tensor, modulation: Tensor, geometry: Geometry) -> Tensor:
        """x (batch, frames, dim), modulation (6, batch or 1, 1, dim) -> like x."""
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = modulation.unbind(0)
        x = torch.addcmul(x, gate_attn, self.attn(modulate(x, shift_attn, scale_attn), geometry))
        return torch.addcmul(x, gate_ff, self.ff(modulate(x, shift_ff, scale_ff)))
