"""The speech tokenizer: 50 codes a second, nearest entries, a loss that is k-means, codes and mel, and bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from omni_lab.checkpoints import EmptyOnMeta
from omni_lab.codec import mel as mels
from omni_lab.codec import speech_tokenizer
from omni_lab.codec.speech_tokenizer import SpeechTokenizer, nearest, pairs, windows
from omni_lab.config import SpeechTokenizerConfig, preset
from omni_lab.errors import ConfigError, InputError


@pytest.fixture(scope="module", params=[2, 8], ids=["pairs", "discriminants"])
def tokenizer(request) -> SpeechTokenizer:
    torch.manual_seed(0)
    made = SpeechTokenizer(SpeechTokenizerConfig(codebook_size=1024, window=request.param, discriminants=12)).eval()
    if made.discriminants is not None:  # as large as those of speech, whose mean is about -5.7
        with torch.no_grad():
            made.discriminants.bias.copy_(5.7 * made.discriminants.weight.sum(1))
    return made


@pytest.fixture(scope="module")
def plain() -> SpeechTokenizer:
    torch.manual_seed(0)
    return SpeechTokenizer(SpeechTokenizerConfig(codebook_size=1024)).eval()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def toy(entries: torch.Tensor) -> SpeechTokenizer:
    """A tokenizer with this codebook."""
    made = SpeechTokenizer(SpeechTokenizerConfig(codebook_size=len(entries), mel_dim=entries.shape[1] // 2))
    with torch.no_grad():
        made.codebook.copy_(entries)
    return made


@pytest.mark.parametrize("samples", [480, 481, 959, 960, 24_000, 24_479, 100_001])
def test_fifty_codes_a_second(tokenizer: SpeechTokenizer, samples: int) -> None:
    codes = tokenizer.encode(0.1 * draw(samples, seed=samples))
    assert codes.shape == (samples // 480,) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < 1024


def test_a_code_is_known_when_its_time_is_over(tokenizer: SpeechTokenizer) -> None:
    """A change late in the wave leaves early codes as they are, but for the reach of the mel's window."""
    wave = 0.1 * draw(48_000, seed=1)
    changed = wave.clone()
    changed[36_000:] *= -0.3
    before, after = tokenizer.encode(wave), tokenizer.encode(changed)
    reach = -(-(mels.WINDOW // 2) // 480)  # codes into which half a window spills
    assert torch.equal(before[: 75 - reach], after[: 75 - reach]) and not torch.equal(before, after)


@pytest.mark.parametrize("vectors, entries, dim", [((200,), 64, 160), ((2, 30), 7, 4), ((), 9, 3), ((5,), 1, 2)])
@pytest.mark.parametrize("offset", [0.0, -6.0])
def test_nearest_is_what_measuring_every_distance_finds(vectors, entries, dim, offset) -> None:
    v, book = draw(*vectors, dim, seed=2) + offset, draw(entries, dim, seed=3) * torch.rand(entries, 1) + offset
    found = nearest(v, book)
    exact = torch.cdist(v.double().reshape(-1, dim), book.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert found.shape == vectors and found.dtype == torch.int64
    assert torch.equal(found.flatten(), exact.argmin(1))


def test_every_entry_is_nearest_to_itself(tokenizer: SpeechTokenizer) -> None:
    entries = tokenizer.entries()
    assert torch.equal(nearest(entries, entries), torch.arange(1024))


def test_what_codes_stand_for_is_coded_by_them(plain: SpeechTokenizer) -> None:
    codes = torch.randint(1024, (3, 20), generator=torch.Generator().manual_seed(4))
    assert torch.equal(plain.codes(plain.mel(codes)), codes)


def test_codes_become_mel(tokenizer: SpeechTokenizer) -> None:
    codes = torch.randint(1024, (3, 20), generator=torch.Generator().manual_seed(4))
    mel = tokenizer.mel(codes)
    assert mel.shape == (3, 40, 80)
    assert torch.equal(tokenizer.mel(codes[0]), mel[0])
    assert torch.equal(mel[1, 6:8].flatten(), tokenizer.codebook[codes[1, 3]])  # the code's first frame comes first
    assert tokenizer.mel(codes[:, :0]).shape == (3, 0, 80)


def test_pairs_are_neighbours_and_an_odd_frame_is_cut() -> None:
    frames = torch.arange(14.0).reshape(7, 2)
    assert pairs(frames).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert pairs(frames[:1]).shape == (0, 4) and pairs(frames.expand(2, 5, 7, 2)).shape == (2, 5, 3, 4)


def test_windows_are_the_last_frames_with_silence_before_them() -> None:
    frames = torch.arange(14.0).reshape(7, 2)
    nothing = [speech_tokenizer.SILENCE] * 4
    expected = torch.tensor([[*nothing, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7], [4, 5, 6, 7, 8, 9, 10, 11]])
    torch.testing.assert_close(windows(frames, 4), expected)
    assert torch.equal(windows(frames, 2), pairs(frames)) and windows(frames[:1], 6).shape == (0, 12)
    assert torch.equal(windows(frames.expand(2, 5, 7, 2), 4)[1, 3], windows(frames, 4))


def test_discriminants_choose_and_the_pair_beside_them() -> None:
    """A code is that of the nearest centre; of two at one place, that whose pair is nearer."""
    made = SpeechTokenizer(SpeechTokenizerConfig(codebook_size=3, mel_dim=1, window=4, discriminants=1))
    with torch.no_grad():
        made.discriminants.weight.copy_(torch.tensor([[-1.0, 0.0, 0.0, 1.0]]))  # how far the last frame is above
        made.discriminants.bias.zero_()
        made.centres.copy_(torch.tensor([[0.0], [4.0], [0.0]]))
        made.codebook.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [6.0, 6.0]]))
    quiet, rising, loud = [0.0, 0, 0, 0], [0.0, 0, 4, 4], [6.0, 6, 6, 6]
    chosen = [made.codes(torch.tensor(mel)[:, None])[1].item() for mel in (quiet, rising, loud)]
    assert chosen == [0, 1, 2]


