"""DPO against its definition, its gradient's direction, and the ranking of triples."""

import math

import pytest
import torch

from omni_lab.train.preferences import (
    best_and_worst,
    better,
    dpo_loss,
    preference_score,
    reward_accuracy,
    sequence_log_probability,
)


def test_without_movement_the_loss_is_log_two() -> None:
    a, b = torch.tensor([-3.0, -9.0]), torch.tensor([-5.0, -1.0])
    assert dpo_loss(a, b, a, b, beta=0.3).item() == pytest.approx(math.log(2))


def test_the_loss_is_that_of_the_implied_reward() -> None:
    chosen, rejected, ref_chosen, ref_rejected = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).double()
    reward = 0.2 * ((chosen - ref_chosen) - (rejected - ref_rejected))
    expected = torch.log1p(torch.exp(-reward)).mean()
    assert torch.allclose(dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.2), expected)


def test_its_gradient_raises_the_chosen_and_lowers_the_rejected() -> None:
    chosen, rejected = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    dpo_loss(chosen, rejected, torch.zeros(3), torch.zeros(3), 0.1).backward()
    assert (chosen.grad < 0).all() and torch.allclose(rejected.grad, -chosen.grad)


def test_log_probabilities_sum_over_labelled_places() -> None:
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[1, 2, -100, -100], [0, 0, 4, 3]])
    logs = logits.log_softmax(-1)
    expected = [logs[0, 0, 1] + logs[0, 1, 2], logs[1, 0, 0] + logs[1, 1, 0] + logs[1, 2, 4] + logs[1, 3, 3]]
    assert torch.allclose(sequence_log_probability(logits, labels), torch.stack(expected))


def test_ranking() -> None:
    assert best_and_worst([0.3, 0.1, 0.8, 0.1]) == (1, 2)
    assert best_and_worst([0.3, 0.31]) is None and best_and_worst([]) is None
    assert better(0.3, [0.4, 0.2, 0.2]) == 1 and better(0.3, [0.27]) is None and better(0.3, []) is None
    assert preference_score(0.1, 0.4) == pytest.approx(0.3)
    zero = torch.zeros(2)
    assert reward_accuracy(torch.tensor([1.0, -1.0]), zero, zero, zero).item() == 0.5
