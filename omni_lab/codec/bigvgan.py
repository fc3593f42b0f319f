"""BigVGAN (Lee et al. 2023): mel frames -> a 24 kHz wave, every part of it differentiable.

Notable:
- SnakeBeta makes overtones above what the sampling rate can hold, so each one runs at twice the rate, between two
  Kaiser-windowed low-pass filters (the paper's section 3.2, "anti-aliased");
- its scales alpha and beta are stored as logarithms; the last convolution has no bias; the wave is clamped, no tanh;
- nothing is causal: a sample hears `receptive_frames` mel frames on each side. Chunks cut with that margin give the
  samples that the whole would give.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import cpu_kernels
from ..config import BigVGANConfig
from ..errors import ConfigError, InputError

FILTER_TAPS = 12  # of the anti-aliasing filters, at twice the rate
LOWEST_DB, REFERENCE_DB = -115.0, 20.0


def kaiser_sinc_filter(taps: int = FILTER_TAPS, cutoff: float = 0.25, half_width: float = 0.3) -> Tensor:
    """A Kaiser-windowed sinc low-pass filter of unit sum: (taps,), float32.

    cutoff and half_width (of the transition) in cycles per sample. Window by Kaiser's formula from the attenuation.
    """
    half = taps // 2
    attenuation = 2.285 * (half - 1) * math.pi * 4 * half_width + 7.95  # dB
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    window = torch.kaiser_window(taps, periodic=False, beta=beta)
    places = torch.arange(taps) - (half - 0.5 if taps % 2 == 0 else half)
    taps_of_filter = window * torch.sinc(2 * cutoff * places)
    return taps_of_filter / taps_of_filter.sum()


@lru_cache(maxsize=64)
def grouped_filter(channels: int, gain: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The anti-aliasing filter once per channel, for a grouped convolution: (channels, 1, FILTER_TAPS)."""
    with torch.inference_mode(False):  # kept for later callers, who may train
        return (gain * kaiser_sinc_filter()).to(device, dtype).repeat(channels, 1, 1)


def upsample_twice(x: Tensor) -> Tensor:
    """(batch, channels, samples) -> (batch, channels, 2 samples), low-passed at the old rate's limit."""
    channels = x.shape[1]
    margin = FILTER_TAPS // 2 - 1
    # Zeros go between the samples, which halves the level: hence the gain of 2. The crop leaves exactly 2 per sample.
    filters = grouped_filter(channels, 2.0, x.dtype, x.device)
    crop = 2 * margin + margin
    return F.conv_transpose1d(extend(x, margin, margin), filters, stride=2, padding=crop, groups=channels)


