"""Linear discriminants: directions that tell classes apart, counted."""

import pytest
import torch

from omni_lab.errors import DataError
from omni_lab.train.discriminants import fit, linear_discriminants


def heaps(seed: int = 0, each: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes that differ in one direction, which is drowned by another's noise."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(each)
    rows = torch.randn(3 * each, 4, generator=rng)
    rows[:, 0] += 3.0 * labels
    rows[:, 0] += 2.0 * rows[:, 1]  # itself of little use until the noise is taken from it
    return rows + 7, labels


def test_the_direction_that_tells_classes_apart_comes_first() -> None:
    rows, labels = heaps()
    weight, bias = linear_discriminants(rows, labels, 2)
    found = rows @ weight.T + bias
    torch.testing.assert_close(found.mean(0), torch.zeros(2), atol=1e-2, rtol=0)
    within = torch.stack([found[labels == k].var(0, correction=0) for k in range(3)]).mean(0)
    torch.testing.assert_close(within, torch.ones(2), atol=0.03, rtol=0)
    means = torch.stack([found[labels == k].mean(0) for k in range(3)])
    assert means[:, 0].abs().diff().abs().max() > 2 and means[:, 1].abs().max() < 0.2
    assert abs(means[2, 0] - means[0, 0]).item() == pytest.approx(6, abs=0.3)  # as in the direction without the noise


def test_another_scale_or_mix_of_the_numbers_finds_the_same() -> None:
    rows, labels = heaps()
    mixed = rows @ torch.tensor([[1.0, 0.2, 0, 0], [0, 1, 0, 0.3], [0.5, 0, 1, 0], [0, 0, 0, 2]])
    one, other = (x @ w[:1].T + b[:1] for x in (rows, mixed) for w, b in [linear_discriminants(x, labels, 1)])
    assert abs(torch.corrcoef(torch.cat([one, other], 1).T)[0, 1]) > 0.99


def test_directions_without_any_sound_do_not_divide_by_zero() -> None:
    rows, labels = heaps()
    dead = torch.cat([rows, torch.full((len(rows), 3), -11.5)], dim=1)
    layer = torch.nn.Linear(7, 2)
    fit(layer, dead, labels)
    assert layer.weight.isfinite().all() and layer(dead).abs().max() < 100


def test_one_class_is_an_error() -> None:
    with pytest.raises(DataError, match="two classes"):
        linear_discriminants(torch.randn(5, 3), torch.zeros(5, dtype=torch.long), 1)
