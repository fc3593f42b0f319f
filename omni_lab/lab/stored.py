"""The checks of a lab on disk: `checks/NN.json` and `checks/NN.npz`, made by `omni-lab notebooks build`.

They hold cases, expected outcomes and what known mistakes give, never a function. The same lab gives the same bytes.
The JSON names the hash of its arrays: of a build that was killed between the two files nothing is read.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .authoring import Exercise
from .check import Checks, Outcome, StoredCase
from .compare import compare
from .plain import pack, unpack

FOLDER = Path(__file__).parent / "checks"
FORMAT = 1


def to_plain(checks: Checks) -> dict[str, Any]:
    """One exercise's checks as plain data."""
    return {
        "exercise": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(checks.exercise).items()},
        "parameters": list(checks.parameters),
        "stub": checks.stub,
        "removed": checks.removed,
        "messages": list(checks.messages),
        "cases": [
            {
                "name": case.name,
                "inputs": case.inputs,
                "expected": case.expected.stored(),
                "wrong": [outcome.stored() for outcome in case.wrong],
            }
            for case in checks.cases
        ],
    }


def from_plain(raw: Mapping[str, Any]) -> Checks:
    """What `to_plain` was given."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw["exercise"].items()}
    stored = tuple(
        StoredCase(
            case["name"],
            case["inputs"],
            Outcome.read(case["expected"]),
            tuple(Outcome.read(outcome) for outcome in case["wrong"]),
        )
        for case in raw["cases"]
    )
    messages, parameters = tuple(raw["messages"]), tuple(raw["parameters"])
    return Checks(Exercise(**fields), parameters, stored, messages, raw["stub"], raw["removed"])


def folder_of(course: Path) -> Path:
    """Where the checks of the course in that folder lie: in its own copy of the package, else in this one."""
    own = course / "omni_lab" / "lab"
    return own / FOLDER.name if own.is_dir() else FOLDER


def write_checks(number: str, checks: Iterable[Checks], folder: Path = FOLDER) -> None:
    """Write `NN.json` and `NN.npz` (each atomically)."""
    form, arrays = pack({"format": FORMAT, "exercises": [to_plain(c) for c in checks]})
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # np.savez, but with fixed times and no compression: the same bytes
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue())
    form = {"arrays": hashlib.sha256(buffer.getvalue()).hexdigest(), **form}
    replace_file(folder / f"{number}.npz", buffer.getvalue())
    replace_file(folder / f"{number}.json", (json.dumps(form, indent=1, ensure_ascii=False) + "\n").encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write all of `content` or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


@cache
def read_checks(number: str, folder: Path = FOLDER) -> dict[str, Checks]:
    """The checks of lab NN by exercise id. Raises DataError for a missing or damaged file."""
    path = folder / f"{number}.json"
    try:
        form = json.loads(path.read_text(encoding="utf-8"))
        packed = path.with_suffix(".npz").read_bytes()
        own = hashlib.sha256(packed).hexdigest()
        if form["arrays"] != own:
            raise DataError(
                f"{number}.npz does not belong to {path}: run `omni-lab notebooks build` to make both again"
            )
        with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
            raw = unpack(form, {name: archive[name] for name in archive.files})
        if raw["format"] != FORMAT:
            raise DataError(f"{path}: format {raw['format']}, expected {FORMAT}: run `omni-lab notebooks build`")
        found = [from_plain(r) for r in raw["exercises"]]
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; run `omni-lab notebooks build` to make it") from error
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged checks ({error}); run `omni-lab notebooks build` to make it again") from error
    return {checks.exercise.id: checks for checks in found}


def find_checks(identifier: str, folder: Path = FOLDER) -> Checks:
    """The checks of one exercise, whichever lab it belongs to. Raises DataError if there are none."""
    for path in sorted(folder.glob("*.json")):
        found = read_checks(path.stem, folder)
        if identifier in found:
            return found[identifier]
    raise DataError(f"no checks for exercise {identifier!r}: run `omni-lab notebooks build`")


def differs(fresh: Iterable[Checks], stored: Mapping[str, Checks]) -> str | None:
    """None if the stored checks are what the sources give now, else what differs. Numbers may differ in the last
    digits, since another machine rounds otherwise."""
    listed = [c.exercise.id for c in fresh]
    if listed != list(stored):
        return f"exercises {', '.join(stored) or 'none'}; the source has {', '.join(listed)}"
    for checks in fresh:
        old = stored[checks.exercise.id]
        message = compare(to_plain(old), to_plain(checks), 1e-3, 1e-5)
        if message:
            return f"{checks.exercise.id}: {message}"
    return None
