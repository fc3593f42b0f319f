"""Run a function on cases and say what came of it: the same for a student, for a wrong answer and for the grader.

`call` runs one case whatever the function does (raises, prints, loops, changes its inputs, returns nonsense) and gives
an Outcome of plain data; `judge` compares outcomes with the expected ones and words the result.
"""

import contextlib
import inspect
import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from .authoring import Answers, Exercise
from .callables import resolve
from .compare import compare
from .plain import freeze, pack
from .timelimit import TimeLimit, run_limited

Function = Callable[..., Any]


@dataclass(frozen=True)
class Outcome:
    """What one call gave: a value, or a fault in words."""

    value: Any = None
    gradients: dict[str, Any] = field(default_factory=dict)
    mutated: tuple[str, ...] = ()  # inputs that were changed in place
    fault: str | None = None  # "raised ValueError: ...", "ran longer than 10 s", "returned a Linear, expected ..."
    kind: str = "value"  # "value", "raised ValueError", "timeout", "not plain"
    printed: str = ""

    def stored(self) -> dict[str, Any]:
        """As plain data, for the checks file."""
        return {"value": self.value, "gradients": self.gradients, "mutated": list(self.mutated), "kind": self.kind}

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> "Outcome":
        """An outcome as it was stored."""
        return cls(raw["value"], raw["gradients"], tuple(raw["mutated"]), kind=raw["kind"])


@dataclass(frozen=True)
class StoredCase:
    """A case with its expected outcome and what each wrong answer gives on it."""

    name: str
    inputs: dict[str, Any]
    expected: Outcome
    wrong: tuple[Outcome, ...]
    public: bool = False  # a grader's case that a notebook's own check holds too, with what is right on it


@dataclass(frozen=True)
class Checks:
    """All that is needed to check one exercise, and nothing that computes its answer."""

    exercise: Exercise
    parameters: tuple[str, ...]
    cases: tuple[StoredCase, ...]
    messages: tuple[str, ...]  # one a wrong answer
    stub: str  # the source of the untouched function
    removed: bool = False  # a graded release: the package holds no reference for this exercise


@dataclass(frozen=True)
class Verdict:
    """The result of a check."""

    exercise: Exercise
    passed: int
    total: int
    message: str = ""  # empty when every case holds
    printed: str = ""
    attempted: bool = True
    fresh: tuple[int, int] | None = None  # (passed, total) of a grader's cases that nobody has seen; None: of all

    @property
    def share(self) -> float:
        """Of the cases, or of the fresh ones alone, whichever share is smaller: looking up the others earns nothing."""
        if not self.attempted or not self.total:
            return 0.0
        return min(passed / total for passed, total in ((self.passed, self.total), self.fresh or (1, 1)))

    @property
    def solved(self) -> bool:
        """Whether every case holds."""
        return self.attempted and self.passed == self.total

    @property
    def points(self) -> float:
        """Points by share of the cases that hold, as the grader gives them."""
        return round(self.exercise.points * self.share, 2)


