"""Compare what a function gave with what was expected, and say in words in what they differ.

Strict about the kind of value (tensor, array, number, list, ...), shape, family of dtype (float, integer, bool,
complex) and tolerance; NaN never equals anything, an infinity only itself.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .plain import Named, article

Array = np.ndarray


def compare(expected: Any, got: Any, rtol: float = 1e-4, atol: float = 1e-6) -> str | None:
    """None if equal, else one line such as "got 2.31, expected 0.94". Both are plain data (see `plain.freeze`)."""
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        return compare_arrays(expected, got, rtol, atol)
    if isinstance(expected, (list, tuple)):
        return compare_sequences(expected, got, rtol, atol)
    if isinstance(expected, dict):
        return compare_tables(expected, got, rtol, atol)
    if isinstance(expected, Named):
        same = isinstance(got, Named) and got.name == expected.name
        return compare(expected.settings, got.settings, rtol, atol) if same else f"got {got!r}, expected {expected!r}"
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        same = type(got) is type(expected) and got == expected
        return None if same else f"got {brief(got)}, expected {brief(expected)}"
    return compare_numbers(expected, got, rtol, atol)


def compare_numbers(expected: int | float | complex, got: Any, rtol: float, atol: float) -> str | None:
    """Python numbers. An int will do where a float is expected, never the other way round."""
    kinds = {int: (int,), float: (int, float), complex: (int, float, complex)}[type(expected)]
    if isinstance(got, bool) or not isinstance(got, kinds):
        return f"got {brief(got)}, expected {brief(expected)} ({article(type(expected).__name__)})"
    if isinstance(got, int) and abs(got) >= 2**63:  # more than an array holds, or a line
        return None if got == expected else f"got an integer of {got.bit_length()} bits, expected {brief(expected)}"
    if type(expected) is int:
        return (
            None if got == expected else f"got {got}, expected {expected}" + because(np.array(expected), np.array(got))
        )
    if got != got:
        return f"got NaN, expected {expected:.5g}"
    if close(np.array(expected), np.array(got), rtol, atol).all():
        return None
    return f"got {got:.5g}, expected {expected:.5g}" + because(np.array(expected), np.array(got))


def compare_sequences(expected: list | tuple, got: Any, rtol: float, atol: float) -> str | None:
    """Lists and tuples, item by item; a list does not pass for a tuple of several results."""
    if not isinstance(got, type(expected)):
        return f"got {brief(got)}, expected {article(type(expected).__name__)} of {len(expected)}"
    if len(got) != len(expected):
        return f"got {len(got)} items, expected {len(expected)}: {brief(got)} against {brief(expected)}"
    for index, (e, g) in enumerate(zip(expected, got, strict=True)):
        message = compare(e, g, rtol, atol)
        if message:
            return f"item {index}: {message}"
    return None


def compare_tables(expected: dict, got: Any, rtol: float, atol: float) -> str | None:
    """Dicts: the same keys, in any order."""
    if not isinstance(got, dict):
        return f"got {brief(got)}, expected a dict with {brief(list(expected))}"
    if missing := [k for k in expected if k not in got]:
        return f"the key {missing[0]!r} is missing"
    if extra := [k for k in got if k not in expected]:
        return f"there is a key {brief(extra[0])} too many"
    for key, value in expected.items():
        message = compare(value, got[key], rtol, atol)
        if message:
            return f"{key!r}: {message}"
    return None


def compare_arrays(expected: Any, got: Any, rtol: float, atol: float) -> str | None:
    """Tensors and arrays: kind, dtype family, shape, NaN, then values."""
    kind = "tensor" if isinstance(expected, torch.Tensor) else "numpy array"
    if got is None:
        return f"got None, expected a {kind}: is a `return` missing?"
    if not isinstance(got, torch.Tensor if kind == "tensor" else np.ndarray):
        return f"got {brief(got)}, expected a {kind} of shape {tuple(expected.shape)}"
    e, g = as_numpy(expected), as_numpy(got)
    if e.shape != g.shape:
        hint = because(e, g)
        if g.size == 1 and e.size > 1:
            hint = ": a sum or a mean too many?"
        return f"shape {g.shape}, expected {e.shape}{hint}"
    if family(e) != family(g):
        return f"dtype {dtype_name(got)}, expected {dtype_name(expected)}"
    if np.isnan(g).any():
        if g.size == 1:
            return f"got NaN, expected {e.item():.5g}"
        first = tuple(int(i) for i in np.argwhere(np.isnan(g))[0])
        return f"NaN at {list(first)} ({int(np.isnan(g).sum())} of {g.size} values)"
    good = close(e, g, rtol, atol)
    if good.all():
        return None
    if e.size == 1:
        return f"got {brief(g.item())}, expected {brief(e.item())}" + because(e, g)
    place = tuple(int(i) for i in np.argwhere(~good)[0])
    return (
        f"{int((~good).sum())} of {e.size} values differ, first at {list(place)}: "
        f"got {brief(g[place].item())}, expected {brief(e[place].item())}{because(e, g)}"
    )


def close(expected: Array, got: Array, rtol: float, atol: float) -> Array:
    """Elementwise |got - expected| <= atol + rtol * |expected|; infinities equal themselves only, NaN nothing."""
    if "b" in (expected.dtype.kind, got.dtype.kind) or {expected.dtype.kind, got.dtype.kind} <= {"i", "u"}:
        return expected == got
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(got) & np.isfinite(expected)
        return (expected == got) | (finite & (np.abs(got - expected) <= atol + rtol * np.abs(expected)))


def as_numpy(value: Any) -> Array:
    """A tensor or array in double precision (integers and bools unchanged)."""
    if isinstance(value, torch.Tensor):
        value = (value.double() if value.is_floating_point() else value).numpy()
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def family(array: Array) -> str:
    """What kind of numbers an array holds: "float", "integer", "bool" or "complex"."""
    return {"f": "float", "i": "integer", "u": "integer", "b": "bool", "c": "complex"}[array.dtype.kind]


def dtype_name(value: Any) -> str:
    """The name of a tensor's or array's type: "float32"."""
    return str(value.dtype).removeprefix("torch.")


def brief(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        kind = "tensor" if isinstance(value, torch.Tensor) else "numpy array"
        return f"a {kind} of shape {tuple(value.shape)}"
    text = f"{value:.5g}" if isinstance(value, float) else repr(value)
    if isinstance(value, (list, tuple, dict)) and len(text) > 80:
        return f"{article(type(value).__name__)} of {len(value)}"
    return text if len(text) <= 80 else text[:77] + "..."


RELATIONS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("yours is the expected with its sign turned", lambda e: -e),
    ("yours is the reciprocal of the expected", lambda e: 1 / e),
    ("yours is the square of the expected", lambda e: e * e),
    ("yours is the square root of the expected", lambda e: np.sqrt(e)),
    ("yours is the exponential of the expected", lambda e: np.exp(e)),
    ("yours is the logarithm of the expected", lambda e: np.log(e)),
    ("yours is the logarithm to base 10 of the expected, times 10", lambda e: 10 * np.log10(e)),
    ("yours is one minus the expected", lambda e: 1 - e),
)


def because(expected: Array, got: Array) -> str:
    """ " (yours is 2 times the expected)" and the like, or "" when no simple relation holds."""
    relation = shape_relation(expected, got) if expected.shape != got.shape else value_relation(expected, got)
    return f" ({relation})" if relation else ""


def shape_relation(expected: Array, got: Array) -> str:
    """How arrays of unlike shape are related: transposed, or axes of size one too many or too few."""
    if expected.size != got.size or expected.size == 0:
        return ""
    if expected.ndim == got.ndim == 2 and alike(expected.T, got):
        return "yours is transposed"
    if tuple(s for s in expected.shape if s != 1) == tuple(s for s in got.shape if s != 1):
        return "the axes differ only by axes of size one: squeeze or unsqueeze"
    if sorted(expected.shape) == sorted(got.shape):
        return "the axes are in another order"
    return "as many values, arranged otherwise"


def value_relation(expected: Array, got: Array) -> str:
    """How arrays of one shape are related: transposed, reversed, shifted, scaled, offset, or one of RELATIONS."""
    if expected.dtype.kind == "b" or got.dtype.kind == "b":
        same = expected.dtype.kind == got.dtype.kind == "b" and expected.size > 0 and (expected == ~got).all()
        return "yours is the opposite: True and False are exchanged" if same else ""
    if expected.size == 0 or not (np.isfinite(expected).all() and np.isfinite(got).all()):
        return ""
    if expected.ndim == 2 and expected.shape[0] == expected.shape[1] > 1 and alike(expected.T, got):
        return "yours is transposed"
    for axis in range(expected.ndim):
        if expected.shape[axis] > 1:
            if alike(np.flip(expected, axis), got):
                return f"yours is reversed along axis {axis}"
            for step in (1, -1):
                if expected.shape[axis] > 2 and alike(np.roll(expected, step, axis), got):
                    return f"yours is shifted by one along axis {axis}"
    with np.errstate(all="ignore"):
        for words, relation in RELATIONS:
            if alike(relation(expected.astype(complex if expected.dtype.kind == "c" else float)), got):
                return words
        return affine_relation(expected, got)


def affine_relation(expected: Array, got: Array) -> str:
    """Whether `got` is a multiple of `expected`, or differs from it by a constant."""
    largest = np.unravel_index(np.argmax(np.abs(expected)), expected.shape)
    if np.abs(expected[largest]) > 1e-12:
        ratio = got[largest] / expected[largest]
        # Of one number anything is a multiple: only a round ratio says something then. An infinite one has no nearest.
        telling = 1e-6 < abs(ratio) < 1e6 and f"{ratio:.4g}" != "1"
        telling = telling and (expected.size > 1 or any(is_whole(ratio * k) for k in (1, 2, 3)))
        if telling and alike(expected * ratio, got):
            return f"yours is {ratio:.4g} times the expected"
    offset = got.reshape(-1)[0] - expected.reshape(-1)[0]
    if alike(expected + offset, got) and (expected.size > 1 or abs(offset) in (1.0, 2.0)):
        return f"yours is off by {offset:.4g} everywhere" if expected.size > 1 else f"yours is off by {offset:.4g}"
    return "all values are zero" if not got.any() else ""


def is_whole(number: Any) -> bool:
    """Whether a number, real or complex, is nearly a whole one."""
    return bool(abs(number - round(float(np.real(number)))) < 1e-4)


def alike(a: Array, b: Array) -> bool:
    """Whether two arrays agree in shape and, roughly, in every number."""
    return a.shape == b.shape and bool(close(a, b, 1e-4, 1e-7).all())