def test_the_gradient_reaches_centres_and_codebook_but_no_discriminant() -> None:
    made = SpeechTokenizer(SpeechTokenizerConfig(codebook_size=4, mel_dim=3, window=4, discriminants=2))
    made(draw(2, 40, 3), torch.ones(2, 40, dtype=torch.bool)).backward()
    assert made.centres.grad.abs().sum() > 0 and made.codebook.grad.abs().sum() > 0
    assert made.discriminants.weight.grad is None and not made.discriminants.weight.requires_grad


def test_the_gradient_pulls_each_entry_to_the_mean_of_its_vectors() -> None:
    """A step of half the inverse curvature along it is a step of k-means; an unchosen entry feels nothing."""
    heaps = torch.tensor([[0.0, 0.0], [8.0, 8.0]])
    vectors = (heaps[:, None] + draw(2, 6, 2, seed=5)).reshape(-1, 2)  # 6 moments near each
    model = toy(torch.cat([heaps, torch.tensor([[99.0, -99.0]])]))
    model(vectors.reshape(1, 24, 1), torch.ones(1, 24, dtype=torch.bool)).backward()
    owner = nearest(vectors, model.codebook.detach())
    assert owner.bincount().tolist() == [6, 6]
    stepped = model.codebook.detach() - model.codebook.grad * vectors.numel() / (2 * 6)
    torch.testing.assert_close(stepped[:2], vectors.reshape(2, 6, 2).mean(1))
    assert model.codebook.grad[2].abs().sum() == 0


def test_the_loss_falls_to_that_of_k_means() -> None:
    """Gradient descent to the end: each entry is the mean of the vectors nearest to it (Lloyd 1982)."""
    vectors = draw(300, 4, seed=6)
    model = toy(vectors[:8])
    mel, mask = vectors.reshape(1, 600, 2), torch.ones(1, 600, dtype=torch.bool)
    optimiser = torch.optim.SGD(model.parameters(), lr=8.0)
    losses = []
    for _ in range(200):
        optimiser.zero_grad()
        loss = model(mel, mask)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    owner = nearest(vectors, model.codebook.detach())
    means = torch.stack([vectors[owner == k].mean(0) for k in range(8)])
    torch.testing.assert_close(model.codebook.detach(), means, rtol=0, atol=1e-3)
    assert losses[-1] < 0.8 * losses[0]
    assert losses[-1] == pytest.approx((means[owner] - vectors).square().mean().item(), abs=1e-4)


