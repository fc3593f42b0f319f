"""What the grader knows and no submission ever sees: cases drawn from a secret seed, and what is right on them."""

import ast
import hashlib
import hmac
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..lab.authoring import Answers, Exercise, exercise_id
from ..lab.build import SEED, lab_of, lab_sources, stub_functions
from ..lab.check import Checks, make_checks
from ..lab.compare import compare
from ..lab.plain import freeze
from .artefacts import Artefact, load_artefacts
from .inside import wire

FRESH = 3  # cases of an exercise, at least, that no notebook holds
DRAWS = 16  # tries for as many


@dataclass(frozen=True)
class Hidden:
    """One lab, ready to grade."""

    lab: str  # "01_clip"
    seed: int
    checks: dict[str, Checks]  # by exercise id, in the lab's order; computed here by the reference
    functions: dict[str, str]  # exercise id -> name of its function
    cases: bytes  # the file that goes into the sandbox: inputs only, one line a case
    artefacts: dict[str, Artefact] = field(default_factory=dict)  # trained files that the lab asks for, by id

    def nonce(self, exercise: str, case: int) -> str:
        """Marks a line of results as the answer to this very case."""
        return _nonce(self.seed, exercise, case)


def find_lab(root: Path, number: str) -> Path:
    """The source of lab `number` ("01" or "01_clip") in the course at `root`. Raises InputError."""
    return lab_sources(root, [number])[0]


def draw(source: Path, seed: int) -> Hidden:
    """Draw every exercise's cases from `seed` and run the reference on them. Raises InputError for a lab without
    any."""
    lab = lab_of(source)
    if not lab.exercises:
        raise InputError(f"{source.name}: has no graded exercises")
    stubs = stub_functions(source)
    checks, lines = {}, []
    for exercise in lab.exercises:
        answers = lab.answers[exercise.id]
        own, public = enough_fresh(exercise, answers, seed)
        made = make_checks(exercise, answers, own, stubs[exercise.id])
        marked = (replace(case, public=seen) for case, seen in zip(made.cases, public, strict=True))
        checks[exercise.id] = made = replace(made, cases=tuple(marked))
        for index, case in enumerate(made.cases):
            line = {"exercise": exercise.id, "case": index, "nonce": _nonce(seed, exercise.id, index),
                    "inputs": wire.encode(case.inputs), "seconds": exercise.seconds,
                    "gradients": list(exercise.gradients)}  # fmt: skip
            lines.append(json.dumps(line).encode() + b"\n")
    return Hidden(source.stem, seed, checks, function_names(source), b"".join(lines), load_artefacts(source))


def enough_fresh(exercise: Exercise, answers: Answers, seed: int) -> tuple[int, list[bool]]:
    """(The seed of an exercise's cases, of each whether the notebooks' own check holds it too, answer and all).

    A seed of its own each, so that a case added to one exercise changes no other's; and another one where a draw has
    by chance, as small whole numbers do, too few cases that nobody has seen."""
    stored = _inputs(answers, SEED)
    for again in ("", *(f":{number}" for number in range(1, DRAWS))):
        digest = hashlib.sha256(f"{seed}:{exercise.id}{again}".encode()).digest()
        own = int.from_bytes(digest[:8], "big")
        public = [any(compare(old, new) is None for old in stored) for new in _inputs(answers, own)]
        if public.count(False) >= FRESH:
            break
    return own, public


def _inputs(answers: Answers, seed: int) -> list[dict]:
    assert answers.cases is not None  # `load_lab` has seen to it
    return [freeze(case.inputs) for case in answers.cases(np.random.default_rng(seed))]


def _nonce(seed: int, exercise: str, case: int) -> str:
    return hmac.new(str(seed).encode(), f"{exercise}/{case}".encode(), "sha256").hexdigest()[:24]


def function_names(source: Path) -> dict[str, str]:
    """Exercise id -> name of the function that carries it in the lab's source."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {identifier: node.name for node in functions if (identifier := exercise_id(node)) is not None}
