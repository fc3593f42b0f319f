"""Codes to wave: identical to the reference given the same noise, differentiable, by speaker, and bad input."""

from dataclasses import replace

import pytest
import torch

from omni_lab.codec.speaker import Speaker
from omni_lab.codec.token2wav import Token2Wav
from omni_lab.config import BigVGANConfig, DiTConfig, Token2WavConfig, preset
from omni_lab.errors import InputError

from ..comparison import relative
from .reference import BIGVGAN_CONFIGS, DIT_CONFIGS, pair, reference_token2wav

torch.set_num_threads(1)


def joined(dit: DiTConfig, vocoder: BigVGANConfig) -> Token2WavConfig:
    return Token2WavConfig(dit, replace(vocoder, mel_dim=dit.mel_dim))


CONFIGS = {
    name: joined(dit, vocoder)
    for (name, dit), vocoder in zip(DIT_CONFIGS.items(), BIGVGAN_CONFIGS.values(), strict=True)
}


@pytest.fixture(scope="module", params=CONFIGS)
def models(request):
    config = CONFIGS[request.param]
    ours, reference = Token2Wav(config), reference_token2wav(config)
    pair(ours, reference, spread=0.06)
    return ours, reference


def inputs_of(config: DiTConfig, codes: int, batch: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(codes)
    return (
        torch.randint(0, config.num_embeds, (batch, codes), generator=generator),
        torch.randn(batch, config.enc_emb_dim, generator=generator),
        torch.randn(batch, 20, config.mel_dim, generator=generator),
    )


@pytest.mark.parametrize("how", [{}, dict(num_steps=4, guidance_scale=1.5, sway_coefficient=None)])
@torch.no_grad()
def test_waves_are_the_references_given_its_noise(models, how):
    ours, reference = models
    codes, conditioning, reference_mel = inputs_of(ours.config.dit_config, 21)
    torch.manual_seed(5)
    expected = reference(codes, conditioning, reference_mel, **how)
    torch.manual_seed(5)
    noise = torch.randn(1, 21 * ours.config.dit_config.repeats, ours.config.dit_config.mel_dim)
    wave = ours(codes[0], conditioning, reference_mel, noise, **how)
    assert relative(wave, expected) < 1e-4
    assert wave.shape == ours(codes, conditioning, reference_mel, noise, **how)[0].shape


@torch.no_grad()
def test_rows_of_a_batch_are_what_each_is_alone(models):
    ours, _ = models
    codes, conditioning, reference_mel = inputs_of(ours.config.dit_config, 8, batch=2)
    noise = torch.randn(2, 8 * ours.config.dit_config.repeats, ours.config.dit_config.mel_dim)
    both = ours(codes, conditioning, reference_mel, noise, num_steps=3)
    alone = ours(codes[1], conditioning[1:], reference_mel[1:], noise[1:], num_steps=3)
    assert relative(both[1], alone) < 1e-4


def test_the_wave_teaches_every_parameter(models):
    """The reference samples under no_grad; here a loss on the wave reaches codes, voice, noise and all weights."""
    torch.manual_seed(0)
    ours = Token2Wav(models[0].config)
    codes, conditioning, reference_mel = inputs_of(ours.config.dit_config, 15)
    conditioning.requires_grad_()
    wave = ours(codes, conditioning, reference_mel, num_steps=3)
    (wave - torch.randn_like(wave)).square().mean().backward()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    missing = [name for name, parameter in ours.named_parameters() if not parameter.grad.any()]
    assert not [name for name in missing if "spk_encoder" not in name] and conditioning.grad.any()


@torch.no_grad()
def test_speakers_by_name_or_in_person():
    ours = Token2Wav(CONFIGS["nano's proportions"])
    codes, conditioning, reference_mel = inputs_of(ours.config.dit_config, 3)
    ada = Speaker(1, conditioning, reference_mel)
    noise = torch.randn(1, 6, 80)
    wave = ours(codes[0], speaker=ada, noise=noise, num_steps=2, solver="euler")
    assert wave.shape == (6 * 240,) and wave.abs().max() <= 1
    ours.speakers["Ada"] = ada
    assert relative(ours(codes[0], speaker="Ada", noise=noise, num_steps=2, solver="euler"), wave) < 1e-5
    two = ours(codes.repeat(2, 1), speaker="Ada", noise=noise.repeat(2, 1, 1), num_steps=2, solver="euler")
    assert relative(two[1], wave) < 1e-5


def test_no_codes_give_an_empty_wave():
    """The reference crashes here."""
    ours = Token2Wav(CONFIGS["nano's proportions"])
    codes, conditioning, reference_mel = inputs_of(ours.config.dit_config, 0)
    assert ours(codes[0], conditioning, reference_mel).shape == (0,)
    assert ours(codes, conditioning, reference_mel).shape == (1, 0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(codes=[1, 2]), "codes are list"),
        (dict(codes=torch.zeros((), dtype=torch.long)), "expected a tensor"),
        (dict(codes=torch.tensor([40])), "code 40 is not in the table"),
        (dict(conditioning=None), "give a speaker"),
        (dict(speaker="Ada"), "give a speaker"),
        (dict(speaker="Ada", conditioning=None), "give a speaker"),
        (dict(speaker="Ada", reference_mel=None), "give a speaker"),
        (dict(conditioning=None, reference_mel=None, speaker="Ada"), "no speaker named 'Ada'"),
        (dict(conditioning=torch.zeros(7)), "conditioning is"),
        (dict(reference_mel=torch.zeros(20, 80)), "reference mel is"),
        (dict(noise=torch.zeros(1, 5, 80)), "for these codes"),
    ],
)
def test_bad_input_gives_one_line(arguments, message):
    ours = Token2Wav(CONFIGS["nano's proportions"])
    _, conditioning, reference_mel = inputs_of(ours.config.dit_config, 3)
    good = dict(codes=torch.tensor([1, 2, 3]), conditioning=conditioning, reference_mel=reference_mel)
    with pytest.raises(InputError, match=message) as raised:
        ours(**(good | arguments))
    assert "\n" not in str(raised.value)


def test_published_size_of_the_dit():
    with torch.device("meta"):
        model = Token2Wav(preset("qwen2_5_omni_7b").token2wav_config)
    counted = sum(p.numel() for p in model.code2wav_dit_model.parameters())
    assert round(counted / 1e5) == 3336
