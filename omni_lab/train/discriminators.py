"""Critics of a vocoder: multi-period (Kong et al. 2020, HiFi-GAN) and multi-resolution (Lee et al. 2023, BigVGAN).

Each critic returns its scores and the features it saw on the way: the vocoder is asked to be scored as real (least
squares, Mao et al. 2017) and to make the features of the real wave (feature matching).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ..codec.mel import mel_spectrogram

PERIODS = (2, 3, 5, 7, 11)  # samples: primes, so that the views overlap as little as possible
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # FFT, hop, window in samples
SLOPE = 0.1  # of the leaky ReLU


class PeriodCritic(nn.Module):
    """Looks at every `period`-th sample: the wave folded to (samples / period, period), convolved along time."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        sizes = (1, width, 2 * width, 4 * width, 4 * width)
        strides = (3, 3, 3, 1)
        self.convs = nn.ModuleList(
            [
                weight_norm(nn.Conv2d(a, b, (5, 1), (stride, 1), padding=(2, 0)))
                for a, b, stride in zip(sizes[:-1], sizes[1:], strides, strict=True)
            ]
        )
        self.score = weight_norm(nn.Conv2d(sizes[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """wave: (batch, samples) -> features of every layer, the scores last."""
        wave = F.pad(wave, (0, -wave.shape[1] % self.period), mode="reflect")
        x = wave.unflatten(1, (-1, self.period)).unsqueeze(1)  # (batch, 1, samples / period, period)
        return scored(x, self.convs, self.score)


class ResolutionCritic(nn.Module):
    """Looks at the magnitudes of a short-time Fourier transform."""

    def __init__(self, fft: int, hop: int, window: int, width: int) -> None:
        super().__init__()
        self.fft, self.hop, self.window = fft, hop, window
        strides = ((1, 1), (1, 2), (1, 2), (1, 2), (1, 1))
        kernels = ((3, 9), (3, 9), (3, 9), (3, 9), (3, 3))
        self.convs = nn.ModuleList(
            [
                weight_norm(nn.Conv2d(width if i else 1, width, kernel, stride, (kernel[0] // 2, kernel[1] // 2)))
                for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True))
            ]
        )
        self.score = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """wave: (batch, samples) -> features of every layer, the scores last."""
        return scored(
            magnitudes(wave, self.fft, self.hop, self.window).transpose(1, 2)[:, None], self.convs, self.score
        )


def scored(x: Tensor, convs: nn.ModuleList, score: nn.Module) -> list[Tensor]:
    """Run a critic's layers and keep what each one saw."""
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), SLOPE)
        features.append(x)
    return [*features, score(x)]


def magnitudes(wave: Tensor, fft: int, hop: int, window: int) -> Tensor:
    """(batch, samples) -> magnitudes (batch, fft // 2 + 1, frames), in float32."""
    wave = wave.float()
    shape = torch.hann_window(window, device=wave.device)
    spectrum = torch.stft(wave, fft, hop, window, shape, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


class Critics(nn.Module):
    """All critics; `width` is the channels of the narrowest layer (32 in the papers)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        periods = [PeriodCritic(period, width) for period in PERIODS]
        self.critics = nn.ModuleList([*periods, *(ResolutionCritic(*sizes, width) for sizes in RESOLUTIONS)])

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """wave: (batch, samples) -> the features and scores of every critic."""
        return [critic(wave) for critic in self.critics]


def critic_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """What the critics minimise: real waves scored 1, made ones 0. Mean over critics."""
    losses = [(1 - r[-1]).square().mean() + f[-1].square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def deception_loss(fake: list[list[Tensor]]) -> Tensor:
    """What the vocoder minimises to be taken for real."""
    return torch.stack([(1 - f[-1]).square().mean() for f in fake]).mean()


def feature_matching_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Mean absolute difference of the critics' features of the real and the made wave."""
    losses = [
        F.l1_loss(b, a.detach()) for r, f in zip(real, fake, strict=True) for a, b in zip(r[:-1], f[:-1], strict=True)
    ]
    return torch.stack(losses).mean()


def spectral_loss(made: Tensor, wave: Tensor) -> Tensor:
    """Mean absolute log-magnitude difference at each resolution, plus spectral convergence (Yamamoto et al. 2020)."""
    losses = []
    for sizes in RESOLUTIONS:
        ours, theirs = magnitudes(made, *sizes), magnitudes(wave, *sizes)
        losses += [F.l1_loss(ours.clamp(min=1e-5).log(), theirs.clamp(min=1e-5).log())]
        losses += [(theirs - ours).norm() / theirs.norm().clamp(min=1.0)]
    return torch.stack(losses).sum() / len(RESOLUTIONS)


def mel_loss(made: Tensor, wave: Tensor) -> Tensor:
    """Mean absolute difference of the log-mels, (batch, samples) each."""
    return F.l1_loss(mel_spectrogram(made.float()), mel_spectrogram(wave.float()))
