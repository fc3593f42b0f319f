"""Plain data: the only values that cross between a notebook, the stored checks and the grader.

Tensors, numpy arrays, Python scalars, str, None, `Named` callables, and lists, tuples and dicts of these. `pack` turns
such a value into a JSON form and a table of arrays; `unpack` reads it back and trusts neither: a form of an unknown
kind, an array of objects, or nesting without end raises InputError. Nothing is ever unpickled.
"""

import math
from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch

from ..errors import InputError

MAX_DEPTH = 16  # of nesting
MAX_ITEMS = 1_000_000  # that a generator may give

DTYPES = {str(d).removeprefix("torch."): d for d in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
)}  # fmt: skip


class Named:
    """A function as an argument: one of the table in `callables.py`, by name, with its settings (plain data)."""

    def __init__(self, name: str, /, **settings: Any) -> None:
        self.name, self.settings = name, settings

    def __repr__(self) -> str:
        return f"Named({self.name!r}{''.join(f', {k}={v!r}' for k, v in self.settings.items())})"


def freeze(value: Any, depth: int = 0) -> Any:
    """Copy what a function gave into plain data: detached CPU tensors, iterators as lists, numpy scalars as Python's.

    Raises InputError, worded for the author of the function, for anything else (a module, a tensor on a GPU, ...).
    """
    if depth > MAX_DEPTH:
        raise InputError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, np.generic):  # first: numpy's texts and doubles are Python's too, by inheritance
        plain = value.item()
        if isinstance(plain, np.generic):  # a number that Python has not
            raise InputError(f"a numpy number of type {value.dtype}, expected an ordinary one")
        return freeze(plain, depth)
    if value is None or isinstance(value, (bool, int, float, complex, str, Named)):
        return value
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu":
            raise InputError(f"a tensor on {value.device}, but the inputs are on the CPU: stay on the inputs' device")
        if value.layout is not torch.strided or str(value.dtype).removeprefix("torch.") not in DTYPES:
            raise InputError(f"a tensor of layout {value.layout} and type {value.dtype}, expected an ordinary one")
        return value.detach().clone().resolve_conj().resolve_neg()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise InputError(f"a numpy array of type {value.dtype}, expected numbers")
        return np.array(value)
    if isinstance(value, Mapping):
        return {freeze(k, depth + 1): freeze(v, depth + 1) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(freeze(v, depth + 1) for v in value)
    if isinstance(value, (list, Generator, Iterator, range)):
        items = list(islice(value, MAX_ITEMS + 1))
        if len(items) > MAX_ITEMS:
            raise InputError(f"more than {MAX_ITEMS} items")
        return [freeze(v, depth + 1) for v in items]
    raise InputError(f"{article(type(value).__name__)}, expected a tensor, an array, numbers, text, or a list of these")


def article(name: str) -> str:
    """`name` with "a" or "an" before it."""
    return ("an " if name[:1].lower() in "aeiou" else "a ") + name


def pack(value: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Plain data -> (form for JSON, arrays by name). Equal arrays are stored once. Raises InputError."""
    arrays: dict[str, np.ndarray] = {}
    seen: dict[tuple, str] = {}

    def store(array: np.ndarray) -> str:
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in seen:
            seen[key] = f"a{len(seen)}"
            arrays[seen[key]] = np.ascontiguousarray(array).reshape(array.shape)
        return seen[key]

    def form(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return {"$float": repr(item)}
        if item is None or isinstance(item, (bool, int, float, str)):
            return item
        if isinstance(item, complex):
            return {"$complex": [form(item.real), form(item.imag)]}
        if isinstance(item, torch.Tensor):
            dtype = str(item.dtype).removeprefix("torch.")
            bits = item.view(torch.int16) if item.dtype == torch.bfloat16 else item
            return {"$tensor": store(bits.numpy()), "dtype": dtype}
        if isinstance(item, np.ndarray):
            return {"$array": store(item)}
        if isinstance(item, Named):
            return {"$named": item.name, "with": form(item.settings)}
        if isinstance(item, tuple):
            return {"$tuple": [form(v) for v in item]}
        if isinstance(item, list):
            return [form(v) for v in item]
        if all(isinstance(k, str) and not k.startswith("$") for k in item):
            return {k: form(v) for k, v in item.items()}
        return {"$dict": [[form(k), form(v)] for k, v in item.items()]}

    return form(freeze(value)), arrays


def unpack(form: Any, arrays: Mapping[str, np.ndarray], depth: int = 0) -> Any:
    """The value that `pack` was given. Raises InputError if `form` or `arrays` are not what `pack` makes."""
    if depth > 2 * MAX_DEPTH:
        raise InputError("packed data: nested too deep")
    if form is None or isinstance(form, (bool, int, float, str)):
        return form
    if isinstance(form, list):
        return [unpack(v, arrays, depth + 1) for v in form]
    if not isinstance(form, dict):
        raise InputError(f"packed data: {type(form).__name__} is no plain form")
    marks = [k for k in form if k.startswith("$")]
    if not marks:
        return {k: unpack(v, arrays, depth + 1) for k, v in form.items()}
    try:
        return marked(marks[0], form, arrays, depth)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"packed data: damaged {marks[0]} ({error})") from error


def marked(mark: str, form: dict, arrays: Mapping[str, np.ndarray], depth: int) -> Any:
    """The value of a form that carries a mark such as `$tensor`."""
    body = form[mark]
    if mark == "$float":
        if body not in ("nan", "inf", "-inf"):
            raise InputError("packed data: $float is for nan, inf and -inf")
        return float(body)
    if mark == "$complex":
        return complex(*(unpack(v, arrays, depth + 1) for v in body))
    if mark in ("$tensor", "$array"):
        array = np.array(arrays[body])
        if array.dtype.kind not in "biufc":
            raise InputError(f"packed data: array {body} is of type {array.dtype}")
        if mark == "$array":
            return array
        dtype = DTYPES[form["dtype"]]
        tensor = torch.from_numpy(array)
        return tensor.view(dtype) if dtype == torch.bfloat16 else tensor.to(dtype)
    if mark == "$named":
        return Named(str(body), **unpack(form["with"], arrays, depth + 1))
    if mark == "$tuple":
        return tuple(unpack(v, arrays, depth + 1) for v in body)
    if mark == "$dict":
        return {unpack(k, arrays, depth + 1): unpack(v, arrays, depth + 1) for k, v in body}
    raise InputError(f"packed data: unknown mark {mark}")
