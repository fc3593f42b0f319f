"""CTC beside the answers: right value, right clips, and the recipe that uses it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from omni_lab.data.sample import Sample, audio, user
from omni_lab.train import transcripts
from omni_lab.train.recipes import find


def by_hand(log_probabilities, target, blank):
    """Sum over all alignments, spelled out: every path of symbols that collapses to the target."""
    frames, symbols = log_probabilities.shape
    total = []
    for number in range(symbols**frames):
        path = [number // symbols**t % symbols for t in range(frames)]
        collapsed = [s for i, s in enumerate(path) if (i == 0 or s != path[i - 1]) and s != blank]
        if collapsed == target:
            total.append(sum(log_probabilities[t, s] for t, s in enumerate(path)))
    return -torch.logsumexp(torch.stack(total), 0)


def toy(symbols=3, width=4):
    torch.manual_seed(0)
    return SimpleNamespace(model=SimpleNamespace(norm=nn.Identity()), lm_head=nn.Linear(width, symbols, bias=False))


def test_equals_the_sum_over_all_alignments_of_the_clips_that_speak():
    thinker, frames = toy(), torch.tensor([16, 20, 12])  # 4, 5 and 3 tokens
    sound = torch.randn(12, 4, requires_grad=True)
    said = transcripts.join([[1, 2], [], [2]])
    loss = transcripts.ctc_loss(thinker, sound, frames, said, blank=0)
    spelled = thinker.lm_head(sound).log_softmax(-1)
    expected = (by_hand(spelled[:4], [1, 2], 0) + by_hand(spelled[9:], [2], 0)) / 3
    assert torch.allclose(loss, expected, atol=1e-5)
    loss.backward()
    assert sound.grad[4:9].abs().sum() == 0  # the clip without words teaches nothing
    assert sound.grad[:4].abs().sum() > 0


def test_more_words_than_tokens_or_none_at_all_count_nothing():
    thinker, sound = toy(), torch.randn(2, 4, requires_grad=True)
    loss = transcripts.ctc_loss(thinker, sound, torch.tensor([8]), transcripts.join([[1, 2, 1]]), blank=0)
    loss.backward()
    assert loss == 0 and sound.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("task", "meta", "words"),
    [
        ("asr", {}, "A dog."),
        ("asr_recorded", {}, "A dog."),
        ("speech_translation", {"english": "A cat."}, "A cat."),
        ("spoken_qa", {"question": "What?"}, "What?"),
        ("music", {}, "A dog."),
        ("who_said_what", {"left": "two dogs", "right": "a red cat", "first": "left"}, " two dogs. a red cat."),
        ("who_said_what", {"left": "two dogs", "right": "a red cat", "first": "right"}, " a red cat. two dogs."),
        ("sound_events", {}, None),
    ],
)
def test_words_said(task, meta, words):
    sample = Sample([user("", audio(torch.zeros(10).numpy()))], task, "A dog.", meta=meta)
    assert transcripts.words_said(sample) == words


def test_the_hearing_recipe_spells():
    recipe = find("audio_encoder").at("smoke")
    from omni_lab.thinker import Thinker

    torch.manual_seed(0)
    thinker = Thinker(recipe.config.thinker_config).train()
    batch = recipe.batch(0)
    clips = len(batch["input_features"])
    assert batch["transcripts"].shape[0] == clips
    given = {k: v for k, v in batch.items() if k not in ("samples", "skipped", "weight")}
    loss, figures = recipe.loss(thinker, given, "main")
    loss.backward()
    assert torch.allclose(loss, figures["answers"] + recipe.settings.ctc * figures["ctc"])
    assert figures["ctc"] > 1
    assert thinker.audio_tower.proj.weight.grad.abs().sum() > 0
