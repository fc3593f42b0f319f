"""Lab 05's codebook: codes at 50 a second that sound again like what they were made of."""

import pytest
import torch

from omni_lab import config
from omni_lab.codec import mel, speech_tokenizer
from omni_lab.data import speech
from omni_lab.errors import InputError
from omni_lab.lab import codebook
from omni_lab.omni import OmniModel


@pytest.fixture(scope="module")
def waves():
    torch.set_num_threads(1)
    return [torch.from_numpy(clip.wave.copy()) for clip in speech.shipped()[:3]]


def test_codes_come_at_fifty_a_second_and_are_repeatable(waves):
    book = codebook.fit(waves, 32, rounds=4)
    codes = book.encode(waves[0])
    assert codes.shape == (len(waves[0]) // 480,) and int(codes.max()) < 32
    assert torch.equal(codes, codebook.fit(waves, 32, rounds=4).encode(waves[0]))


def test_more_rounds_fit_better_and_more_codes_too(waves):
    rows = torch.cat([codebook.pairs_of(w) for w in waves])

    def error(size, rounds):
        centres = codebook.fit(waves, size, rounds).centres
        return float((rows - centres[speech_tokenizer.nearest(rows, centres)]).square().mean())

    assert error(32, 6) < error(32, 0) and error(64, 6) < error(16, 6)


def test_what_sounds_again_has_the_mel_that_the_codes_stand_for(waves):
    book = codebook.fit(waves, 64, rounds=4)
    codes = book.encode(waves[0])[:60]
    wave = book.wave(codes)
    assert len(wave) == 480 * 60 and bool(torch.isfinite(wave).all())
    again, meant = mel.mel_spectrogram(wave), book.mel(codes)
    count = min(len(again), len(meant))
    likeness = torch.corrcoef(torch.stack([again[:count].flatten(), meant[:count].flatten()]))[0, 1]
    assert float(likeness) > 0.7
    assert [len(book.wave(codes[:n])) for n in (0, 1, 3)] == [0, 480, 1440]


def test_too_little_sound_and_unknown_codes_are_named(waves):
    with pytest.raises(InputError, match="cannot make 5000 codes"):
        codebook.fit([waves[0]], 5000)
    with pytest.raises(InputError, match="0 to 15"):
        codebook.fit(waves, 16, 1).mel(torch.tensor([16]))


def test_a_whole_model_speaks_through_it(waves):
    model = OmniModel(config.preset("nano")).eval()
    book = codebook.fit(waves, 64, rounds=2)
    model.token2wav = codebook.CodebookVoice(book, "heart", 2033)
    reply = model.respond({"input_ids": torch.tensor([[5, 6, 7]])}, max_new_tokens=4, stop_token_ids=(), max_codes=30)
    assert len(reply.codes) <= 30 and bool(torch.isfinite(reply.audio).all())
    known = int((reply.codes < 64).sum())
    assert len(reply.audio) == 480 * known
    with pytest.raises(InputError, match="here speaks heart"):
        model.token2wav.named_speaker("nobody")


def test_k_means_finds_the_heaps_and_leaves_what_nobody_is_nearest_to(waves):
    generator = torch.Generator().manual_seed(0)
    heaps = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    rows = (heaps[:, None] + 0.1 * torch.randn(3, 40, 2, generator=generator)).flatten(0, 1)
    best = min(
        (codebook.k_means(rows, 3, 8, seed) for seed in range(6)), key=lambda c: torch.cdist(heaps, c).amin(1).sum()
    )
    assert torch.cdist(heaps, best).amin(1).max() < 0.1
    twins = torch.ones(5, 2)  # all entries start at one place, and the first of them is chosen by all
    assert torch.equal(codebook.k_means(twins, 3, 2), torch.ones(3, 2))
    parts = codebook.k_means(rows.repeat(200, 1), 3, 1)  # more rows than are held at once
    assert parts.isfinite().all() and parts.shape == (3, 2)
