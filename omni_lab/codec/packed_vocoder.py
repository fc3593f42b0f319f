"""BigVGAN for listening alone, on a CPU: the same sums in an order that suits it, weights copied once into its layout.

Notable:
- a small vocoder spends its time on the filters around its activations and on starting kernels, not on its matrices;
- the two filters of an activation become products with a banded matrix, tile by tile, which a CPU multiplies several
  times as fast as it filters. The matrices are what `upsample_twice` and `downsample_twice` do to single impulses;
- the activations of a stage's parallel blocks run side by side while they are short;
- of a window with context only what its wanted samples hear is computed: the nearer to the sound, the less that is;
- oneDNN keeps the convolutions' weights in the layout that its kernels want.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .. import cpu_kernels
from . import bigvgan
from .bigvgan import FILTER_TAPS, AntiAliasedActivation, BigVGAN, ResidualBlock

TILE = 16  # samples of a tile, at the lower rate
PIECE = 128  # frames of a longer mel that are vocoded at once: memory does not grow with the sound
AT_ONCE = 60_000  # numbers that are activated at once: with more, what lies in between leaves the core's cache


def vocode(vocoder: BigVGAN, mel: Tensor, first: int = 0, last: int | None = None) -> Tensor:
    """`vocoder(mel)[:, first:last]`, by the packed copy where one can be had: (batch, frames, mel_dim) -> (batch, n).

    first, last: samples; by default all frames * hop of them."""
    if mel.ndim != 3 or mel.shape[0] != 1 or mel.shape[1] == 0 or not packable(vocoder, mel):
        return vocoder(mel)[:, first:last]
    packed: PackedVocoder = cpu_kernels.kept(vocoder, PackedVocoder)
    samples = mel.shape[1] * vocoder.hop
    if last is not None or not packed.even or mel.shape[1] <= PIECE + PIECE // 2:
        return packed(mel, first, last)
    margin = bigvgan.receptive_frames(vocoder.config)
    wave = mel.new_empty(1, samples)
    for begin, end, kept, kept_end in bigvgan.chunk_windows(mel.shape[1], PIECE, margin):
        own = (kept * vocoder.hop, kept_end * vocoder.hop)
        wave[:, own[0] : own[1]] = packed(mel[:, begin:end], *(place - begin * vocoder.hop for place in own))
    return wave[:, first:]


def packable(vocoder: BigVGAN, mel: Tensor) -> bool:
    """Whether a copy may stand for the vocoder: float32 on a CPU with oneDNN, without gradients, nothing replaced or
    listened to."""
    if torch.is_grad_enabled() or type(vocoder) is not BigVGAN:  # lab 07 has Griffin and Lim speak in its place
        return False
    if not cpu_kernels.applies(mel, vocoder.conv_post.weight) or cpu_kernels.listened(vocoder):
        return False
    return torch.backends.mkldnn.is_available() and all(map(untouched, vocoder._modules.values()))


OURS = (nn.Conv1d, nn.ConvTranspose1d, nn.ModuleList, ResidualBlock, AntiAliasedActivation, bigvgan.SnakeBeta)


def untouched(module: Any) -> bool:
    """Whether a part and all within it are of the vocoder's own kinds, without hooks.

    Asked before every chunk, hence not by `modules()`, which takes several times as long."""
    known = type(module) in OURS and not cpu_kernels.listened(module)
    return known and all(map(untouched, module._modules.values()))


@lru_cache(maxsize=2)
def banded(tile: int = TILE) -> tuple[Tensor, Tensor]:
    """The two filters as matrices: windows (tile + 6) -> (2 tile), and (2 tile + 10) -> (tile)."""
    around = FILTER_TAPS  # impulses beyond the tile on each side: more than the filters reach
    with torch.inference_mode(False):
        up = bigvgan.upsample_twice(torch.eye(tile + 2 * around)[None])[0]
        down = bigvgan.downsample_twice(torch.eye(2 * tile + 4 * around)[None])[0]
        reach_up, reach_down = FILTER_TAPS // 4, FILTER_TAPS // 2 - 1
        up = up[around - reach_up : around + tile + reach_up, 2 * around : 2 * (around + tile)]
        down = down[2 * around - reach_down : 2 * (around + tile) + reach_down, around : around + tile]
        return up.contiguous(), down.contiguous()


def tiles(x: Tensor, step: int, reach: int) -> Tensor:
    """Windows of `step` samples and `reach` more on each side, the ends repeated: (channels, n) -> (windows, width)."""
    x = bigvgan.extend(x, reach, reach - x.shape[1] % -step)  # the last tile may be short
    return x.unfold(1, step + 2 * reach, step).reshape(-1, step + 2 * reach)


class PackedActivation:
    """Anti-aliased activations of one or more blocks, channels side by side."""

    def __init__(self, activations: Sequence[Any]) -> None:
        self.alpha = torch.cat([a.act.alpha.detach().exp() for a in activations])[:, None]
        self.beta = torch.cat([a.act.beta.detach().exp() for a in activations])[:, None]

    def __call__(self, x: Tensor, over: bool = False) -> Tensor:
        """(channels, samples) -> the same, a few channels at a time: what they need in between stays in the cache.

        over: the result is written over x, which nobody needs any more."""
        few = max(1, AT_ONCE // x.shape[1])
        if few >= len(x):
            return self.run(x, slice(None))
        out = x if over else torch.empty_like(x)
        for first in range(0, len(x), few):
            out[first : first + few] = self.run(x[first : first + few], slice(first, first + few))
        return out

    def run(self, x: Tensor, rows: slice) -> Tensor:
        """(channels, samples) -> the same, for the packed channels `rows`."""
        channels, samples = x.shape
        up, down = banded()
        x = torch.mm(tiles(x, TILE, FILTER_TAPS // 4), up).view(channels, -1)[:, : 2 * samples]
        x = bigvgan.snake_beta(x, self.alpha[rows], self.beta[rows])
        x = torch.mm(tiles(x, 2 * TILE, FILTER_TAPS // 2 - 1), down)
        return x.view(channels, -1)[:, :samples]


class PackedConv:
    """A convolution over pictures of height 1, for which oneDNN takes weights in its own layout."""

    LIKELY = 256  # samples for which the layout is chosen

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: int, dilation: int = 1) -> None:
        self.padding, self.dilation, self.bias = [0, padding], [1, dilation], bias
        size = [1, weight.shape[1], 1, self.LIKELY]
        self.weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(
            weight[:, :, None].to_mkldnn(), self.padding, [1, 1], self.dilation, 1, size
        )

    def __call__(self, x: Tensor) -> Tensor:
        """(channels, samples) -> (new channels, samples)."""
        picture = x[None, :, None]
        out = torch.ops.mkldnn._convolution_pointwise(
            picture, self.weight, self.bias, self.padding, [1, 1], self.dilation, 1, "none", [], ""
        )
        return out[0, :, 0]


def packed_conv(conv: Any) -> PackedConv:
    """A Conv1d, packed."""
    bias = None if conv.bias is None else conv.bias.detach()
    return PackedConv(conv.weight.detach(), bias, conv.padding[0], conv.dilation[0])


class PackedConvs:
    """Convolutions of parallel blocks, each over its own channels: (blocks * channels, samples) -> the same."""

    FEW = 16  # channels that a kernel computes at least: so many side by side cost no more than one block alone

    def __init__(self, convs: Sequence[Any]) -> None:
        self.channels = convs[0].in_channels
        self.convs = [packed_conv(conv) for conv in convs]
        if len(convs) * self.channels <= self.FEW and len({conv.dilation for conv in convs}) == 1:
            most = max(convs, key=lambda conv: conv.kernel_size[0])
            width, dilation = most.kernel_size[0], most.dilation[0]
            weight = torch.zeros(len(convs) * self.channels, len(convs) * self.channels, width)
            for i, conv in enumerate(convs):
                own = slice(i * self.channels, (i + 1) * self.channels)
                spare = (width - conv.kernel_size[0]) // 2
                weight[own, own, spare : width - spare] = conv.weight.detach()
            bias = torch.cat([conv.bias.detach() for conv in convs])
            self.convs = [PackedConv(weight, bias, most.padding[0], dilation)]

    def __call__(self, x: Tensor) -> Tensor:
        if len(self.convs) == 1:
            return self.convs[0](x)
        return torch.cat([conv(own) for conv, own in zip(self.convs, x.split(self.channels), strict=True)])


class PackedStage:
    """One upsampling and the parallel blocks behind it, their channels side by side."""

    def __init__(self, up: Any, blocks: Sequence[Any]) -> None:
        self.up, self.blocks = up, len(blocks)
        self.rate, self.kernel = up.stride[0], up.kernel_size[0]
        self.reach = max(block_reach(block) for block in blocks)
        self.activations = [PackedActivation(each) for each in zip(*(b.activations for b in blocks), strict=True)]
        pairs = zip(*(zip(b.convs1, b.convs2, strict=True) for b in blocks), strict=True)
        self.convs = [PackedConvs(each) for pair in pairs for each in zip(*pair, strict=True)]

    def hears(self, first: int, last: int) -> tuple[int, int]:
        """Of which inputs the outputs first ... last - 1 are made, were there no ends: (first, last)."""
        pad = (self.kernel - self.rate) // 2
        first, last = first - self.reach, last + self.reach
        return (first + pad - self.kernel) // self.rate + 1, (last - 1 + pad) // self.rate + 1

    def __call__(self, x: Tensor) -> Tensor:
        """(channels, samples) -> (half the channels, rate * samples)."""
        x = self.up(x[None])[0].repeat(self.blocks, 1)
        for i in range(0, len(self.convs), 2):
            inner = self.activations[i + 1](self.convs[i](self.activations[i](x)), over=True)
            x = x.add_(self.convs[i + 1](inner))
            del inner  # or it would be held beside the next one
        return x.unflatten(0, (self.blocks, -1)).mean(0)


def block_reach(block: Any) -> int:
    """Samples on each side that a residual block's output hears."""
    convs = [*block.convs1, *block.convs2]
    filters = FILTER_TAPS // 2  # of an activation: half as much on the way up, half on the way down
    return sum((conv.kernel_size[0] - 1) // 2 * conv.dilation[0] + filters for conv in convs)


class PackedVocoder:
    """All of it. Holds a copy of the weights; `cpu_kernels.kept` makes a new one when they change."""

    def __init__(self, vocoder: BigVGAN) -> None:
        kinds = len(vocoder.config.resblock_kernel_sizes)
        blocks: list[Any] = list(vocoder.resblocks)
        ups: Any = vocoder.ups
        self.stages = [PackedStage(up[0], blocks[i * kinds : (i + 1) * kinds]) for i, up in enumerate(ups)]
        self.first, self.last = packed_conv(vocoder.conv_pre), packed_conv(vocoder.conv_post)
        self.activation = PackedActivation([vocoder.activation_post])
        # Otherwise a stage makes not exactly `rate` outputs of an input, and places are not to be counted so simply.
        self.even = all((stage.kernel - stage.rate) % 2 == 0 for stage in self.stages)

    def __call__(self, mel: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """(1, frames, mel_dim) -> samples `first` to `last` of it (default: all), (1, n)."""
        x = self.first(bigvgan.normalise_mel(mel)[0].t())
        begin = 0  # place of x's first sample in all that there is at its rate
        if last is None or not self.even:
            for stage in self.stages:
                x = stage(x)
        else:
            for stage, (start, end) in zip(self.stages, self.ranges(first, last), strict=True):
                start = max(start, begin)
                x, begin = stage(x[:, start - begin : end - begin]), start * stage.rate
        wave = self.last(self.activation(x, over=True)).clamp(-1, 1)
        return wave[:, first - begin : None if last is None else last - begin]

    def ranges(self, first: int, last: int) -> list[tuple[int, int]]:
        """What each stage has to be given, were there no ends, for samples first ... last - 1."""
        reach = self.last.padding[1] + FILTER_TAPS // 2
        found = [(first - reach, last + reach)]
        for stage in reversed(self.stages):
            found.insert(0, stage.hears(*found[0]))
        return found[:-1]
