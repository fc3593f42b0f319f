"""The speech tokenizer: exactly 50 codes a second, codes as mixed-radix numbers, gradients, and bad input."""

import pytest
import torch

from omni_lab.codec.speech_tokenizer import (
    SpeechTokenizer,
    code_of,
    levels,
    quantise,
    scalars_of,
    spell,
    voice_statistics,
)
from omni_lab.config import SpeechTokenizerConfig
from omni_lab.errors import ConfigError, InputError


@pytest.fixture(scope="module")
def tokenizer() -> SpeechTokenizer:
    torch.manual_seed(0)
    return SpeechTokenizer(SpeechTokenizerConfig(codebook_size=1024, hidden_size=32, num_hidden_layers=2)).eval()


@pytest.mark.parametrize("samples", [480, 481, 959, 960, 24_000, 24_479, 100_001])
def test_fifty_codes_a_second(tokenizer: SpeechTokenizer, samples: int) -> None:
    codes = tokenizer.encode(torch.randn(samples, generator=torch.Generator().manual_seed(samples)) * 0.1)
    assert codes.shape == (samples // 480,) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < 1024


def test_codes_look_a_fixed_time_around_them(tokenizer: SpeechTokenizer) -> None:
    """A change late in the wave leaves early codes as they are: codes can be made while one still speaks."""
    wave = torch.randn(48_000, generator=torch.Generator().manual_seed(1)) * 0.1
    changed = wave.clone()
    changed[36_000:] *= -0.3
    before, after = tokenizer.encode(wave), tokenizer.encode(changed)
    reach = 3 * 2 + 3  # of two blocks of kernel 7, the stem and the edge of the mel window, in codes
    assert torch.equal(before[: 75 - reach], after[: 75 - reach]) and not torch.equal(before, after)


@pytest.mark.parametrize("size, expected", [(1024, (4,) * 5), (8192, (8,) + (4,) * 5), (8, (8,)), (4, (4,))])
def test_every_code_has_its_scalars(size: int, expected: tuple[int, ...]) -> None:
    assert levels(size) == expected
    codes = torch.arange(size)
    scalars = scalars_of(codes, expected)
    assert torch.equal(code_of(scalars, expected), codes) and len(scalars.unique(dim=0)) == size
    assert scalars.min() == -1 and scalars.max() == 1


def test_rounding_passes_the_gradient_on() -> None:
    vectors = torch.randn(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rounded = quantise(vectors, (4,) * 5)
    assert set(((rounded + 1) * 1.5).round().flatten().tolist()) <= {0, 1, 2, 3}
    rounded.sum().backward()
    assert torch.allclose(vectors.grad, 1 - torch.tanh(vectors.detach()).square())


def test_every_parameter_learns(tokenizer: SpeechTokenizer) -> None:
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(2, 80, 80, generator=generator) - 5
    mask = torch.ones(2, 80, dtype=torch.bool)
    mask[1, 60:] = False
    losses = tokenizer(mel, mel, mask, [spell("a dog"), spell("cat")])
    (losses["mel"] + losses["ctc"]).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 and p.grad.isfinite().all() for p in tokenizer.parameters()
    )
    tokenizer.zero_grad()


def test_padding_changes_no_loss(tokenizer: SpeechTokenizer) -> None:
    mel = torch.randn(1, 80, 80, generator=torch.Generator().manual_seed(2)) - 5
    mask = torch.ones(1, 80, dtype=torch.bool)
    statistics = voice_statistics(mel, mask)
    padded = torch.cat((mel, torch.full((1, 40, 80), 3.0)), dim=1)
    assert torch.allclose(voice_statistics(padded, torch.nn.functional.pad(mask, (0, 40))), statistics, atol=1e-6)


def test_spelling() -> None:
    assert spell("A dog, isn't it?") == spell("a dog isn't it") and spell("...") == []
    assert max(spell("the quick brown fox jumps over a lazy dog's back")) == 28


def test_bad_input_is_named(tokenizer: SpeechTokenizer) -> None:
    for wave, words in (
        (torch.zeros(479), "479 samples"),
        (torch.zeros(0), "0 samples"),
        (torch.full((4800,), float("nan")), "finite"),
        (torch.zeros(1, 1, 4800), "expected"),
        (torch.zeros(4800, dtype=torch.int64), "floating"),
    ):
        with pytest.raises(InputError, match=words):
            tokenizer.encode(wave)
    for size in (0, 3, 1000):
        with pytest.raises(ConfigError, match="power of two"):
            levels(size)
