"""Lab 03's own parts: spelling, its error rate, an adapter that learns, and one into the language model."""

from dataclasses import replace

import pytest
import torch

from omni_lab import config
from omni_lab.encoders.audio import AudioEncoder
from omni_lab.errors import InputError
from omni_lab.lab import listener, listening


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


def test_only_the_projection_into_the_language_model_learns():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = replace(config.nano().thinker_config.audio_config, num_mel_bins=80, d_model=48, encoder_layers=1)
    ears = listener.Listener(AudioEncoder(shape).eval())
    before = {name: p.clone() for name, p in ears.named_parameters()}
    waves = [torch.randn(n, generator=torch.Generator().manual_seed(n)).numpy() for n in (16000, 20000, 24000)]
    vectors, texts = (
        [listener.vectors_of(ears.thinker.audio_tower, w) for w in waves],
        ["A dog.", "Two cats.", "A fox."],
    )
    assert [len(v) for v in vectors] == [25, 31, 37]
    points = listener.train_adapter(ears, vectors, texts, (vectors, texts), steps=20, lr=1e-2)
    assert [step for step, *_ in points] == list(range(0, 21, 2)) and points[-1][1] < points[0][1]
    changed = {name for name, p in ears.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"thinker.audio_tower.proj.weight", "thinker.audio_tower.proj.bias"}
    assert isinstance(ears.write_down(vectors[0], longest=3), str)


def test_sound_stands_where_the_prompt_has_its_places():
    shape = replace(config.nano().thinker_config.audio_config, d_model=48, encoder_layers=1)
    ears = listener.Listener(AudioEncoder(shape).eval())
    ids, labels = ears.rows([3, 5], ["A dog.", "A cat."])
    assert (ids == ears.thinker.config.audio_token_index).sum(1).tolist() == [3, 5]
    said = [ears.processor.tokenizer.decode(row[row != -100]) for row in labels]
    assert said == ["A dog.<|im_end|>", "A cat.<|im_end|>"]
    sound = torch.arange(8.0)[:, None].expand(8, 256)
    found = ears.embed(ids, sound)[ids == ears.thinker.config.audio_token_index]
    assert torch.equal(found, sound)