def test_padding_changes_no_loss(tokenizer: SpeechTokenizer) -> None:
    mel, mask = draw(2, 80, 80, seed=7) - 5, torch.ones(2, 80, dtype=torch.bool)
    mask[1, 60:] = False
    padded = torch.cat((mel, torch.full((2, 40, 80), 3.0)), dim=1)
    longer = torch.nn.functional.pad(mask, (0, 40))
    expected = tokenizer(mel, mask)
    torch.testing.assert_close(tokenizer(padded, longer), expected)
    alone = [tokenizer(mel[:1], mask[:1]) * 80, tokenizer(mel[1:, :60], mask[1:, :60]) * 60]
    torch.testing.assert_close(sum(alone) / 140, expected)
    tokenizer(padded, longer).backward()
    once = tokenizer.codebook.grad.clone()
    tokenizer.zero_grad()
    tokenizer(mel, mask).backward()
    torch.testing.assert_close(tokenizer.codebook.grad, once)
    tokenizer.zero_grad()


def test_a_replaced_nearest_is_the_one_that_runs(tokenizer: SpeechTokenizer, monkeypatch) -> None:
    """A lab puts the student's function at this name."""
    monkeypatch.setattr(speech_tokenizer, "nearest", lambda vectors, book: torch.full(vectors.shape[:-1], 7))
    assert tokenizer.encode(torch.zeros(4800)).tolist() == [7] * 10


def test_a_batch_is_its_rows(tokenizer: SpeechTokenizer) -> None:
    waves = 0.1 * draw(2, 9600, seed=8)
    assert torch.equal(tokenizer.encode(waves), torch.stack([tokenizer.encode(wave) for wave in waves]))


def test_an_array_is_encoded_as_the_tensor_is(tokenizer: SpeechTokenizer) -> None:
    wave = 0.1 * draw(4800, seed=9)
    expected, array = tokenizer.encode(wave), wave.numpy().copy()
    array.flags.writeable = False
    for given in (array, array.astype(np.float64), array[::-1].copy()[::-1], wave.tolist()):
        assert torch.equal(tokenizer.encode(given), expected)


def test_one_that_is_made_to_be_loaded_allocates_nothing() -> None:
    config = SpeechTokenizerConfig(codebook_size=9, window=8, discriminants=5)
    with EmptyOnMeta():
        made = SpeechTokenizer(config)
    assert len(list(made.parameters())) == 4 and all(p.is_meta for p in made.parameters())


def test_bad_input_is_named(tokenizer: SpeechTokenizer) -> None:
    for wave, words in (
        (torch.zeros(479), "479 samples"),
        (torch.zeros(0), "0 samples"),
        (torch.full((4800,), float("nan")), "finite"),
        (torch.zeros(1, 1, 4800), "expected"),
        (torch.zeros(4800, dtype=torch.int64), "floating"),
        (np.zeros(4800, dtype=np.int16), "floating"),
        ("a.wav", "wave is a str"),
        (None, "wave is a NoneType"),
        ([[0.0], [0.0, 1.0]], "wave is a list"),
    ):
        with pytest.raises(InputError, match=words):
            tokenizer.encode(wave)
    for codes in (torch.tensor([3, 1024]), torch.tensor([-1])):
        with pytest.raises(InputError, match="0 to 1023"):
            tokenizer.mel(codes)
    for size in (0, -4):
        with pytest.raises(ConfigError, match=f"codebook_size is {size}"):
            SpeechTokenizer(replace(preset("nano").speech_tokenizer_config, codebook_size=size))
    with pytest.raises(ConfigError, match="window is 1, expected at least 2"):
        SpeechTokenizer(replace(preset("nano").speech_tokenizer_config, window=1))
