"""Plain values as one line of JSON and back: the only thing that crosses the wall between a submission and the
grader.

`omni_lab.lab.plain` says what is plain and turns it into a form and a table of arrays; here the arrays become text.
Used on both sides: `encode` runs beside student code and is trusted by nobody, `decode` believes nothing - dtypes,
shapes and lengths must agree to the byte, and the sizes are bounded. No pickle, no object, no code.
"""

import base64
import math

import numpy as np

from omni_lab.errors import InputError
from omni_lab.lab.plain import pack, unpack

MAX_BYTES = 8 << 20  # of all arrays of one value, each counted as often as it is used
DTYPES = {
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64", "complex128",
}  # fmt: skip


def encode(value: object) -> dict:
    """`value` as JSON-ready data. Raises InputError, worded for the function's author, for what is not plain or too
    large."""
    form, arrays = pack(value)
    if sum(array.nbytes for array in arrays.values()) > MAX_BYTES:
        raise InputError(f"a result of more than {MAX_BYTES >> 20} MB")
    return {"form": form, "arrays": {name: _array_to_text(array) for name, array in arrays.items()}}


def decode(data: object) -> object:
    """The value that `encode` was given. Raises InputError for anything that `encode` cannot have written."""
    if type(data) is not dict or set(data) != {"form", "arrays"} or type(data["arrays"]) is not dict:
        raise InputError("not a packed value")
    arrays = {name: _array_from_text(text) for name, text in data["arrays"].items()}
    _check_use(data["form"], arrays)
    return unpack(data["form"], arrays)


def _array_to_text(array: np.ndarray) -> list:
    return [str(array.dtype), list(array.shape), base64.b64encode(array.tobytes()).decode("ascii")]


def _array_from_text(text: object) -> np.ndarray:
    if type(text) is not list or len(text) != 3 or type(text[0]) is not str or text[0] not in DTYPES:
        raise InputError("not a packed array")
    dtype, shape, data = text
    if type(shape) is not list or len(shape) > 8 or any(type(n) is not int or not 0 <= n <= MAX_BYTES for n in shape):
        raise InputError("an array without a proper shape")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if type(data) is not str or expected > MAX_BYTES:
        raise InputError("an array that is too large")
    try:
        raw = base64.b64decode(data, validate=True)
    except ValueError:
        raise InputError("an array that is not base64") from None
    if len(raw) != expected:
        raise InputError(f"an array says shape {tuple(shape)} of {dtype} and holds {len(raw)} bytes, not {expected}")
    if dtype == "bool" and raw.strip(b"\0\1"):
        raise InputError("an array of truth values that are neither true nor false")
    try:
        return np.frombuffer(raw, dtype).reshape(shape)
    except ValueError:  # sizes whose product numpy cannot hold, beside one that is 0
        raise InputError("an array without a proper shape") from None


def _check_use(form: object, arrays: dict[str, np.ndarray]) -> None:
    """Bound what `unpack` will allocate: one small array, named a million times, would fill the memory."""
    waiting, total = [form], 0
    while waiting:
        item = waiting.pop()
        total += 64
        if type(item) is list:
            waiting += item
        elif type(item) is dict:
            for name, entry in item.items():
                known = name in ("$tensor", "$array") and type(entry) is str and entry in arrays
                total += 16 * arrays[entry].size if known else 0  # 16: the widest dtype that it may be cast to
                waiting.append(entry)
        if total > 16 * MAX_BYTES:
            raise InputError("a result with too many parts")
