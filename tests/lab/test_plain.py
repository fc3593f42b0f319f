"""Plain data survives packing to the last bit, and nothing else gets in or out."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_lab.errors import InputError
from omni_lab.lab.callables import resolve
from omni_lab.lab.plain import Named, freeze, pack, unpack

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


def there_and_back(value):
    form, arrays = pack(value)
    return unpack(json.loads(json.dumps(form)), arrays)


@settings(max_examples=60, deadline=None)
@given(PLAIN)
def test_nested_values_come_back(value):
    assert there_and_back(value) == value


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]
)
def test_tensors_come_back_with_their_dtype(dtype):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    back = there_and_back({"t": tensor, "a": np.ones(2, np.float32), "empty": torch.zeros(0, 2)})
    assert back["t"].dtype == dtype and torch.equal(back["t"], tensor)
    assert isinstance(back["a"], np.ndarray) and back["empty"].shape == (0, 2)


def test_numbers_without_end_come_back():
    back = there_and_back([math.inf, -math.inf, math.nan, 1 + 2j])
    assert back[:2] == [math.inf, -math.inf] and math.isnan(back[2]) and back[3] == 1 + 2j


def test_equal_arrays_are_stored_once():
    _, arrays = pack([torch.ones(3), torch.ones(3), np.ones(3)])
    assert len(arrays) == 2  # float32 and float64


def test_a_function_travels_by_name():
    field = resolve(there_and_back(Named("power_field", power=2.0)))
    assert field(3.0, torch.zeros(2)).tolist() == [9.0, 9.0]
    with pytest.raises(InputError, match="unknown callable"):
        resolve(Named("os.system"))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.str_("cat"), str), (np.float64(0.5), float), (np.complex128(1j), complex), (np.int64(3), int),
     (np.bool_(True), bool), (np.float32(0.5), float)],
)  # fmt: skip
def test_numpy_scalars_become_pythons(value, kind):
    """Three of numpy's are Python's by inheritance, and stayed numpy."""
    assert type(freeze(value)) is kind and freeze(value) == value
    assert [type(item) for item in freeze([value, {value: 1}])[1]] == [kind]


def test_freezing_lets_go_of_graph_and_generator():
    weight = torch.nn.Parameter(torch.ones(2))
    frozen = freeze((weight * 2, (i for i in range(3)), np.float32(0.5)))
    assert not frozen[0].requires_grad and frozen[1:] == ([0, 1, 2], 0.5)


@pytest.mark.parametrize(
    "value",
    [torch.nn.Linear(1, 1), {1, 2}, np.array([object()]), torch.eye(2).to_sparse(), torch.ones(2, device="meta"),
     np.longdouble(1), np.bytes_(b"x"), np.datetime64("2025-03-26")],
)  # fmt: skip
def test_what_is_not_plain_is_refused(value):
    with pytest.raises(InputError):
        freeze(value)


@pytest.mark.parametrize(
    "form",
    [{"$pickle": "x"}, {"$tensor": "a9", "dtype": "float32"}, {"$float": "1"}, {"$named": "x"}, {"$tuple": 3}, b"x"],
)
def test_damaged_forms_are_refused(form):
    with pytest.raises(InputError):
        unpack(form, {})


def test_nesting_without_end_is_refused():
    deep = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(InputError):
        pack(deep)
    with pytest.raises(InputError):
        unpack(deep, {})
