"""`@exercise` in a notebook: check the function at once, say what is wrong, and put a right one into the real model."""

import ast
import dis
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..errors import InputError, NotWritten
from .check import Checks, Function, Verdict, check
from .stored import find_checks

VERDICTS: dict[str, Verdict] = {}  # of this notebook, by exercise id, in order
REFERENCES: dict[str, Any] = {}  # target -> the package's own function, before a student's took its place


class Missing:
    """Stands for a function that has not been written yet and has no reference: falsy, and says so when called.

    removed: its reference was taken out, for a graded release. Cells then count on it, so it raises NotWritten."""

    def __init__(self, identifier: str, number: str, removed: bool = False) -> None:
        self.identifier, self.number, self.removed = identifier, number, removed

    def __bool__(self) -> bool:
        return False

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if self.removed:
            raise NotWritten(f"{self.identifier} is not written yet: see exercise {self.number}")
        print(f"{self.identifier}: not written yet, so there is nothing to run here: see exercise {self.number}")


def exercise(identifier: str, fallback: Function | None = None) -> Callable[[Function], Any]:
    """Check the decorated function on the stored cases, print the result, and return the function in force.

    Right: the function itself, which also replaces the package's own at the exercise's target. Not (yet) right: the
    package's reference; for a variant, which has none, `fallback`, or a `Missing` that says so when called."""

    def decorate(function: Function) -> Any:
        checks = find_checks(identifier)
        verdict = judge_here(function, checks)
        VERDICTS[identifier] = verdict
        in_force = function if verdict.solved else reference(checks, fallback)
        if checks.exercise.target:
            install(checks.exercise.target, in_force if verdict.solved else None)
        print(report(verdict, checks, in_force))
        return in_force

    return decorate


def judge_here(function: Function, checks: Checks) -> Verdict:
    """The verdict on a student's function in this process; an untouched stub is not run."""
    if untouched(function, checks.stub):
        return Verdict(checks.exercise, 0, len(checks.cases), attempted=False)
    return check(function, checks)


def untouched(function: Function, stub: str) -> bool:
    """Whether `function` still is the stub: its source equals the stub's, or it does nothing but return None."""
    if not hasattr(function, "__code__"):
        return False
    idle = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE", "CACHE"}
    steps = list(dis.get_instructions(function))
    returned = [s.argval for s in steps if s.opname in ("LOAD_CONST", "RETURN_CONST")]
    if {s.opname for s in steps} <= idle and returned == [None] * len(returned):
        return True
    try:
        source = inspect.getsource(function)
    except OSError:  # defined where Python keeps no source
        return False
    return bool(stub) and normal(source) == normal(stub)


def normal(source: str) -> str:
    """Source without comments, blank lines and layout; unchanged if it is no Python."""
    try:
        return ast.unparse(ast.parse(textwrap.dedent(source)))
    except SyntaxError:
        return source


def reference(checks: Checks, fallback: Function | None) -> Any:
    """What a notebook goes on with while the exercise is unsolved."""
    exercise = checks.exercise
    if exercise.target and not checks.removed:
        return REFERENCES.get(exercise.target) or current(exercise.target)
    if checks.removed:  # and with it what a notebook would have fallen back on
        return Missing(exercise.id, exercise.number, removed=True)
    return fallback or Missing(exercise.id, exercise.number)


def owner_of(target: str) -> tuple[Any, str]:
    """ "omni_lab.clip:info_nce" -> (the module or class that holds it, "info_nce"). Raises InputError."""
    module_name, _, path = target.partition(":")
    *parents, name = path.split(".")
    owner: Any = importlib.import_module(module_name)
    for parent in parents:
        owner = getattr(owner, parent, None)
    if not name or not hasattr(owner, name):
        raise InputError(f"{target}: there is no such function in the package")
    return owner, name


def current(target: str) -> Any:
    """The function at `target` now."""
    owner, name = owner_of(target)
    return getattr(owner, name)


def install(target: str, function: Function | None) -> None:
    """Put `function` (None: the reference) at `target`, and wherever the package had imported the one before it."""
    owner, name = owner_of(target)
    before = getattr(owner, name)
    REFERENCES.setdefault(target, before)
    after = REFERENCES[target] if function is None else function
    setattr(owner, name, after)
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] == "omni_lab" and isinstance(module, ModuleType):
            for attribute, value in list(vars(module).items()):
                if value is before:
                    setattr(module, attribute, after)


def restore() -> None:
    """Put every reference back and forget all results (for tests, and for a notebook that starts afresh)."""
    for target in REFERENCES:
        install(target, None)
    VERDICTS.clear()


def report(verdict: Verdict, checks: Checks, in_force: Any) -> str:
    """What the student reads below the cell."""
    exercise = verdict.exercise
    score = f"{verdict.points:g} of {exercise.points:g} points"
    if exercise.target and not isinstance(in_force, Missing):
        going_on = "continuing with the reference"
    elif isinstance(in_force, Missing):
        going_on = "continuing without it"
    else:
        going_on = "continuing with a stand-in"
    if not verdict.attempted:
        return f"{exercise.id}: not attempted: {going_on}, {score}."
    lines = []
    if verdict.solved:
        end = "Nothing in the package does this."
        if exercise.target:
            end = "From here on the model runs with your function."
        elif exercise.holds:
            end = "The package has its own way of doing this and keeps it."
        lines.append(f"{exercise.id}: {verdict.passed} of {verdict.total} cases, {score}. {end}")
    else:
        lines.append(f"{exercise.id}: {verdict.passed} of {verdict.total} cases. {verdict.message}")
        lines.append(f"({score} so far; {going_on}.)")
    if verdict.printed:
        lines += ["Your function printed:", textwrap.indent(shorten(verdict.printed), "    ")]
    return "\n".join(lines)


def shorten(text: str, lines: int = 10, width: int = 200) -> str:
    """The first lines of a text, each cut to `width`, and how many were left out."""
    kept = [line[:width] for line in text.splitlines()[:lines]]
    more = len(text.splitlines()) - lines
    return "\n".join(kept + ([f"... and {more} lines more"] if more > 0 else []))


def summary() -> None:
    """Print a table of the notebook's exercises and the points so far."""
    if not VERDICTS:
        print("No exercise has been run yet.")
        return
    width = max(len(i) for i in VERDICTS)
    for identifier, verdict in VERDICTS.items():
        state = "solved" if verdict.solved else f"{verdict.passed} of {verdict.total} cases"
        state = state if verdict.attempted else "not attempted"
        score = f"{verdict.points:5g} of {verdict.exercise.points:g}"
        print(f"{verdict.exercise.number:>5}  {identifier:<{width}}  {state:<14} {score}")
    earned = sum(v.points for v in VERDICTS.values())
    print(f"Total: {earned:g} of {sum(v.exercise.points for v in VERDICTS.values()):g} points.")
