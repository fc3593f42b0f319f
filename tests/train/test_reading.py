"""Which word is being said: the rough alignment, and a pointer that learns it."""

import torch

from omni_lab.codec.mel import mel_spectrogram
from omni_lab.data import speech
from omni_lab.train.reading import IGNORED, Pointer, misheard, reading_loss, said_at


def test_each_word_is_said_in_turn_for_as_long_as_its_letters_ask() -> None:
    mel = torch.full((200, 80), -10.0)  # 100 codes: silence, 60 codes of sound, silence
    mel[40:160] = -3.0
    tokens = said_at(mel, [3, 0, 3, 6], ahead=0)
    assert tokens.shape == (101,)
    assert tokens[:35].eq(0).all()  # 20 quiet codes, then a quarter of the sound
    assert tokens[36:50].eq(2).all() and tokens[51:].eq(3).all()  # what has no letters is not said
    later = said_at(mel, [3, 0, 3, 6], ahead=8)
    assert torch.equal(later[:92], tokens[8:100]) and later[92:].eq(3).all()


def test_a_real_sentence_is_said_from_its_first_to_its_last_word() -> None:
    wave = speech.say("The red crocodile is very heavy.", "heart", seed=0)
    mel = mel_spectrogram(torch.from_numpy(wave))
    tokens = said_at(mel[: len(mel) // 2 * 2], [3, 3, 9, 2, 4, 5, 0], ahead=0)
    assert tokens.diff().ge(0).all() and tokens.unique().tolist() == [0, 1, 2, 3, 4, 5]
    long, short = (tokens == 2).sum(), (tokens == 3).sum()
    assert long > 2 * short


def test_a_pointer_learns_and_never_points_beyond_the_reply() -> None:
    torch.manual_seed(0)
    reply, lengths = torch.randn(2, 5, 16), torch.tensor([5, 3])
    wanted = torch.tensor([[0, 1, 2, 3, 4, 4], [0, 1, 1, 2, IGNORED, IGNORED]])
    # States that hold what is being said, as a talker's would.
    hidden = torch.stack([row[word.clamp(min=0)] for row, word in zip(reply, wanted, strict=True)])
    pointer = Pointer(16, 16)
    optimiser = torch.optim.Adam(pointer.parameters(), 1e-2)
    first = None
    for _ in range(100):
        loss = reading_loss(pointer(hidden, reply, lengths), wanted)
        first = first or loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * first
    assert pointer(hidden, reply, lengths)[1].argmax(-1).max() < 3


def test_misheard_codes_come_in_spans_of_silence_or_of_another_row_and_padding_stays() -> None:
    torch.manual_seed(0)
    codes = torch.arange(64)[:, None] * 1000 + torch.arange(200)  # every row can be told from the others
    codes[:, 180:] = -100
    heard = misheard(codes, 0.25, silence=7)
    lost = heard != codes
    assert 0.15 < lost[:, :180].float().mean() < 0.3 and not lost[:, 180:].any()
    shares = lost[:, :180].float().mean(1)
    assert shares.min() < 0.05 and shares.max() > 0.35  # some rows hear all, some hardly anything
    silent, wrong = lost & (heard == 7), lost & (heard != 7)
    assert not (silent.any(1) & wrong.any(1)).any() and silent.any() and wrong.any()
    rows, places = wrong.nonzero().T
    assert torch.equal(heard[rows, places], codes[rows - 1, places])
    assert (lost.int().diff(dim=1) == 1).sum() * 6 < lost.sum()  # in spans, not one by one
    assert torch.equal(misheard(codes, 0.0, silence=7), codes)
