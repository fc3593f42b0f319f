"""Comparison is strict, and its words name the relation between what came and what was expected."""

import math

import numpy as np
import pytest
import torch

from omni_lab.lab.compare import compare
from omni_lab.lab.plain import freeze

A = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 9.0]])
SQUARE = torch.tensor([[1.0, 2.0], [3.0, 5.0]])


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (A, A + 1e-7),
        (A, A.double()),
        (torch.tensor([-math.inf, 1.0]), torch.tensor([-math.inf, 1.0])),
        (1.5, 1.5 + 1e-9),
        (2.0, 2),
        ([1, (2, "x")], [1, (2, "x")]),
        ({"a": A, "b": None}, {"b": None, "a": A}),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (["a", "b"], list(np.unique(["b", "a"]))),
        (1.5, np.float64(1.5)),
    ],
)
def test_equal(expected, got):
    assert compare(freeze(expected), freeze(got)) is None


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        (A, 2 * A, "yours is 2 times the expected"),
        (A, A + 3, "yours is off by 3 everywhere"),
        (A, -A, "sign turned"),
        (A, A.T, "transposed"),
        (SQUARE, SQUARE.T, "transposed"),
        (A, 1 / A, "reciprocal"),
        (A, A.log(), "logarithm of the expected"),
        (A, A.flip(1), "reversed along axis 1"),
        (A, A.roll(1, 1), "shifted by one along axis 1"),
        (A, A[None], "squeeze"),
        (A, A.sum(), "a sum or a mean too many"),
        (A, A.reshape(6), "arranged otherwise"),
        (A, A.long(), "dtype int64, expected float32"),
        (A, A * math.nan, "NaN at [0, 0] (6 of 6 values)"),
        (torch.tensor(1.0), torch.tensor(math.nan), "got NaN"),
        (A, None, "return"),
        (A, A.tolist(), "expected a tensor"),
        (A, A.numpy(), "expected a tensor"),
        (A > 2, A <= 2, "opposite"),
        (A * math.nan, A * math.nan, "NaN"),
        (torch.tensor(math.inf), torch.tensor(1e30), "expected inf"),
        (np.ones(2), torch.ones(2), "expected a numpy array"),
        (2, 2.0, "expected 2 (an int)"),
        (3, 4, "got 4, expected 3"),
        (3, 10**30, "got an integer of 100 bits, expected 3"),
        pytest.param(0.5, 10**5000, "got an integer of 16610 bits, expected 0.5", id="longer than Python prints"),
        (torch.tensor([151_552, 20]), torch.tensor([151_553, 20]), "got 151553, expected 151552"),
        (torch.tensor([151_552, 151_553]), torch.tensor([151_553, 151_554]), "yours is off by 1 everywhere"),
        (1.0, True, "expected 1"),
        (0.5, math.nan, "got NaN"),
        (0.94, 1.7e308, "got 1.7e+308, expected 0.94"),
        (torch.tensor(0.94), torch.tensor(1.7e308, dtype=torch.float64), "got 1.7e+308, expected 0.94"),
        (1 + 2j, 1.7e308 + 0j, "got 1.7e+308+0j, expected 1+2j"),
        (2.0, 3.0, "yours is 1.5 times the expected"),
        (True, 1, "expected True"),
        ((1, 2), [1, 2], "expected a tuple of 2"),
        ([1, 2], [1], "got 1 items, expected 2"),
        ([1, 2], [1, 3], "item 1: got 3, expected 2"),
        ({"a": 1}, {}, "'a' is missing"),
        ({"a": 1}, {"a": 1, "b": 2}, "too many"),
        ("wer", "cer", "got 'cer', expected 'wer'"),
    ],
)
def test_differences_in_words(expected, got, words):
    message = compare(expected, got)
    assert message and words in message and "\n" not in message
