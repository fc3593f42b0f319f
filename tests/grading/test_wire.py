"""What crosses the wall: plain values both ways, and nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_lab.errors import InputError
from omni_lab.grading.execution import Execution, outcome_of, read_results, to_json
from omni_lab.grading.hidden import draw, find_lab
from omni_lab.grading.inside import wire

VALUES = [
    None, True, 3, 2.5, float("inf"), "text", [1, [2.0]], (1, "a"), {"a": (1,)}, {3: 4}, np.arange(6).reshape(2, 3),
    torch.zeros(2, 0, 3), torch.tensor(1.5, dtype=torch.bfloat16), torch.tensor([True, False]), 1 + 2j,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_there_and_back(value: object) -> None:
    back = wire.decode(json.loads(json.dumps(wire.encode(value))))
    assert type(back) is type(value)
    if isinstance(value, torch.Tensor):
        assert back.dtype == value.dtype and torch.equal(back, value)
    else:
        assert np.array_equal(back, value) if isinstance(value, np.ndarray) else back == value


def packed(dtype: object, shape: object, data: object, form: object = None) -> dict:
    return {"form": form or {"$array": "a"}, "arrays": {"a": [dtype, shape, data]}}


@pytest.mark.parametrize(
    "data",
    [
        None, [], {"form": 1}, packed("object", [1], "AAAAAAAAAAA="), packed("float32", [2], "AAAA"),
        packed("float32", [-1], ""), packed("float32", [1 << 40], ""), packed("float32", [1] * 9, "AAAAAA=="),
        packed("float32", [True], "AAAAAA=="), packed("bool", [1], "Ag=="), packed("float32", [1], "not base64"),
        packed("uint8", [4000], "AAAA" * 1333 + "AA==", [{"$array": "a"}] * 1_000_000),
        packed("float32", [0, *[wire.MAX_BYTES] * 7], ""),
        {"form": {"$dict": [[[1], 2]]}, "arrays": {}}, {"form": {"$pickle": "x"}, "arrays": {}},
    ],
    ids=lambda data: repr(data)[:40],
)  # fmt: skip
def test_malformed_data_is_refused(data: object) -> None:
    with pytest.raises(InputError):
        wire.decode(data)
    assert outcome_of(data).kind == "invalid"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["form", "arrays", "$tensor", "$dict", "$named", "$complex", "with", "a"]), inner
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_no_json_crashes_the_grader(data: object) -> None:
    assert isinstance(outcome_of(data).kind, str)
    assert isinstance(outcome_of({"form": data, "arrays": {}}).kind, str)


def test_answers_nested_without_end_are_passed_over(course: Path) -> None:
    hidden = draw(find_lab(course, "90"), 7)
    exercise = next(iter(hidden.checks))
    for levels in (150, 500, 100_000):
        line = '{"exercise": "%s", "case": 0, "nonce": "%s", "outcome": %s}'
        raw = line % (exercise, hidden.nonce(exercise, 0), "[" * levels + "]" * levels)
        found = read_results(raw.encode(), hidden)
        assert bool(found) == (levels < 200)
        to_json(Execution(lines=found))  # as it is written beside the store
