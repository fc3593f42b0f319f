"""What students get: notebooks, package and data, without solutions, graders' cases, or the answers to graded
exercises.

The same source gives the same bytes: files in order, one fixed date, one fixed mode. A manifest lists every file's
hash.
"""

import ast
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .. import __version__
from ..errors import InputError
from ..lab.build import lab_of, lab_sources, notebook, number_of, write_notebook
from ..lab.stored import read_checks, write_checks

DATE = (2025, 3, 26, 0, 0, 0)  # of every entry of the zip: the day of the report
WITH_IT = ("pyproject.toml", "environment.yml", "README.md", "LICENSE", "requirements.lock", "Makefile")
_LEFT_OUT = ("grading", "__pycache__")  # of the package


def write_package(root: Path, target: Path, sources: Iterable[Path]) -> list[str]:
    """Copy `root`/omni_lab to `target`/omni_lab without the bodies of the graded exercises of `sources`.

    Returns the targets whose bodies were taken out. Raises InputError if one cannot be found."""
    package = target / "omni_lab"
    shutil.copytree(root / "omni_lab", package, ignore=lambda _, names: [n for n in names if _unwanted(n)])
    removed = []
    for source in sources:
        exercises = [e for e in lab_of(source).exercises if e.target]
        for exercise in exercises:
            module, _, name = str(exercise.target).partition(":")
            path = target / (module.replace(".", "/") + ".py")
            if not path.is_file():
                raise InputError(f"{exercise.id}: its target {exercise.target} lies in no file of the package")
            path.write_text(without_body(path.read_text(encoding="utf-8"), name, exercise.id), encoding="utf-8")
            removed.append(str(exercise.target))
        number = number_of(source)
        if (package / "lab" / "checks" / f"{number}.json").is_file():
            stored = read_checks(number, package / "lab" / "checks").values()
            changed = [replace(c, removed=True) if c.exercise.target else c for c in stored]
            write_checks(number, changed, package / "lab" / "checks")
    return removed


def _unwanted(name: str) -> bool:
    return name in _LEFT_OUT or name.startswith(".") or name.endswith((".pyc", ".tmp"))


def without_body(text: str, name: str, identifier: str) -> str:
    """Source `text` with the body of function `name` ("f" or "Class.f") replaced by a clear error. Signature and
    docstring stay. Raises InputError if there is no such function."""
    node: ast.AST | None = ast.parse(text)
    for part in name.split("."):
        body = getattr(node, "body", [])
        matching = [n for n in body if getattr(n, "name", None) == part]
        node = matching[-1] if matching else None
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        raise InputError(f"{identifier}: its target {name} is no function of the package")
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str)
    lines = text.split("\n")
    start = (first.end_lineno if documented else first.lineno - 1) or 0
    if not documented and first.lineno == node.lineno:
        raise InputError(f"{identifier}: the body of {name} stands on the line of its signature")
    indent = " " * first.col_offset
    words = f"{identifier} is a graded exercise: this release holds no answer to it; write yours in the notebook"
    lines[start : node.end_lineno] = [f"{indent}raise RuntimeError({json.dumps(words)})"]
    return "\n".join(lines)


def release(root: Path, labs: list[str], out: Path) -> dict:
    """Write the folder `out`/omni_lab_course and the zip beside it; returns the manifest. Raises InputError."""
    sources = lab_sources(root, labs)
    folder = out / "omni_lab_course"
    if folder.exists():
        raise InputError(f"{folder}: there already; remove it or choose another --out")
    working = out / f".release-{__version__}"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    try:
        removed = write_package(root, working, sources)
        for source in sources:
            write_notebook(working / "notebooks" / f"{source.stem}.ipynb", notebook(source, solved=False))
        if (root / "notebooks" / "figures").is_dir():
            shutil.copytree(root / "notebooks" / "figures", working / "notebooks" / "figures")
        if (root / "data_samples").is_dir():
            shutil.copytree(
                root / "data_samples", working / "data_samples", ignore=lambda _, n: [x for x in n if _unwanted(x)]
            )
        for name in WITH_IT:
            if (root / name).is_file():
                shutil.copyfile(root / name, working / name)
        manifest = {"version": __version__, "labs": [s.stem for s in sources], "removed": sorted(removed),
                    "files": {name: _digest(working / name) for name in _files(working)}}  # fmt: skip
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        (working / "MANIFEST.json").write_text(text, encoding="utf-8")
        _write_zip(working, out / "omni_lab_course.zip")
        working.rename(folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return manifest


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_zip(folder: Path, target: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _files(folder):
            entry = zipfile.ZipInfo(f"omni_lab_course/{name}", DATE)
            entry.external_attr, entry.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, (folder / name).read_bytes())
    temporary = target.with_name(f".{target.name}")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(target)
