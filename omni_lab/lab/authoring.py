"""What `solutions/exercises/NN_name.py` is written with: exercises, cases, plausible wrong answers. Trusted code.

    EXERCISES = [Exercise("clip.info_nce", "1.3", "InfoNCE", points=10, ...)]

    @cases("clip.info_nce")
    def _(rng): return [Case("rows scaled by 7", queries=..., keys=..., temperature=0.07), ...]

    @wrong("clip.info_nce", "The loss must not change when a vector is scaled: normalise both sides first.")
    def no_normalisation(queries, keys, temperature): ...

    @also_right("clip.info_nce")
    def by_float64(queries, keys, temperature): ...

`load_lab(path)` reads such a file together with the solutions in the lab's source, for the checks and the grader.
"""

import ast
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError

Function = Callable[..., Any]


@dataclass(frozen=True)
class Exercise:
    """What is known of an exercise without its answer; stored with the checks and shown in the notebook."""

    id: str  # "clip.info_nce"
    number: str  # "1.3", as in the heading
    title: str
    points: float
    difficulty: int  # 1 to 3
    minutes: int  # for a student who has understood the cells before
    target: str | None = None  # "omni_lab.clip:info_nce", or None for a variant, whose answer stands nowhere
    holds: tuple[str, ...] = ()  # of a variant: what in the package would answer it; a graded release takes it out
    rtol: float = 1e-4
    atol: float = 1e-6
    seconds: float = 10.0  # that one case may take
    gradients: tuple[str, ...] = ()  # inputs through which the gradient must flow, and is compared too
    hints: tuple[str, ...] = ()  # first a question, then the first line


class Case:
    """One named call of the student's function: its arguments by name, all plain data (see `plain.py`)."""

    def __init__(self, name: str, /, **inputs: Any) -> None:
        self.name, self.inputs = name, inputs


@dataclass
class Answers:
    """The instructor's side of one exercise."""

    cases: Callable[[np.random.Generator], list[Case]] | None = None
    wrong: list[tuple[str, str, Function]] = field(default_factory=list)  # (name, message, function)
    also_right: list[tuple[str, Function]] = field(default_factory=list)
    solution: Function | None = None


@dataclass(frozen=True)
class Lab:
    """One lab as its author wrote it: exercises in order, and each one's answers."""

    name: str  # "01_clip"
    exercises: tuple[Exercise, ...]
    answers: dict[str, Answers]

    @property
    def number(self) -> str:
        """The lab's two digits: "01"."""
        return self.name.split("_")[0]


OPEN: list[dict[str, Answers]] = []  # the file being loaded: what the decorators below write to


def answers_of(identifier: str) -> Answers:
    """The answers of one exercise of the file that is being loaded."""
    if not OPEN:
        OPEN.append({})  # imported by hand, outside load_lab: the decorators then do no harm
    return OPEN[-1].setdefault(identifier, Answers())


def cases(identifier: str) -> Callable[[Function], Function]:
    """Mark the function (rng) -> list[Case] that draws the cases of an exercise, from `rng` only."""

    def mark(function: Function) -> Function:
        answers_of(identifier).cases = function
        return function

    return mark


def wrong(identifier: str, message: str) -> Callable[[Function], Function]:
    """Mark a plausible wrong answer, with the sentence that a student who makes this mistake shall read."""

    def mark(function: Function) -> Function:
        answers_of(identifier).wrong.append((function.__name__, message, function))
        return function

    return mark


def also_right(identifier: str) -> Callable[[Function], Function]:
    """Mark a correct answer that is written differently: the check must accept it."""

    def mark(function: Function) -> Function:
        answers_of(identifier).also_right.append((function.__name__, function))
        return function

    return mark


def load_lab(exercises: Path, source: Path | None = None) -> Lab:
    """Read `solutions/exercises/NN_name.py` and, beside its folder, the source `solutions/NN_name.py`.

    Raises InputError when a file is missing or the two disagree."""
    source = source or exercises.parent.parent / exercises.name
    for path in (exercises, source):
        if not path.is_file():
            raise InputError(f"{path}: no such file; a lab needs its source and its exercises file")
    spec = importlib.util.spec_from_file_location(f"omni_lab_exercises_{exercises.stem}", exercises)
    if spec is None or spec.loader is None:
        raise InputError(f"{exercises}: cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    OPEN.append({})
    try:
        # Never from byte code, which is dated by the second: a file changed twice within one would be read as it was.
        exec(compile(exercises.read_bytes(), str(exercises), "exec"), module.__dict__)
        answers = OPEN[-1]
    finally:
        OPEN.pop()
    listed = tuple(getattr(module, "EXERCISES", ()))
    if unknown := set(answers) - {e.id for e in listed}:
        raise InputError(f"{exercises}: cases or answers for {sorted(unknown)[0]}, which EXERCISES does not list")
    solved = solutions(source)
    for exercise in listed:
        if exercise.id not in solved:
            raise InputError(f'{source}: no cell with @exercise("{exercise.id}"), which {exercises.name} lists')
        answers.setdefault(exercise.id, Answers()).solution = solved[exercise.id]
        if answers[exercise.id].cases is None:
            raise InputError(f"{exercises}: no @cases for {exercise.id}")
    if extra := set(solved) - {e.id for e in listed}:
        raise InputError(f'{source}: @exercise("{sorted(extra)[0]}") is not listed in {exercises.name}')
    return Lab(exercises.stem, listed, answers)


def exercise_id(node: ast.AST) -> str | None:
    """The id in the decorator `@exercise("id")` of a function, if it has one."""
    for decorator in getattr(node, "decorator_list", ()):
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "exercise" and decorator.args:
            return ast.literal_eval(decorator.args[0])
    return None


def solutions(source: Path) -> dict[str, Function]:
    """The solved functions of a lab's source by exercise id, without running the lab.

    Only the source's imports, functions, classes and constants (plain literals) are executed: enough for an answer,
    and no training. An answer that needs more fails here by NameError when it is called."""
    tree = ast.parse(source.read_text(encoding="utf-8"), str(source))
    kept: list[ast.stmt] = []
    names: dict[str, str] = {}
    for node in tree.body:
        identifier = exercise_id(node)
        if identifier is not None and isinstance(node, ast.FunctionDef):
            node.decorator_list = []
            names[identifier] = node.name
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)) or is_constant(node):
            kept.append(node)
    namespace: dict[str, Any] = {"__name__": f"omni_lab_solutions_{source.stem}"}
    exec(compile(ast.Module(kept, []), str(source), "exec"), namespace)
    return {identifier: namespace[name] for identifier, name in names.items()}


def is_constant(node: ast.stmt) -> bool:
    """Whether a statement gives a name a literal value."""
    if not isinstance(node, ast.Assign):
        return False
    try:
        ast.literal_eval(node.value)
    except ValueError:
        return False
    return True
