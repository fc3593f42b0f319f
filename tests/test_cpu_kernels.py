"""Copies of weights in another layout are made once, follow their weights, and do not pile up."""

import gc

import torch
from torch import nn

from omni_lab import cpu_kernels


def doubled(linear: nn.Linear, times: int = 2) -> torch.Tensor:
    return linear.weight * times


def test_a_copy_is_kept_until_the_weights_change():
    linear = nn.Linear(3, 2)
    first = cpu_kernels.kept(linear, doubled)
    assert cpu_kernels.kept(linear, doubled) is first and not first.requires_grad
    optimiser = torch.optim.SGD(linear.parameters(), 0.1)
    linear(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    assert torch.equal(cpu_kernels.kept(linear, doubled), 2 * linear.weight)
    linear.load_state_dict({"weight": torch.ones(2, 3), "bias": torch.zeros(2)})
    assert torch.equal(cpu_kernels.kept(linear, doubled), torch.full((2, 3), 2.0))
    linear.weight = nn.Parameter(torch.zeros(2, 3))
    assert torch.equal(cpu_kernels.kept(linear, doubled), torch.zeros(2, 3))


def test_copies_are_told_apart_and_the_oldest_forgotten():
    linear = nn.Linear(3, 2)
    for times in range(2 * cpu_kernels.PACKED_LIMIT):
        assert torch.equal(cpu_kernels.kept(linear, doubled, times), times * linear.weight)
    assert len(cpu_kernels.PACKED[linear]) == cpu_kernels.PACKED_LIMIT
    before = len(cpu_kernels.PACKED)
    del linear
    gc.collect()
    assert len(cpu_kernels.PACKED) == before - 1
