"""BigVGAN against the reference, its parts, chunk seams, gradients, and bad input."""

import math

import pytest
import torch
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as models

from omni_lab.codec import bigvgan
from omni_lab.codec.bigvgan import BigVGAN
from omni_lab.config import BigVGANConfig, preset
from omni_lab.errors import ConfigError, InputError

from ..comparison import relative
from .reference import BIGVGAN_CONFIGS, pair, reference_bigvgan

torch.set_num_threads(1)


def mel_of(config: BigVGANConfig, frames: int, batch: int = 2, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return 3 * torch.randn(batch, frames, config.mel_dim, generator=generator, dtype=dtype) - 4


def our_bigvgan(name: str, spread: float = 0.05) -> BigVGAN:
    model = BigVGAN(BIGVGAN_CONFIGS[name])
    pair(model, reference_bigvgan(BIGVGAN_CONFIGS[name]), spread=spread)
    return model


@pytest.mark.parametrize("name", BIGVGAN_CONFIGS)
@pytest.mark.parametrize("frames", [1, 2, 41])
@torch.no_grad()
def test_agrees_with_the_reference(name, frames):
    config = BIGVGAN_CONFIGS[name]
    ours, reference = BigVGAN(config), reference_bigvgan(config)
    pair(ours, reference, spread=0.05)
    mel = mel_of(config, frames)
    assert relative(ours(mel), reference(mel.transpose(1, 2))) < 1e-5


@torch.no_grad()
def test_parts_agree_with_the_reference_at_loud_levels():
    ours, reference = (
        bigvgan.AntiAliasedActivation(6),
        models.Qwen2_5OmniAntiAliasedActivation1d(models.Qwen2_5OmniSnakeBeta(6)),
    )
    pair(ours, reference, spread=0.5)
    x = 3 * torch.randn(2, 6, 37, generator=torch.Generator().manual_seed(0))
    assert relative(ours(x), reference(x)) < 1e-5
    assert relative(bigvgan.upsample_twice(x), reference.upsample(x)) < 1e-5
    assert relative(bigvgan.downsample_twice(x), reference.downsample(x)) < 1e-5
    block, reference = bigvgan.ResidualBlock(6, 5, (1, 2, 3)), models.Qwen2_5OmniAMPBlock(6, 5, (1, 2, 3))
    pair(block, reference)
    assert relative(block(x), reference(x)) < 1e-5
    for taps, cutoff, half_width in ((12, 0.25, 0.3), (11, 0.1, 0.12), (8, 0.25, 0.02)):
        expected = models.kaiser_sinc_filter1d(cutoff, half_width, taps).flatten()
        assert torch.allclose(bigvgan.kaiser_sinc_filter(taps, cutoff, half_width), expected, atol=1e-7)


def test_mel_preprocessing_is_decibels_with_a_floor():
    mel = torch.tensor([-1000.0, -13.3, math.log(0.1), 0.0, math.log(10.0), 4.0, 500.0])
    expected = []
    for value in mel.tolist():
        decibels = max(20 * value / math.log(10), -115) - 20
        expected.append(min(1.0, max(-1.0, 2 * (decibels + 115) / 115 - 1)))
    assert torch.allclose(bigvgan.normalise_mel(mel), torch.tensor(expected), atol=1e-6)


def test_snake_beta_is_its_formula_and_filters_keep_a_constant():
    x, alpha, beta = torch.randn(2, 3, 5), torch.tensor([[0.5], [1.0], [2.0]]), torch.tensor([[3.0], [1.0], [0.2]])
    assert torch.allclose(bigvgan.snake_beta(x, alpha, beta), x + torch.sin(alpha * x) ** 2 / beta, atol=1e-5)
    constant = torch.full((1, 2, 9), 0.7)
    assert torch.allclose(bigvgan.upsample_twice(constant), torch.full((1, 2, 18), 0.7), atol=1e-2)
    assert torch.allclose(bigvgan.downsample_twice(constant.repeat(1, 1, 2)), constant, atol=1e-6)


def test_the_anti_aliased_activation_makes_fewer_false_tones():
    """A loud high tone squared by the snake: overtones beyond the limit must not fold back (BigVGAN, section 3.2)."""
    time = torch.arange(512, dtype=torch.float64)
    x = torch.sin(2 * math.pi * 0.35 * time)[None, None]  # its first overtone, 0.7, folds back to 0.3
    layer = bigvgan.AntiAliasedActivation(1).double()

    def folded(y: torch.Tensor) -> float:
        spectrum = torch.fft.rfft(y[0, 0, 128:-128] * torch.hann_window(256, dtype=y.dtype)).abs()
        return spectrum[round(0.3 * 256)].item()

    assert folded(layer(x)) < 0.3 * folded(layer.act(x))


@pytest.mark.parametrize("name", list(BIGVGAN_CONFIGS)[:2])
@torch.no_grad()
def test_chunks_with_the_full_margin_are_the_whole(name):
    model = our_bigvgan(name)
    mel = mel_of(model.config, 60, batch=1, dtype=torch.float64)
    model.double()
    whole = model(mel)
    assert whole.abs().max() > 1e-3
    margin = bigvgan.receptive_frames(model.config)
    for size in (24, 100):
        joined = torch.cat(list(bigvgan.vocode_chunks(model, mel, size)), dim=1)
        assert relative(joined, whole) < 1e-12
    rough = torch.cat(list(bigvgan.vocode_chunks(model, mel, 24, margin // 6)), dim=1)
    assert rough.shape == whole.shape and relative(rough, whole) > 1e-9


@pytest.mark.parametrize("name", list(BIGVGAN_CONFIGS)[:2])
def test_receptive_frames_bound_what_a_frame_moves(name):
    model = our_bigvgan(name).double()
    mel = mel_of(model.config, 101, batch=1, dtype=torch.float64).requires_grad_()
    margin = bigvgan.receptive_frames(model.config)
    model(mel)[0, 50 * model.hop : 51 * model.hop].sum().backward()
    heard = mel.grad[0].abs().amax(1).nonzero().squeeze(1)
    assert 50 - margin <= heard.min() and heard.max() <= 50 + margin
    assert heard.max() - heard.min() > margin  # not a bound so loose that chunks would waste their work


def test_windows_meet_without_gap():
    windows = bigvgan.chunk_windows(100, 24, 5)
    kept = [frame for _, _, start, end in windows for frame in range(start, end)]
    assert kept == list(range(100))
    assert windows[0][:2] == (0, 29) and windows[1][:2] == (19, 53) and windows[-1] == (91, 100, 96, 100)
    assert bigvgan.chunk_windows(0, 24, 5) == []


@pytest.mark.parametrize("name", BIGVGAN_CONFIGS)
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    model = BigVGAN(BIGVGAN_CONFIGS[name])
    wave = model(mel_of(model.config, 12))
    assert wave.abs().max() < 1  # nowhere clamped, where gradients would end
    (wave - torch.randn(wave.shape)).abs().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), parameter_name


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    model = BigVGAN(BIGVGAN_CONFIGS["one stage, a kernel that adds a sample"]).double()
    mel = mel_of(model.config, 5, dtype=torch.float64).requires_grad_()
    names = [name for name, _ in model.named_parameters()]

    def wave(mel, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (mel,))

    assert torch.autograd.gradcheck(wave, (mel, *model.parameters()), fast_mode=True)


def test_inference_first_does_not_spoil_training():
    bigvgan.grouped_filter.cache_clear()
    model = our_bigvgan("other rates and kernels")
    with torch.inference_mode():
        model(mel_of(model.config, 3))
    model(mel_of(model.config, 3)).sum().backward()


def test_a_students_snake_is_the_one_the_vocoder_uses(monkeypatch):
    model = our_bigvgan("other rates and kernels")
    mel = mel_of(model.config, 9)
    before = model(mel)
    monkeypatch.setattr(bigvgan, "snake_beta", lambda x, alpha, beta: torch.tanh(x))
    assert relative(model(mel), before) > 1e-3


def test_published_size():
    with torch.device("meta"):
        model = BigVGAN(preset("qwen2_5_omni_7b").token2wav_config.bigvgan_config)
    assert round(sum(p.numel() for p in model.parameters()) / 1e5) == 1154
    assert model.hop == 240


def test_no_frames_give_no_samples():
    model = our_bigvgan("other rates and kernels")
    assert model(mel_of(model.config, 0)).shape == (2, 0)
    assert list(bigvgan.vocode_chunks(model, mel_of(model.config, 0), 24)) == []


def test_bad_input_gives_one_line():
    model = our_bigvgan("other rates and kernels")
    mel = mel_of(model.config, 9)
    for bad in (mel[0], mel[:, :, :12], mel.transpose(1, 2)):
        with pytest.raises(InputError, match="^mel is [^\n]*$"):
            model(bad)
    for chunk, margin in ((0, None), (4, -1)):
        with pytest.raises(InputError, match="^chunks of [^\n]*$"):
            list(bigvgan.vocode_chunks(model, mel, chunk, margin))
    uneven = our_bigvgan("one stage, a kernel that adds a sample")
    with pytest.raises(ConfigError, match="even numbers"):
        list(bigvgan.vocode_chunks(uneven, mel_of(uneven.config, 9), 3))
    with pytest.raises(ConfigError, match="halved"):
        BigVGAN(BigVGANConfig(upsample_initial_channel=4))
    with pytest.raises(ConfigError, match="expected 3"):
        BigVGAN(BigVGANConfig(resblock_dilation_sizes=((1, 2), (1, 2), (1, 2))))
