"""What the grader knows and no submission ever sees: cases drawn from a secret seed, and what is right on them."""

import ast
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..lab.authoring import exercise_id
from ..lab.build import lab_of, lab_sources, stub_functions
from ..lab.check import Checks, make_checks
from .artefacts import Artefact, load_artefacts
from .inside import wire


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
        # A seed of its own each, so that a case added to one exercise changes no other's.
        own = int.from_bytes(hashlib.sha256(f"{seed}:{exercise.id}".encode()).digest()[:8], "big")
        checks[exercise.id] = made = make_checks(exercise, lab.answers[exercise.id], own, stubs[exercise.id])
        for index, case in enumerate(made.cases):
            line = {"exercise": exercise.id, "case": index, "nonce": _nonce(seed, exercise.id, index),
                    "inputs": wire.encode(case.inputs), "seconds": exercise.seconds,
                    "gradients": list(exercise.gradients)}  # fmt: skip
            lines.append(json.dumps(line).encode() + b"\n")
    return Hidden(source.stem, seed, checks, function_names(source), b"".join(lines), load_artefacts(source))


def _nonce(seed: int, exercise: str, case: int) -> str:
    return hmac.new(str(seed).encode(), f"{exercise}/{case}".encode(), "sha256").hexdigest()[:24]


def function_names(source: Path) -> dict[str, str]:
    """Exercise id -> name of the function that carries it in the lab's source."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {identifier: node.name for node in functions if (identifier := exercise_id(node)) is not None}
