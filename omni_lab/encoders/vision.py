"""Vision encoder: patches of pictures and frames -> one vector per 2x2 patches (report, section 2.2; Qwen2.5-VL's ViT).

A patch is 14x14 pixels of two frames (a still picture is fed twice). Most blocks attend within windows of 112 pixels,
a few over the whole frame, none across frames: encoding frame by frame equals encoding the whole video.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import VisionConfig
from ..cpu_kernels import Linear
from ..errors import InputError
from ..layers import RMSNorm, SwiGLU, apply_rotary, inverse_frequencies
from .windows import WindowPlan, plan_windows, window_attention


def patch_positions(height: int, width: int, merge: int = 2) -> Tensor:
    """Row and column of each patch of a frame, in the order of the patches: (height * width, 2).

    Patches come block by block: the merge x merge patches that become one token stand together.
    """
    rows = torch.arange(height).view(-1, 1).expand(height, width)
    columns = torch.arange(width).expand(height, width)
    grid = torch.stack((rows, columns), dim=-1)  # (height, width, 2)
    blocks = grid.view(height // merge, merge, width // merge, merge, 2).transpose(1, 2)
    return blocks.reshape(-1, 2)


def window_order(height: int, width: int, side: int) -> tuple[Tensor, list[int]]:
    """Tokens of one frame of height x width, window by window: (height * width,) places and the windows' sizes.

    Windows are side x side tokens; those at the right and lower edge are smaller.
    """
    places = torch.arange(height * width).view(height, width)
    windows = [
        places[y : y + side, x : x + side].flatten() for y in range(0, height, side) for x in range(0, width, side)
    ]
    return torch.cat(windows), [len(window) for window in windows]


def grid_rows(grid_thw: Tensor | Sequence[Sequence[int]], name: str = "grid_thw") -> tuple[tuple[int, int, int], ...]:
    """Sizes of pictures or videos in patches, (n, 3), as ((t, h, w), ...). Raises InputError for another shape."""
    rows: Any = grid_thw.tolist() if isinstance(grid_thw, Tensor) else grid_thw
    try:
        return tuple((int(t), int(h), int(w)) for t, h, w in rows)
    except (TypeError, ValueError, OverflowError):  # no rows of three, or no numbers in them
        given = f"of shape {tuple(grid_thw.shape)}" if isinstance(grid_thw, Tensor) else f"{grid_thw!r:.80}"
        message = f"{name} is {given}, expected (n, 3): t, h and w of each picture or video, in patches"
        raise InputError(message) from None


@dataclass(frozen=True)
class Layout:
    """Where the patches of a list of pictures and videos stand: depends on their sizes alone."""

    order: Tensor  # (tokens,) merged tokens window by window
    back: Tensor  # (tokens,) and back again
    cos: Tensor  # (patches, 1, head_dim) rotary tables in window order, float32
    sin: Tensor
    windows: WindowPlan
    frames: WindowPlan


@functools.lru_cache(maxsize=32)
def layout(grids: tuple[tuple[int, int, int], ...], config: VisionConfig, device: torch.device) -> Layout:
    """The layout of pictures and videos with these (t, h, w) in patches."""
    merge = config.spatial_merge_size
    side = config.window_size // merge // config.patch_size  # tokens
    places, windows, frames, positions, total = [], [], [], [], 0
    with torch.inference_mode(False):  # what is cached must be fit for training too
        for t, h, w in grids:
            place, sizes = window_order(h // merge, w // merge, side)
            places.append((place + torch.arange(t)[:, None] * len(place)).flatten() + total)
            windows += [size * merge**2 for size in sizes] * t
            frames += [h * w] * t
            positions.append(patch_positions(h, w, merge).repeat(t, 1))
            total += t * len(place)
        order = torch.cat(places)
        head_dim = config.hidden_size // config.num_heads
        turns = torch.cat(positions).view(total, merge**2, 2)[order].view(-1, 2)  # (patches, 2) in window order
        # Half of the pairs turn with the row, half with the column.
        angles = (turns[..., None] * inverse_frequencies(head_dim // 2, 1e4, torch.device("cpu"))).flatten(1)
        cos, sin = angles.cos(), angles.sin()  # (patches, head_dim / 2)
        tables = (torch.cat((cos, cos), -1)[:, None].to(device), torch.cat((-sin, sin), -1)[:, None].to(device))
        plans = (plan_windows(windows, device), plan_windows(frames, device))
        return Layout(order.to(device), order.argsort().to(device), *tables, *plans)


class VisionAttention(nn.Module):
    """Bidirectional attention within windows or frames."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(dim, dim)
        self.k = Linear(dim, dim)
        self.v = Linear(dim, dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, plan: WindowPlan) -> Tensor:
        """(patches, dim) -> the same. Rotary in the tables' precision, as the reference does it."""
        q, k, v = (proj(x).unflatten(-1, (self.heads, -1)) for proj in (self.q, self.k, self.v))
        q, k = (apply_rotary(side.to(cos.dtype), cos, sin).to(v.dtype) for side in (q, k))
        return self.proj(window_attention(q, k, v, plan))


