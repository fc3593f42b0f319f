"""The Trainer's batches are grouped by length, and both train on the same samples."""

import random

import torch

from benchmarks import train_thinker as benchmark

SIZE = 4
LENGTHS = [random.Random(0).choice((40, 60, 75, 80, 140)) + i % 7 for i in range(SIZE * benchmark.MOST_SORTED)]
SAMPLES = [{"input_ids": torch.zeros(1, length)} for length in LENGTHS]


def lengths(group: list) -> list[int]:
    return [sample["input_ids"].shape[1] for sample in group]


def test_batches_are_of_similar_length_and_lose_no_sample() -> None:
    batches = benchmark.by_length(SAMPLES, SIZE)
    assert [len(batch) for batch in batches] == [SIZE] * benchmark.MOST_SORTED
    assert [n for batch in batches for n in lengths(batch)] == sorted(LENGTHS, reverse=True)


def test_both_take_the_same_samples_and_ours_are_mixed() -> None:
    batches = benchmark.by_length(SAMPLES, SIZE)
    ours, theirs = benchmark.draw(batches, 9, seed=1)
    assert ours[0] is theirs[0] and [len(group) for group in ours] == [SIZE] * 9
    assert all(any(batch is one for one in batches) for batch in theirs)
    taken = [{id(sample) for group in groups[1:] for sample in group} for groups in (ours, theirs)]
    assert taken[0] == taken[1] and len(taken[0]) == SIZE * 8
    spread = [sum(max(lengths(g)) - min(lengths(g)) for g in groups[1:]) for groups in (ours, theirs)]
    assert spread[0] > 3 * spread[1]
    assert benchmark.draw(batches, 9, seed=2)[1][0] is not theirs[0]
