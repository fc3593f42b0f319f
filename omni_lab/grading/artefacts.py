"""Trained artefacts: a student hands in weights or predictions as a safetensors file, the grader measures them itself.

Nothing that a notebook says about its own accuracy counts. The file holds named arrays and no code; names, types and
shapes must be those that the exercise asks for; the metric is computed here, on hidden data with hidden labels. An
exercises file lists such exercises beside `EXERCISES`:

    ARTEFACTS = [Artefact("toy.line", "90.4", "A trained line", points=10, file="line.safetensors",
                          arrays={"weight": ("float32", (2,))}, metric=accuracy, steps=((0.8, 0.5), (0.95, 1.0)))]
"""

import hashlib
import math
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..errors import InputError
from .sanitise import InvalidSubmission, read_regular_file

ENDING = ".safetensors"
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Artefact:
    """An exercise whose answer is a file of arrays. Its id stands in the gradebook beside the other exercises'."""

    id: str  # "toy.line"
    number: str  # "90.4", as in the heading
    title: str
    points: float
    file: str  # "line.safetensors": what the notebook saves, and what is handed in beside it
    arrays: dict[str, tuple[str, tuple[int, ...]]]  # name -> (type, shape), all of them and no others
    metric: Callable[[dict[str, Tensor], np.random.Generator], float]  # on data drawn from it; more is better
    steps: tuple[tuple[float, float], ...]  # (metric at least, share of the points), both rising


def load_artefacts(source: Path) -> dict[str, Artefact]:
    """The artefacts that a lab asks for, by id; none for a lab without. `source`: solutions/NN_name.py. Raises
    InputError."""
    path = source.parent / "exercises" / source.name
    if "ARTEFACTS" not in path.read_text(encoding="utf-8"):
        return {}
    module = types.ModuleType(f"omni_lab_artefacts_{source.stem}")
    module.__file__ = str(path)
    # Not imported: byte code is dated by the second, and a file may change twice in one.
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    found = {artefact.id: artefact for artefact in module.ARTEFACTS}
    for artefact in found.values():
        shares = [share for _, share in artefact.steps]
        if not shares or list(artefact.steps) != sorted(artefact.steps) or sorted(shares) != shares or shares[-1] != 1:
            raise InputError(f"{artefact.id}: its steps must rise to the full share 1.0, and are {artefact.steps}")
    return found


def choose_file(artefact: Artefact, files: list[Path]) -> Path | None:
    """The file that answers `artefact`: by its name, also where a platform has put something before it or "-1" behind
    it; of several the last by name."""
    stem = re.escape(artefact.file.removesuffix(ENDING))
    named = re.compile(rf"(?:.*_)?{stem}(?:-\d+)?{re.escape(ENDING)}", re.IGNORECASE)
    fitting = sorted((path for path in files if named.fullmatch(path.name)), key=lambda path: path.name)
    return fitting[-1] if fitting else None


def read_arrays(raw: bytes, artefact: Artefact) -> dict[str, Tensor]:
    """The file's arrays, checked one by one. Raises InvalidSubmission, worded for the student."""
    try:
        found = load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InvalidSubmission(f"{artefact.file}: no safetensors file ({type(error).__name__})") from None
    if set(found) != set(artefact.arrays):
        listed = ", ".join(sorted(name[:40] for name in found)[:8]) or "nothing"
        raise InvalidSubmission(f"{artefact.file}: holds {listed}; expected {', '.join(sorted(artefact.arrays))}")
    for name, (dtype, shape) in artefact.arrays.items():
        got = found[name]
        if str(got.dtype) != f"torch.{dtype}" or tuple(got.shape) != shape:
            told = f"{str(got.dtype).removeprefix('torch.')} of shape {tuple(got.shape)}"
            raise InvalidSubmission(f"{artefact.file}: {name} is {told}; expected {dtype} of shape {shape}")
        if got.is_floating_point() and not bool(torch.isfinite(got).all()):
            raise InvalidSubmission(f"{artefact.file}: {name} holds NaN or infinity")
    return found


def grade_artefact(artefact: Artefact, raw: bytes | None, seed: int) -> dict:
    """{"points", "max_points", "status", "message"} of one artefact; raw: the file's bytes, None: not handed in."""
    entry = {"points": 0.0, "max_points": artefact.points, "status": "missing",
             "message": f"{artefact.file} was not handed in"}  # fmt: skip
    if raw is None:
        return entry
    own = int.from_bytes(hashlib.sha256(f"{seed}:{artefact.id}".encode()).digest()[:8], "big")
    try:
        arrays = read_arrays(raw, artefact)
        value = float(artefact.metric(arrays, np.random.default_rng(own)))
    except InvalidSubmission as error:
        return {**entry, "status": "invalid", "message": str(error)}
    except (ArithmeticError, IndexError, ValueError, RuntimeError) as error:
        message = f"{artefact.file}: could not be measured ({type(error).__name__})"
        return {**entry, "status": "invalid", "message": message}
    reached = [share for least, share in artefact.steps if math.isfinite(value) and value >= least]
    share = max(reached, default=0.0)
    message = f"{value:.4g} on hidden data; full points from {artefact.steps[-1][0]:g}"
    return {**entry, "points": round(artefact.points * share, 2), "status": "ok" if share == 1 else "wrong",
            "message": message}  # fmt: skip


def read_artefacts(artefacts: dict[str, Artefact], files: list[Path]) -> tuple[dict[str, bytes], dict[str, str]]:
    """(bytes by artefact, faults by artefact) of what was handed in; links, pipes and huge files are refused unread."""
    contents, faults = {}, {}
    for identifier, artefact in artefacts.items():
        path = choose_file(artefact, files)
        try:
            if path is not None:
                contents[identifier] = read_regular_file(path, MAX_BYTES)
        except InvalidSubmission as error:
            faults[identifier] = f"{artefact.file}: {error}"
    return contents, faults


def grade_artefacts(
    artefacts: dict[str, Artefact], contents: dict[str, bytes], faults: dict[str, str], seed: int
) -> dict[str, dict]:
    """An entry for each artefact of the lab, for the gradebook."""
    graded = {}
    for identifier, artefact in artefacts.items():
        graded[identifier] = grade_artefact(artefact, contents.get(identifier), seed)
        if identifier in faults:
            graded[identifier] |= {"status": "invalid", "message": faults[identifier]}
    return graded
