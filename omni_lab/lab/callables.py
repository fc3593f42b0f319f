"""Functions that a case may hand to a student's function, by name: data can be stored, code cannot.

`resolve(Named("linear_field", matrix=m))` gives the function itself. Each entry takes its settings and returns the
function; add one when an exercise needs another kind of argument.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .plain import Named
from .streamer import toy_codec


def linear_field(matrix: Tensor, offset: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """Velocity v(t, x) = x @ matrix.T + t * offset, of x (..., dim): the ODE whose answer is known exactly."""

    def field(t: Tensor | float, x: Tensor) -> Tensor:
        drift = x @ matrix.T
        return drift if offset is None else drift + t * offset

    return field


def power_field(power: float = 1.0, rate: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    """Velocity v(t, x) = rate * t ** power, the same everywhere."""

    def field(t: Tensor | float, x: Tensor) -> Tensor:
        return rate * torch.as_tensor(t, dtype=x.dtype) ** power + torch.zeros_like(x)

    return field


def linear(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """x @ weight.T + bias, as a layer."""
    return lambda x: torch.nn.functional.linear(x, weight, bias)


def table(rows: Tensor) -> Callable[[Tensor], Tensor]:
    """Row lookup, as an embedding: ids (...) -> (..., dim)."""
    return lambda ids: rows[ids]


def next_token_table(logits: Tensor) -> Callable[[Tensor], Tensor]:
    """A language model that sees one token back: ids (batch, length) -> logits (batch, length, vocabulary)."""
    return lambda ids: logits[ids]


CALLABLES: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (linear_field, power_field, linear, table, next_token_table, toy_codec)
}


def resolve(value: Any) -> Any:
    """Replace every `Named` within plain data by its function. Raises InputError for an unknown name."""
    if isinstance(value, Named):
        if value.name not in CALLABLES:
            raise InputError(f"unknown callable {value.name!r}: choose one of {', '.join(CALLABLES)}")
        return CALLABLES[value.name](**resolve(value.settings))
    if isinstance(value, (list, tuple)):
        return type(value)(resolve(v) for v in value)
    if isinstance(value, dict):
        return {k: resolve(v) for k, v in value.items()}
    return value
