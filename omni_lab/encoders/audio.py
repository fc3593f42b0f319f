"""Audio encoder: log-mel frames -> one vector per 40 ms (report, section 2.2; Whisper's, with block-wise attention).

Frames are cut into chunks of 2 s. Convolutions, sinusoids and attention all stay within a chunk, so encoding chunk by
chunk equals encoding the whole: sound can be taken in while it is still being spoken.
"""

import functools
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import AudioConfig
from ..cpu_kernels import Linear
from ..errors import InputError
from .windows import WindowPlan, plan_windows, window_attention

Count = TypeVar("Count", int, Tensor)


def token_count(frames: Count) -> Count:
    """Audio tokens (40 ms) of `frames` mel frames (10 ms), an int or a tensor of them: 200 -> 50, 1 and 2 -> 0."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def chunk_lengths(frames: Sequence[int], chunk: int = 200) -> list[int]:
    """Mel frames of each chunk of each clip: full chunks, and a shorter one last. [450], 200 -> [200, 200, 50]."""
    return [min(chunk, total - start) for total in frames for start in range(0, total, chunk)]


@functools.lru_cache(maxsize=16)
def sinusoids(length: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Positions as cat(sin, cos) over geometrically spaced wavelengths up to 10000: (length, channels), float32."""
    with torch.inference_mode(False):  # a cached inference tensor could not take part in training later
        step = math.log(10000) / max(channels // 2 - 1, 1)
        angles = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(channels // 2).float())
        return torch.cat((angles.sin(), angles.cos()), dim=1).to(device)


def pair_average(frames: Tensor) -> Tensor:
    """Average neighbouring frames: (..., length, dim) at 20 ms -> (..., length // 2, dim) at 40 ms."""
    pairs = frames.shape[-2] // 2
    return frames[..., : 2 * pairs, :].unflatten(-2, (pairs, 2)).mean(-2)


class AudioAttention(nn.Module):
    """Bidirectional attention within chunks. k_proj has no bias: it would cancel in the softmax."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = Linear(dim, dim, bias=False)
        self.v_proj = Linear(dim, dim)
        self.q_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)

    def forward(self, x: Tensor, plan: WindowPlan) -> Tensor:
        """(frames, dim) -> (frames, dim)."""
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(window_attention(q, k, v, plan))


class AudioEncoderLayer(nn.Module):
    """Pre-norm attention and GELU feed-forward, each with a residual path: (frames, dim) -> the same."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.self_attn = AudioAttention(config.d_model, config.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, plan: WindowPlan) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x), plan)
        x = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        if x.dtype == torch.float16:  # the released towers overflow in half precision
            limit = torch.finfo(x.dtype).max - 1000
            x = x.clamp(-limit, limit)
        return x


class UnusedTable(nn.Module):
    """A tensor of the released checkpoints that nothing reads: kept, so that they load and save, but never trained."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(rows, dim))


class AudioEncoder(nn.Module):
    """Log-mel frames of any number of clips -> vectors of the text's width, 25 a second."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2, padding=1)
        self.audio_bos_eos_token = UnusedTable(2, config.output_dim)
        self.layers = nn.ModuleList([AudioEncoderLayer(config) for _ in range(config.encoder_layers)])
        self.ln_post = nn.LayerNorm(config.d_model)
        self.proj = Linear(config.d_model, config.output_dim)
        self.gradient_checkpointing = False

    def forward(self, input_features: Tensor, feature_lens: Tensor | Sequence[int]) -> Tensor:
        """Encode clips: (clips, mels, frames), padded on the right, with (clips,) true lengths -> (tokens, output_dim).

        A single (mels, frames) of clips one after another, as the reference wants it, is taken too. The tokens of all
        clips follow one another, token_count(length) each. Raises InputError for other shapes.
        """
        clips = self.frames(input_features, [int(n) for n in feature_lens])
        if not clips:
            return self.proj.weight.new_zeros(0, self.config.output_dim)
        return self.proj(self.ln_post(torch.cat([pair_average(clip) for clip in clips])))  # (tokens, output_dim)

    def frames(self, input_features: Tensor, lengths: list[int]) -> list[Tensor]:
        """What the layers make of each clip that is not empty, before pooling: (length at 20 ms, d_model) each."""
        clips = self.split(input_features, lengths)
        chunk = 2 * self.config.n_window
        halved = [(n - 1) // 2 + 1 for n in chunk_lengths(lengths, chunk)]  # after the stride of conv2
        if not halved:
            return []
        x = self.stem([piece for clip in clips for piece in clip.t().split(chunk)], halved)
        plan = plan_windows(halved, x.device)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, plan, use_reentrant=False)
            else:
                x = layer(x, plan)
        return list(x.split([(n - 1) // 2 + 1 for n in lengths if n > 0]))

    def split(self, features: Tensor, lengths: list[int]) -> list[Tensor]:
        """The clips without padding and without empty ones, each (mels, length)."""
        mels = self.config.num_mel_bins
        if features.dim() == 2 and features.shape == (mels, sum(lengths)):
            clips = list(features.split(lengths, dim=1))
        elif features.dim() == 3 and features.shape[:2] == (len(lengths), mels) and max(lengths) <= features.shape[2]:
            clips = [clip[:, :n] for clip, n in zip(features, lengths, strict=True)]
        else:
            raise InputError(
                f"input_features are {tuple(features.shape)}, expected ({len(lengths)}, {mels}, frames) with at least "
                f"{max(lengths, default=0)} frames"
            )
        return [clip for clip in clips if clip.shape[1] > 0]

    def stem(self, chunks: list[Tensor], halved: list[int]) -> Tensor:
        """Two convolutions and the positions: chunks of (frames, mels) -> packed (sum(halved), d_model), at 20 ms."""
        frames = torch.tensor([len(chunk) for chunk in chunks], device=chunks[0].device)
        x = nn.utils.rnn.pad_sequence(chunks, batch_first=True).transpose(1, 2)  # (chunks, mels, longest)
        x = F.gelu(self.conv1(x.to(self.conv1.weight.dtype)))
        if len(chunks) > 1:
            # conv1's bias fills the padding; conv2 must see zeros there, as at the end of a chunk that stands alone.
            x = x * (torch.arange(x.shape[2], device=x.device) < frames[:, None])[:, None]
        x = F.gelu(self.conv2(x)).transpose(1, 2)  # (chunks, halved, d_model)
        x = x + sinusoids(x.shape[1], x.shape[2], x.device).to(x.dtype)
        if len(set(halved)) == 1:
            return x.flatten(0, 1)
        real = torch.arange(x.shape[1]) < torch.tensor(halved)[:, None]
        return x[real.to(x.device)]
