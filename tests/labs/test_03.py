"""Lab 03's own parts: spelling, its error rate, and an adapter that learns."""

import pytest
import torch

from omni_lab import config
from omni_lab.encoders.audio import AudioEncoder
from omni_lab.errors import InputError
from omni_lab.lab import listening


def test_letters_there_and_back():
    ids = listening.spell("It's  2 Hats!")
    assert "".join(listening.LETTERS[i] for i in ids) == "it's hats"
    with_blanks = [0, *(i for letter in ids for i in (letter, letter, 0))]
    log_p = torch.nn.functional.one_hot(torch.tensor(with_blanks), len(listening.LETTERS)).float().log()
    assert listening.read_letters(log_p) == "it's hats"


def test_letter_errors_ignore_case_and_punctuation():
    assert listening.letter_error_rate(["Call me."], ["call me"]) == 0
    assert listening.letter_error_rate(["abcd"], ["abd"]) == 0.25


def test_an_adapter_learns_and_says_when_it_cannot():
    torch.set_num_threads(1)
    rows = torch.nn.functional.one_hot(torch.tensor([1, 0, 2, 0, 3, 0, 4, 0]), 8).float()
    speller, losses = listening.train_speller([rows, rows.flip(0)], ["abcd", "dcba"], steps=200)
    assert losses[-1] < losses[0] / 4
    assert listening.read_letters(speller(rows[None])[0].detach()) == "abcd"
    with pytest.raises(InputError, match="long enough"):
        listening.train_speller([rows[:2]], ["abcd"], steps=1)


def test_blocks_change_what_is_heard_only_beyond_their_length():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = AudioEncoder(config.nano().thinker_config.audio_config).eval()
    wave = torch.randn(3 * 16000, generator=torch.Generator().manual_seed(0)).numpy()
    whole, parts = (listening.hear(listening.set_block(encoder, s), wave) for s in (30, 2))
    assert whole.shape == parts.shape == (150, 192) and not torch.allclose(whole, parts, atol=1e-3)
    short = [listening.hear(listening.set_block(encoder, s), wave[:16000]) for s in (30, 2)]
    assert torch.allclose(*short, atol=1e-5)