def call(function: Function, inputs: Mapping[str, Any], seconds: float, gradients: Sequence[str] = ()) -> Outcome:
    """One call with copies of `inputs` by name, under a time limit, its output caught, random state restored."""
    given = deepcopy(dict(inputs))
    leaves = {name: given[name].requires_grad_() for name in gradients}
    arguments = resolve({**given, **{name: leaf.clone() for name, leaf in leaves.items()}})
    before = {name: bits(value) for name, value in arguments.items()}
    output = io.StringIO()
    try:
        inspect.signature(function).bind(**arguments)
    except (TypeError, ValueError) as error:
        return Outcome(fault=f"cannot be called with {', '.join(inputs)} ({error}): keep the stub's names", kind="call")
    try:
        with random_state_kept(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            raw = run_limited(lambda: keep(function(**arguments), leaves), seconds)
    except KeyboardInterrupt:
        raise
    except TimeLimit:
        return Outcome(fault=f"ran longer than {seconds:g} s", kind="timeout", printed=output.getvalue())
    except InputError as error:
        if not getattr(error, "not_plain", False):
            return Outcome(fault=in_words(error), kind="raised InputError", printed=output.getvalue())
        return Outcome(fault=f"returned {error}", kind="not plain", printed=output.getvalue())
    except BaseException as error:  # SystemExit too: whatever a function does costs its exercise, not the notebook
        return Outcome(fault=in_words(error), kind=f"raised {type(error).__name__}", printed=output.getvalue())
    value, slopes = raw
    mutated = tuple(name for name in inputs if bits(arguments[name]) != before[name])
    return Outcome(value, slopes, mutated, printed=output.getvalue())


def keep(result: Any, leaves: Mapping[str, torch.Tensor]) -> tuple[Any, dict[str, Any]]:
    """The result as plain data, and the gradient of a fixed weighted sum of it with respect to `leaves`."""
    slopes: dict[str, Any] = dict.fromkeys(leaves)
    if leaves and isinstance(result, torch.Tensor) and result.requires_grad:
        weights = torch.cos(torch.arange(result.numel(), dtype=result.dtype)).reshape(result.shape)
        found = torch.autograd.grad((result * weights).sum(), list(leaves.values()), allow_unused=True)
        slopes = dict(zip(leaves, (freeze(g) for g in found), strict=True))
    try:
        return freeze(result), slopes
    except InputError as error:
        error.not_plain = True  # type: ignore[attr-defined]
        raise


def bits(value: Any) -> Any:
    """What an argument holds, to see afterwards whether it has been changed (None for a function)."""
    try:
        form, arrays = pack(value)
    except InputError:
        return None
    return form, {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}


def in_words(error: BaseException) -> str:
    """ "raised ValueError: text", one line."""
    text = " ".join(str(error).split())
    return f"raised {type(error).__name__}" + (f": {text[:200]}" if text else "")


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave all random generators as they were, so that checking changes no later number in the notebook."""
    ours, numpys, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)


def difference(expected: Outcome, got: Outcome, exercise: Exercise) -> str | None:
    """None if `got` is as expected, else one line."""
    if got.fault:
        return got.fault
    if got.kind != expected.kind:
        return got.kind
    message = compare(expected.value, got.value, exercise.rtol, exercise.atol)
    if message:
        return message
    if got.mutated:
        return f"right, but it changed its input `{got.mutated[0]}` in place: work on a copy"
    for name, slope in expected.gradients.items():
        if got.gradients.get(name) is None:
            return (
                f"the value is right, but no gradient reaches `{name}`: .item(), .detach(), .data and numpy cut it off"
            )
        message = compare(slope, got.gradients[name], max(exercise.rtol, 1e-3), max(exercise.atol, 1e-5))
        if message:
            return f"the value is right, the gradient with respect to `{name}` is not: {message}"
    return None


def same_mistake(stored: Outcome, got: Outcome, exercise: Exercise) -> bool:
    """Whether `got` is what a known wrong answer gave."""
    if stored.kind != got.kind or stored.mutated != got.mutated:
        return False
    if stored.kind != "value":
        return True
    return compare(stored.value, got.value, exercise.rtol, exercise.atol) is None and all(
        compare(slope, got.gradients.get(name), exercise.rtol, exercise.atol) is None
        for name, slope in stored.gradients.items()
    )


def judge(checks: Checks, got: Sequence[Outcome]) -> Verdict:
    """Compare outcomes, one a case (fewer when a case ran out of time), with the stored ones."""
    exercise = checks.exercise
    faults = [difference(case.expected, outcome, exercise) for case, outcome in zip(checks.cases, got, strict=False)]
    faults += ["not run, since a case before it ran too long"] * (len(checks.cases) - len(got))
    failing = [i for i, fault in enumerate(faults) if fault]
    unseen = [i for i, case in enumerate(checks.cases) if not case.public]
    fresh = (len(set(unseen) - set(failing)), len(unseen)) if 0 < len(unseen) < len(checks.cases) else None
    printed = next((outcome.printed for outcome in got if outcome.printed), "")
    verdict = Verdict(exercise, len(checks.cases) - len(failing), len(checks.cases), printed=printed, fresh=fresh)
    if not failing:
        return verdict
    first = failing[0]
    message = f'"{checks.cases[first].name}": {faults[first]}'
    message += "" if message.endswith(("?", ".")) else "."
    # The mistake that gives the same on every case; else the first that gives the same wherever this one fails.
    for places in (range(len(got)), [i for i in failing if i < len(got)]):
        for number, words in enumerate(checks.messages):
            if all(same_mistake(checks.cases[i].wrong[number], got[i], exercise) for i in places):
                return replace(verdict, message=f"{message} {words}")
    return replace(verdict, message=message)


def check(function: Function, checks: Checks) -> Verdict:
    """Run `function` on the stored cases and word the result. Stops at the first case that runs out of time."""
    got: list[Outcome] = []
    for case in checks.cases:
        got.append(call(function, case.inputs, checks.exercise.seconds, checks.exercise.gradients))
        if got[-1].kind == "timeout":
            break
    return judge(checks, got)


def make_checks(exercise: Exercise, answers: Answers, seed: int, stub: str = "") -> Checks:
    """Draw cases from `seed` and run the solution and every wrong answer on them. Raises InputError if the
    solution itself fails, changes its inputs, or gives NaN."""
    if answers.cases is None or answers.solution is None:
        raise InputError(f"{exercise.id}: needs @cases and a solution")
    stored = []
    for case in answers.cases(np.random.default_rng(seed)):
        inputs = freeze(case.inputs)
        expected = call(answers.solution, inputs, exercise.seconds, exercise.gradients)
        fault = difference(expected, expected, exercise)
        if fault:
            raise InputError(f'{exercise.id}, case "{case.name}": the solution itself fails: {fault}')
        wrong = tuple(call(f, inputs, exercise.seconds, exercise.gradients) for _, _, f in answers.wrong)
        stored.append(StoredCase(case.name, inputs, expected, wrong))
    code = answers.solution.__code__
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return Checks(exercise, parameters, tuple(stored), tuple(message for _, message, _ in answers.wrong), stub)