class VisionBlock(nn.Module):
    """Pre-norm attention and SwiGLU, each with a residual path: (patches, dim) -> the same."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size)
        self.norm2 = RMSNorm(config.hidden_size)
        self.attn = VisionAttention(config.hidden_size, config.num_heads)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size, bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, plan: WindowPlan) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, plan)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel is a matrix: (patches, channels * 2 * 14 * 14) -> (patches, dim)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, kernel, stride=kernel, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        weight = self.proj.weight.flatten(1)  # (dim, channels * 2 * 14 * 14)
        return F.linear(pixels.to(weight.dtype), weight)


class PatchMerger(nn.Module):
    """merge x merge neighbouring patches -> one token: (patches, dim) -> (patches / merge^2, out)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.width = config.hidden_size * config.spatial_merge_size**2
        self.ln_q = RMSNorm(config.hidden_size)
        self.mlp = nn.Sequential(Linear(self.width, self.width), nn.GELU(), Linear(self.width, config.out_hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).view(-1, self.width))


class VisionEncoder(nn.Module):
    """Patches of any number of pictures and videos, of any size -> vectors of the text's width."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList([VisionBlock(config) for _ in range(config.depth)])
        self.merger = PatchMerger(config)
        self.gradient_checkpointing = False

    def forward(self, pixel_values: Tensor, grid_thw: Tensor | Sequence[Sequence[int]]) -> Tensor:
        """(patches, channels * 2 * 14 * 14) and (n, 3) sizes in patches -> (patches / merge^2, out_hidden_size).

        The patches of all pictures and frames follow one another, each frame in blocks of merge x merge. Raises
        InputError where sizes do not fit.
        """
        grids = self.check(pixel_values, grid_thw)
        merge = self.config.spatial_merge_size
        x = self.patch_embed(pixel_values)  # (patches, dim)
        places = layout(grids, self.config, x.device)
        x = x.view(-1, merge**2, x.shape[-1])[places.order].flatten(0, 1)  # (patches, dim), window by window
        precise = torch.promote_types(x.dtype, torch.float32)
        tables = (places.cos.to(precise), places.sin.to(precise))
        for i, block in enumerate(self.blocks):
            plan = places.frames if i in self.config.fullatt_block_indexes else places.windows
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, *tables, plan, use_reentrant=False)
            else:
                x = block(x, *tables, plan)
        return self.merger(x)[places.back]

    def check(self, pixel_values: Tensor, grid_thw: Tensor | Sequence[Sequence[int]]) -> tuple:
        """The sizes as ((t, h, w), ...). Raises InputError unless they describe exactly these patches."""
        config, merge, grids = self.config, self.config.spatial_merge_size, grid_rows(grid_thw)
        if not grids:
            raise InputError("pixel values came with an empty grid_thw: expected one (t, h, w) a picture or video")
        for grid in grids:
            if min(grid) < 1 or grid[1] % merge or grid[2] % merge:
                raise InputError(f"a picture of {grid} patches: expected (t, h, w), h and w multiples of {merge}")
        width = config.in_channels * config.temporal_patch_size * config.patch_size**2
        patches = sum(t * h * w for t, h, w in grids)
        if pixel_values.shape != (patches, width):
            raise InputError(f"pixel values are {tuple(pixel_values.shape)}, grid_thw asks for ({patches}, {width})")
        return grids