def downsample_twice(x: Tensor) -> Tensor:
    """(batch, channels, 2 samples) -> (batch, channels, samples), low-passed at the new rate's limit."""
    channels = x.shape[1]
    filters = grouped_filter(channels, 1.0, x.dtype, x.device)
    return F.conv1d(extend(x, FILTER_TAPS // 2 - 1, FILTER_TAPS // 2), filters, stride=2, groups=channels)


def extend(x: Tensor, left: int, right: int) -> Tensor:
    """Repeat the first and last sample: (..., samples) -> (..., left + samples + right). Faster than F.pad on a CPU."""
    first, last = x[..., :1], x[..., -1:]
    return torch.cat((first.expand(*x.shape[:-1], left), x, last.expand(*x.shape[:-1], right)), dim=-1)


def snake_beta(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """x + sin(alpha x)^2 / beta, a periodic activation (Ziyin et al. 2020; BigVGAN, section 3.1).

    x: (batch, channels, samples); alpha (frequency) and beta (inverse size), both positive: (channels, 1).
    """
    wave = torch.sin(alpha * x)
    return torch.addcmul(x, wave * wave, 1 / (beta + 1e-9))


class SnakeBeta(nn.Module):
    """The learned scales of `snake_beta`, as logarithms: (batch, channels, samples) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return snake_beta(x, self.alpha.exp()[:, None], self.beta.exp()[:, None])


class AntiAliasedActivation(nn.Module):
    """SnakeBeta at twice the rate: (batch, channels, samples) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)

    def forward(self, x: Tensor) -> Tensor:
        return downsample_twice(self.act(upsample_twice(x)))


class ResidualBlock(nn.Module):
    """Anti-aliased multi-periodicity block (AMP, the paper's figure 1): (batch, channels, samples) -> the same.

    Three times activation, dilated convolution, activation, convolution, residual.
    """

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Conv1d:
            return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)

        self.convs1 = nn.ModuleList([conv(dilation) for dilation in dilations])
        self.convs2 = nn.ModuleList([conv(1) for _ in dilations])
        self.activations = nn.ModuleList([AntiAliasedActivation(channels) for _ in range(2 * len(dilations))])

    def forward(self, x: Tensor) -> Tensor:
        for i, (dilated, plain) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            y = dilated(self.activations[2 * i](x))
            x = x + plain(self.activations[2 * i + 1](y))
        return x


def normalise_mel(mel: Tensor) -> Tensor:
    """Natural-log mel -> decibels of the magnitude, floored at -115, shifted by -20, scaled to [-1, 1]; any shape.

    20 log10(exp(m)) is m * 20 / ln 10: no exponential is needed, and none can overflow.
    """
    decibels = (mel * (20 / math.log(10))).clamp(min=LOWEST_DB) - REFERENCE_DB
    return (2 * (decibels - LOWEST_DB) / -LOWEST_DB - 1).clamp(-1, 1)


class BigVGAN(nn.Module):
    """The vocoder (`token2wav.code2wav_bigvgan_model`): raises ConfigError for sizes that no vocoder can have."""

    def __init__(self, config: BigVGANConfig) -> None:
        super().__init__()
        if any(len(dilations) != 3 for dilations in config.resblock_dilation_sizes):
            raise ConfigError(f"resblock_dilation_sizes {config.resblock_dilation_sizes}: expected 3 in each block")
        self.config = config
        widths = [config.upsample_initial_channel // 2**i for i in range(len(config.upsample_rates) + 1)]
        if widths[-1] < 1:
            raise ConfigError(f"upsample_initial_channel {widths[0]} cannot be halved {len(widths) - 1} times")
        self.conv_pre = nn.Conv1d(config.mel_dim, widths[0], 7, padding=3)
        # The inner lists hold one layer each: so the released checkpoints name them.
        self.ups = nn.ModuleList(
            [
                nn.ModuleList([nn.ConvTranspose1d(wide, narrow, kernel, rate, padding=(kernel - rate) // 2)])
                for wide, narrow, kernel, rate in zip(
                    widths[:-1], widths[1:], config.upsample_kernel_sizes, config.upsample_rates, strict=True
                )
            ]
        )
        kinds = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        self.resblocks = nn.ModuleList([ResidualBlock(width, *kind) for width in widths[1:] for kind in kinds])
        self.activation_post = AntiAliasedActivation(widths[-1])
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3, bias=False)

    @property
    def hop(self) -> int:
        """Samples per mel frame."""
        return math.prod(self.config.upsample_rates)

    def forward(self, mel: Tensor) -> Tensor:
        """Natural-log mel (batch, frames, mel_dim) -> wave (batch, frames * hop) in [-1, 1]. Raises InputError."""
        if mel.ndim != 3 or mel.shape[2] != self.config.mel_dim:
            raise InputError(f"mel is {tuple(mel.shape)}, expected (batch, frames, {self.config.mel_dim})")
        if mel.shape[1] == 0:
            return mel.new_zeros(mel.shape[0], 0)
        cpu_kernels.forget(self)
        x = self.conv_pre(normalise_mel(mel).transpose(1, 2))  # (batch, channels, frames)
        kinds = len(self.config.resblock_kernel_sizes)
        for i, ups in enumerate(self.ups):
            for up in ups.children():  # one
                x = up(x)
            x = sum(block(x) for block in self.resblocks[i * kinds : (i + 1) * kinds]) / kinds
        return self.conv_post(self.activation_post(x)).squeeze(1).clamp(-1, 1)


def receptive_frames(config: BigVGANConfig) -> int:
    """Mel frames on each side that a sample depends on, at most. Beyond them the vocoder hears nothing.

    Summed from the wave back to the mel, each layer's reach counted in samples of its own rate.
    """
    filters = FILTER_TAPS // 2  # of an activation: half as much on the way up, half on the way down
    reach = 3 + filters  # conv_post and the activation before it
    stages = zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)
    for rate, kernel in reversed(list(stages)):
        blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
        reach += max(
            sum((k - 1) // 2 * dilation for dilation in dilations) + len(dilations) * ((k - 1) // 2 + 2 * filters)
            for k, dilations in blocks
        )
        # Output n of a transposed convolution hears inputs (n + pad - kernel + 1) / rate to (n + pad) / rate; the first
        # and the last of the `rate` outputs that belong to one input reach furthest.
        pad = (kernel - rate) // 2
        reach = max(reach + kernel - 1 - pad, reach + pad + rate - 1) // rate
    return reach + 3  # conv_pre


def chunk_windows(frames: int, chunk_frames: int, margin: int) -> list[tuple[int, int, int, int]]:
    """Cut `frames` into chunks that overlap: (window start, window end, kept start, kept end) of each, in frames.

    The kept parts meet without gap or overlap; each window holds `margin` frames more on both sides where there are.
    """
    return [
        (max(0, start - margin), min(frames, start + chunk_frames + margin), start, min(frames, start + chunk_frames))
        for start in range(0, frames, chunk_frames)
    ]


def vocode_chunks(vocoder: BigVGAN, mel: Tensor, chunk_frames: int, margin: int | None = None) -> Iterator[Tensor]:
    """Vocode (batch, frames, mel_dim) piece by piece: waves (batch, up to chunk_frames * hop), which join to the whole.

    With the default margin (`receptive_frames`) they are the whole's own samples; a smaller one is heard sooner and
    differs a little near the seams. Raises InputError, and ConfigError for a vocoder whose frames overlap in time.
    """
    config = vocoder.config
    if any((k - r) % 2 for k, r in zip(config.upsample_kernel_sizes, config.upsample_rates, strict=True)):
        raise ConfigError("vocoding in chunks needs upsample_kernel_sizes that differ from their rates by even numbers")
    margin = receptive_frames(config) if margin is None else margin
    if chunk_frames < 1 or margin < 0:
        raise InputError(f"chunks of {chunk_frames} frames with a margin of {margin}: expected at least 1 and 0")
    for start, end, kept_start, kept_end in chunk_windows(mel.shape[1], chunk_frames, margin):
        wave = vocoder(mel[:, start:end])
        yield wave[:, (kept_start - start) * vocoder.hop : (kept_end - start) * vocoder.hop]
