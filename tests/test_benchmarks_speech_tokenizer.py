"""The speech tokenizer's benchmark: its measures have the values that can be worked out by hand."""

import math

import pytest
import torch

from benchmarks import speech_tokenizer as benchmark
from benchmarks.speech_tokenizer import Way
from omni_lab.codec.speech_tokenizer import pairs


def test_bigrams_know_a_cycle_and_not_a_die():
    cycle = [torch.arange(8).repeat(500)] * 2
    assert benchmark.bigram_nats(cycle, cycle, 8) < 0.1
    generator = torch.Generator().manual_seed(0)
    die = [torch.randint(8, (20_000,), generator=generator) for _ in range(2)]
    assert benchmark.bigram_nats(die[:1], die[1:], 8) == pytest.approx(math.log(8), abs=0.01)
    unseen = [torch.tensor([0, 9])]  # neither was ever followed by anything: the share of half a count is left
    assert benchmark.bigram_nats([torch.zeros(2, dtype=torch.int64)], unseen, 10) > 2
    assert benchmark.bigram_nats([torch.tensor([3]), torch.tensor([3, 1])], [torch.tensor([3, 1])], 4) < math.inf


def test_bigrams_do_not_cross_from_clip_to_clip():
    before, after = benchmark.neighbours([torch.tensor([1, 2, 3]), torch.tensor([7]), torch.tensor([5, 6])])
    assert before.tolist() == [1, 2, 5] and after.tolist() == [2, 3, 6]


def test_perplexity_counts_codes_in_use():
    assert benchmark.perplexity(torch.tensor([0, 1, 2, 3] * 5), 64) == pytest.approx(4, abs=1e-4)
    assert benchmark.perplexity(torch.full((9,), 3), 64) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("centred", [False, True])
def test_codes_stand_for_the_mel_whatever_is_removed_from_it(centred: bool):
    mel = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)) - 5
    way = Way(10, centred=centred)
    rest, mean = benchmark.split_mean(mel, way)
    codes, again = benchmark.coded(mel, way, benchmark.of_pairs(pairs(rest)))  # a book of the very moments
    assert codes.tolist() == list(range(10))
    torch.testing.assert_close(again, mel)
    assert centred == bool(mean.abs().sum() > 0)


def test_what_is_removed_is_the_mean_of_what_was_spoken():
    silent = torch.full((30, 4), -11.5)
    spoken = torch.full((10, 4), -3.0)
    _, mean = benchmark.split_mean(torch.cat((silent, spoken)), Way(8, centred=True))
    assert mean.tolist() == [-3.0] * 4
    assert str(Way(8, True, True)) == "8, everybody, utterance mean removed"


def test_both_renditions_keep_time():
    for said in benchmark.renditions(2):
        assert len(said.waves[0]) == len(said.waves[1]) and len(said.waves[0]) % 480 == 0
        assert said.mels[0].shape == said.mels[1].shape == (len(said.waves[0]) // 240, 80)
        assert not torch.equal(said.waves[0], said.waves[1])


def test_phonemes_are_told_by_what_tells_them(monkeypatch):
    """By a row that is the phoneme itself nearly all are told; by one that says nothing the commonest alone."""
    few = benchmark.Learners(sentences=6, judged=3, steps=60, width=32, rate=1e-2)
    known = {}
    for split, count in (("train", 6), ("test", 3)):
        for clip in benchmark.timed(split, count):
            known[clip.mel.data_ptr()] = torch.from_numpy(clip.phonemes[1::2].astype(int))
    told = benchmark.phonemes_told(lambda mel: known[mel.data_ptr()], 64, few)
    untold = benchmark.phonemes_told(lambda mel: torch.zeros(len(mel) // 2, dtype=torch.int64), 64, few)
    assert float(told[:-1]) > 80 and float(untold[:-1]) < 30
