"""Linear discriminants: the few directions in which classes lie farthest apart for how much each of them varies.

Fisher (1936) for two classes, Rao (1948) for many. They are counted, not trained, and for phonemes they are what the
speech tokenizer measures its distances by (codec/speech_tokenizer.py).
"""

import torch
from torch import Tensor, nn

from ..errors import DataError

STEADY = 1e-3  # of the mean variance within classes, added to each: directions in which nothing varies divide by it


@torch.no_grad()
def linear_discriminants(rows: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows (n, dim) of classes `labels` (n,) -> weight (count, dim) and bias (count,) of a linear layer.

    What it gives has mean 0, variance 1 within classes in every direction, and the directions in which the classes'
    means vary most first. Raises DataError where all rows are of one class."""
    rows = rows.double()
    classes = labels.unique()
    if len(classes) < 2:
        raise DataError("discriminants need rows of two classes at least")
    middle = rows.mean(0)
    within, between = (rows.new_zeros(rows.shape[1], rows.shape[1]) for _ in range(2))
    for number in classes:
        some = rows[labels == number]
        mean = some.mean(0)
        within += (some - mean).T @ (some - mean)
        between += len(some) * torch.outer(mean - middle, mean - middle)
    within, between = within / len(rows), between / len(rows)
    within.diagonal().add_(STEADY * within.diagonal().mean() + torch.finfo(torch.float32).tiny)
    # between v = e within v, by within = L L': an ordinary symmetric problem for L' v.
    lower = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(lower, between, upper=False)
    whitened = torch.linalg.solve_triangular(lower, half.T, upper=False)
    found = torch.linalg.eigh((whitened + whitened.T) / 2).eigenvectors.flip(1)[:, :count]
    weight = torch.linalg.solve_triangular(lower.T, found, upper=True).T
    # An eigenvector and its negative are the same direction: its largest number is to be positive on every machine.
    weight *= weight.gather(1, weight.abs().argmax(1, keepdim=True)).sign()
    return weight.float(), -(weight @ middle).float()


def fit(layer: nn.Linear, rows: Tensor, labels: Tensor) -> None:
    """Make `layer` give the discriminants of `rows` (n, dim) by `labels` (n,). Raises DataError."""
    weight, bias = linear_discriminants(rows, labels, layer.out_features)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
