"""Token samplers against the reference's logits processors, and by counting."""

from dataclasses import replace

import pytest
import torch
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from omni_lab import sampling
from omni_lab.errors import ConfigError, InputError
from omni_lab.sampling import Sampling, from_config, to_config


@pytest.fixture
def logits():
    return 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8, 0.999])
def test_top_p(logits, p):
    assert torch.equal(sampling.top_p_filter(logits, p), TopPLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("k", [1, 7, 50, 200])
def test_top_k(logits, k):
    assert torch.equal(sampling.top_k_filter(logits, k), TopKLogitsWarper(k)(None, logits))


def test_repetition_penalty(logits):
    ids = torch.tensor([[1, 2, 3], [4, 4, 4], [0, 49, 7], [5, 6, 7]])
    seen = sampling.seen_tokens(50, ids)
    wanted = RepetitionPenaltyLogitsProcessor(1.3)(ids, logits.clone())
    assert torch.equal(sampling.repetition_penalty(logits, seen, 1.3), wanted)


def test_padding_is_not_seen():
    seen = sampling.seen_tokens(5, torch.tensor([[0, 0, 3]]), torch.tensor([[0, 0, 1]]))
    assert seen.tolist() == [[False, False, False, True, False]]


def test_frequencies_follow_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20000, 3)
    drawn = sampling.next_token(logits, Sampling(temperature=0.5), generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    assert torch.allclose(shares, torch.tensor([0.0, 2.0, 4.0]).softmax(0), atol=0.01)


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-30, 1e-7])
def test_next_to_no_temperature_is_none(logits, temperature):
    cold = Sampling(temperature, top_k=40, top_p=0.8)
    for scale in (1, 1e4):
        assert torch.equal(sampling.next_token(scale * logits, cold), logits.argmax(1))
    assert torch.equal(sampling.next_token(logits, Sampling(sampling.GREEDY_BELOW)), logits.argmax(1))


def test_suppressed_tokens_are_never_taken(logits):
    best = logits.argmax(1).tolist()
    assert not set(sampling.next_token(logits, Sampling(suppress=tuple(best))).tolist()) & set(best)


@pytest.mark.parametrize("bad", [dict(temperature=-1), dict(top_p=0), dict(top_k=-2), dict(repetition_penalty=0)])
def test_bad_settings_are_named(bad):
    with pytest.raises(InputError):
        Sampling(**bad)


RELEASE = Sampling(0.9, 40, 0.8, 1.05, (7,))


def test_what_a_checkpoint_says_of_drawing_comes_back():
    mine = replace(RELEASE, temperature=0.6, repetition_penalty=1.0)
    assert from_config(to_config(mine, "talker"), "talker", RELEASE) == mine
    assert from_config({"talker_top_k": 5, "max_length": 3}, "talker", RELEASE) == replace(RELEASE, top_k=5)
    assert from_config({"top_k": 5}, "talker", RELEASE) == RELEASE


@pytest.mark.parametrize("raw", [[1], {"talker_top_k": 0.5}, {"talker_top_p": 2}, {"talker_temperature": "hot"}])
def test_a_wrong_way_to_draw_is_named(raw):
    with pytest.raises(ConfigError, match="generation_config.json"):
        from_config(raw, "talker", RELEASE)
