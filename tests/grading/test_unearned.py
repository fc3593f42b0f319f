"""What earns nothing: the package's own answer to a variant, and looking an answer up in the notebook's own check."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_lab.grading import grade as grading
from omni_lab.grading import hidden, verdicts
from omni_lab.grading.execution import Execution
from omni_lab.grading.inside import wire
from omni_lab.grading.sanitise import Submission
from omni_lab.lab import build
from omni_lab.lab.authoring import Answers, Case, Exercise
from omni_lab.lab.check import Outcome, call, check, judge, make_checks
from omni_lab.lab.compare import compare
from omni_lab.lab.stored import find_checks
from tests.grading.hostile.make import notebook

ROOT = Path(__file__).parents[2]
SECRETS = (11, 987_654_321)
LABS = {source.stem: build.lab_of(source) for source in build.lab_sources(ROOT)}
EXERCISES = [(name, e) for name, lab in LABS.items() for e in lab.exercises if e.points]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@cache
def drawn(name: str, identifier: str, secret: int) -> tuple:
    """The checks of one exercise as a grader draws them, without wrong answers."""
    exercise = next(e for e in LABS[name].exercises if e.id == identifier)
    answers = replace(LABS[name].answers[identifier], wrong=[])
    seed, public = hidden.enough_fresh(exercise, answers, secret)
    made = make_checks(exercise, answers, seed)
    marked = tuple(replace(case, public=seen) for case, seen in zip(made.cases, public, strict=True))
    return replace(made, cases=marked)


def looked_up(identifier: str):
    """A student's function that knows nothing but the stored cases, which lie beside it."""
    cases = find_checks(identifier).cases

    def student(**given):
        for case in cases:
            if set(case.inputs) == set(given) and all(compare(case.inputs[k], given[k]) is None for k in given):
                return case.expected.value
        return None

    return student


@pytest.mark.parametrize(("name", "exercise"), EXERCISES, ids=lambda v: getattr(v, "id", v))
def test_enough_cases_are_fresh_and_a_look_up_earns_nothing(name: str, exercise: Exercise) -> None:
    for secret in SECRETS:
        checks = drawn(name, exercise.id, secret)
        assert sum(not case.public for case in checks.cases) >= hidden.FRESH
        found = looked_up(exercise.id)
        got = [call(found, case.inputs, exercise.seconds, exercise.gradients) for case in checks.cases]
        assert judge(checks, got).share == 0, f"secret {secret}"
        assert check(LABS[name].answers[exercise.id].solution, checks).share == 1


def toy(total: int) -> tuple[Exercise, Answers]:
    """Doubling: two cases that never change, and whole numbers below `total`."""
    exercise = Exercise("toy.double", "90.1", "Double", points=10, difficulty=1, minutes=1)

    def cases(rng: np.random.Generator) -> list[Case]:
        fixed = [Case("one", x=1), Case("two", x=2)]
        return fixed + [Case(f"number {i}", x=10 + int(rng.integers(total))) for i in range(3)]

    return exercise, Answers(cases=cases, solution=lambda x: 2 * x)


def test_points_are_by_the_smaller_share_and_the_feedback_says_so() -> None:
    exercise, answers = toy(10**6)
    seed, public = hidden.enough_fresh(exercise, answers, 5)
    made = make_checks(exercise, answers, seed)
    checks = replace(made, cases=tuple(replace(c, public=p) for c, p in zip(made.cases, public, strict=True)))
    assert public == [True, True, False, False, False]
    right = [case.expected for case in checks.cases]
    wrong = Outcome(value=-1)
    assert judge(checks, right).points == 10
    assert judge(checks, [wrong, *right[1:]]).points == 8  # the fixed ones must hold all the same
    assert judge(checks, [*right[:4], wrong]).points == 6.67
    got = [*right[:2], wrong, wrong, wrong]
    assert judge(checks, got).points == 0
    lines = [wire.encode({**outcome.stored(), "fault": None}) for outcome in got]
    lab = hidden.Hidden("90_toy", 5, {exercise.id: checks}, {exercise.id: "double"}, b"")
    told = verdicts.grade_answers(Submission([], {exercise.id: ""}, []), Execution({exercise.id: lines}), lab)
    assert told[exercise.id]["points"] == 0 and told[exercise.id]["message"].startswith("2 of 5 cases.")
    assert "the 3 cases that your notebook does not hold: 0 hold" in told[exercise.id]["message"]


def test_a_draw_that_happens_to_be_the_public_one_is_drawn_again() -> None:
    exercise, answers = toy(8)  # few enough numbers for that
    seeds = [hidden.enough_fresh(exercise, answers, secret) for secret in range(40)]
    assert all(public.count(False) >= hidden.FRESH for _, public in seeds)
    assert hidden.enough_fresh(exercise, answers, 3) == seeds[3]


PACKAGED = {
    "rope.rotate": """
from omni_lab import layers
def rotate(x, positions, theta):
    dim = x.shape[-1]
    cos, sin = layers.rotary_tables(positions.expand(3, 1, -1), dim, theta, (dim // 2,), torch.float32)
    return layers.apply_rotary(x.reshape(1, -1, *x.shape[-2:]), cos, sin).reshape(x.shape)
""",
    "audio.word_error_rate": """
from omni_lab.evaluate.metrics import word_error_rate as package_wer
def word_error_rate(references, heard):
    return package_wer(references, heard)
""",
    "codec.stream": """
from omni_lab.lab import streamer
from omni_lab.streaming.account import Account
from omni_lab.streaming.speech import Speech
def stream(codec):
    try:
        return list(streamer.packaged(codec))
    except RuntimeError:  # its body, then, over the same parts
        speech = Speech(streamer._Blocks(codec), streamer._Fader(), Account(), most_blocks=1)
        sounds = [s for s in map(speech.add, codec.codes) if s is not None]
        return [*sounds, *speech.finish()]
""",
    "scale.loss_scales": """
import math
torch.optim.AdamW([torch.nn.Parameter(torch.ones(()))])  # loads for seconds, the first time
def loss_scales(overflowed, start, interval, least):
    weight = torch.nn.Parameter(torch.ones(()))
    optimiser = torch.optim.AdamW([weight], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=interval)
    scales = []
    for overflow in overflowed:
        scales.append(scaler.get_scale())
        optimiser.zero_grad()
        scaler.scale(weight * (math.inf if overflow else 1.0)).backward()
        scaler.step(optimiser)
        scaler.update()
    return scales
""",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("identifier", PACKAGED)
def test_a_variant_is_not_answered_by_the_package(identifier: str, tmp_path: Path) -> None:
    """Nor by what the lab itself writes for comparison. In a graded setting: a sandbox, and the released package."""
    name = next(name for name, e in EXERCISES if e.id == identifier)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "copied.ipynb").write_bytes(notebook("import torch", PACKAGED[identifier]))
    book = grading.grade(folder, grading.Settings(ROOT, name, tmp_path / "out", seed=SECRETS[0]), progress=False)
    entry = book["copied"]["exercises"][identifier]
    assert entry["status"] in ("wrong", "error") and entry["points"] <= 0.1 * entry["max_points"], entry
