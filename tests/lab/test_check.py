"""Whatever a student's function does, the check says what, and the notebook goes on."""

import threading
import time

import numpy as np
import pytest
import torch

from omni_lab.lab.authoring import Answers, Case, Exercise
from omni_lab.lab.check import call, check, make_checks
from omni_lab.lab.timelimit import TimeLimit, run_limited

EXERCISE = Exercise("test.mean", "0.1", "Mean", 10, 1, 5, seconds=0.5, gradients=("x",))
INPUTS = {"x": torch.tensor([1.0, 2.0, 6.0])}


def draw(rng):
    return [Case(f"case {n}", x=torch.from_numpy(rng.standard_normal(n + 2)).float()) for n in range(5)]


def total(x):
    return x.sum()


@pytest.fixture(scope="module")
def checks():
    answers = Answers(draw, [("total", "Divide by the length.", total)], [], lambda x: x.mean())
    return make_checks(EXERCISE, answers, seed=1)


def loop(x):
    while True:
        pass


def swallowing_loop(x):
    while True:
        try:
            time.sleep(0.001)
        except BaseException:
            continue


def in_place(x):
    x /= x.shape[0]
    return x.sum()


def shout(x):
    print("look:", x.shape)
    return x.mean()


def leave(x):
    raise SystemExit(0)


def fail(x):
    raise ValueError("two\nlines")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (total, "Divide by the length."),
        (lambda x: x.mean() * 3, "yours is 3 times the expected"),
        (lambda x: None, "is a `return` missing?"),
        (lambda x: x.mean().item(), "expected a tensor"),
        (lambda x: x.mean().detach(), "no gradient reaches `x`"),
        (lambda x: x.mean() + x.square().sum() - x.square().sum().detach(), "the gradient with respect to `x` is not"),
        (lambda x: x.mean() * float("nan"), "got NaN"),
        (lambda x: x.mean().long(), "dtype int64"),
        (lambda x: x.mean()[None], "shape (1,), expected ()"),
        (lambda x: torch.nn.Linear(1, 1), "returned a Linear"),
        (lambda y: y.mean(), "keep the stub's names"),
        (in_place, "changed its input `x` in place"),
        (fail, "raised ValueError: two lines"),
        (leave, "raised SystemExit"),
        (loop, "ran longer than 0.5 s"),
        (swallowing_loop, "ran longer than 0.5 s"),
    ],
)
def test_mistakes_are_named(checks, function, words):
    verdict = check(function, checks)
    assert not verdict.solved and verdict.points < 10
    assert words in verdict.message and "\n" not in verdict.message


def test_right_answers_earn_all_and_their_prints_are_shown(checks):
    verdict = check(shout, checks)
    assert verdict.solved and verdict.points == 10 and verdict.printed.startswith("look: torch.Size")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x, y: x.unsqueeze_(0), "x"),
        (lambda x, y: x.squeeze_(), "x"),
        (lambda x, y: y.resize((2, 1), refcheck=False), "y"),
    ],
)
def test_an_input_changed_in_shape_is_changed(change, name):
    given = {"x": torch.ones(1, 3), "y": np.ones(2)}
    assert call(lambda x, y: [change(x, y), 1][1], given, 1).mutated == (name,)
    assert call(lambda x, y: x.unsqueeze(0).sum() + y.reshape(2, 1).sum(), given, 1).mutated == ()


def test_points_by_share_of_cases(checks):
    verdict = check(lambda x: x.mean() if len(x) < 5 else x.sum(), checks)
    assert (verdict.passed, verdict.points) == (3, 6)


def test_checking_changes_no_random_number():
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(2), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    call(lambda x: torch.rand(5).sum() + np.random.rand(), INPUTS, 1)
    assert torch.equal(torch.rand(2), expected[0]) and np.random.rand() == expected[1]


def test_generators_are_compared_as_lists():
    assert call(lambda x: (i * 2 for i in range(3)), INPUTS, 1).value == [0, 2, 4]


def test_endless_generators_end():
    def forever(x):
        while True:
            yield 1

    assert call(forever, INPUTS, 0.3).kind in ("timeout", "not plain")


def test_the_limit_holds_outside_the_main_thread():
    """As on Windows, where there is no timer signal."""
    ended = []

    def work():
        try:
            run_limited(lambda: loop(None), 0.2)
        except TimeLimit:
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert ended == [True]
