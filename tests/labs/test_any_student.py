"""Whatever a student's function does in labs 02 to 07, the check says what, and the notebook goes on."""

import time
from dataclasses import replace

import pytest
import torch

from omni_lab.lab import check as checking
from omni_lab.lab import exercises
from omni_lab.lab.stored import find_checks

ONE_OF_EACH = (
    "llava.place_features", "audio.log_compress", "rope.mrope_angles",
    "talker.thinker_vectors", "preferences.sequence_log_probability", "codec.interpolant",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh():
    torch.set_num_threads(1)
    yield
    exercises.restore()


def fail(right, given):
    raise RuntimeError("out of ideas")


def loop(right, given):
    while True:
        time.sleep(0.001)


def in_place(right, given):
    for value in given.values():
        if isinstance(value, torch.Tensor):
            with torch.no_grad():
                value += 1
            return right


def shout(right, given):
    print("look here")
    return right


FAULTS = {
    "shape": (lambda right, given: right[None], "expected ("),
    "dtype": (lambda right, given: right.long(), "dtype int64"),
    "device": (lambda right, given: right.to("meta"), "a tensor on meta"),
    "NaN": (lambda right, given: right * float("nan"), "NaN"),
    "None": (lambda right, given: None, "is a `return` missing?"),
    "raises": (fail, "raised RuntimeError: out of ideas"),
    "loops": (loop, "ran longer than 0.3 s"),
    "changes its input": (in_place, "in place"),
}


def answering(checks, change):
    """A student's function under the stub's names: the right value of each case in turn, changed."""
    turns = iter(checks.cases)

    def student(**given):
        return change(next(turns).expected.value, given)

    return student


def without_gradients(identifier):
    """Stored values carry no gradient, so the cases are judged without; and no case takes long."""
    checks = find_checks(identifier)
    cases = tuple(replace(case, expected=replace(case.expected, gradients={})) for case in checks.cases)
    return replace(checks, cases=cases, exercise=replace(checks.exercise, seconds=0.3, gradients=()))


@pytest.mark.parametrize("identifier", ONE_OF_EACH)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_named(identifier, fault):
    change, words = FAULTS[fault]
    checks = without_gradients(identifier)
    verdict = checking.check(answering(checks, change), checks)
    assert not verdict.solved and words in verdict.message and "\n" not in verdict.message


@pytest.mark.parametrize("identifier", ONE_OF_EACH)
def test_prints_cost_nothing(identifier):
    checks = without_gradients(identifier)
    verdict = checking.check(answering(checks, shout), checks)
    assert verdict.solved and verdict.printed.startswith("look here")


@pytest.mark.parametrize("identifier", ONE_OF_EACH)
def test_the_notebook_goes_on_behind_a_failing_function(identifier, capsys):
    failing = exercises.exercise(identifier)(answering(find_checks(identifier), fail))
    assert "out of ideas" in capsys.readouterr().out and failing is not None
