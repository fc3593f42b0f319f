"""What students get: a lab's notebook, package and data, without solutions, graders' cases, or the answers to graded
exercises. One lab each: a student's own functions are at work only in the notebook that defines them, so a package
without the answers of all labs would never run.

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

from nbformat import NotebookNode

from .. import __version__
from ..errors import InputError
from ..lab.authoring import Exercise
from ..lab.bootstrap import release_cell_source
from ..lab.build import lab_of, lab_sources, notebook, number_of, write_notebook
from ..lab.stored import read_checks, write_checks

DATE = (2025, 3, 26, 0, 0, 0)  # of every entry of the zip: the day of the report
WITH_IT = ("pyproject.toml", "environment.yml", "README.md", "LICENSE", "requirements.lock", "Makefile")
_LEFT_OUT = ("grading", "__pycache__")  # of the package


def write_package(root: Path, target: Path, sources: Iterable[Path]) -> list[str]:
    """Copy `root`/omni_lab to `target`/omni_lab without the bodies of the graded exercises of `sources`, and without
    what would answer their variants (`Exercise.holds`).

    Returns the functions whose bodies were taken out. Raises InputError if one cannot be found."""
    package = target / "omni_lab"
    shutil.copytree(root / "omni_lab", package, ignore=lambda _, names: [n for n in names if _unwanted(n)])
    removed = []
    for source in sources:
        exercises = lab_of(source).exercises
        holds = {answer for exercise in exercises for answer in exercise.holds}
        for identifier, answer in [(e.id, answer) for e in exercises for answer in answers_in_the_package(e)]:
            module, _, name = answer.partition(":")
            path = target / (module.replace(".", "/") + ".py")
            if not path.is_file():
                raise InputError(f"{identifier}: its target {answer} lies in no file of the package")
            words = f"{identifier} is a graded exercise: this release holds no answer to it; write it in the notebook"
            if answer in holds:
                words = f"`{name}` would answer {identifier}, a graded exercise: this release leaves it out"
            path.write_text(without_body(path.read_text(encoding="utf-8"), name, identifier, words), encoding="utf-8")
            removed.append(answer)
        number = number_of(source)
        if (package / "lab" / "checks" / f"{number}.json").is_file():
            stored = read_checks(number, package / "lab" / "checks").values()
            changed = [replace(c, removed=bool(answers_in_the_package(c.exercise))) for c in stored]
            write_checks(number, changed, package / "lab" / "checks")
    return removed


def answers_in_the_package(exercise: Exercise) -> list[str]:
    """The functions of the package, "module:name" each, that answer a graded exercise; none for one without points."""
    if not exercise.points:
        return []
    return [*([exercise.target] if exercise.target else []), *exercise.holds]


def _unwanted(name: str) -> bool:
    return name in _LEFT_OUT or name.startswith(".") or name.endswith((".pyc", ".tmp"))


def without_body(text: str, name: str, identifier: str, words: str) -> str:
    """Source `text` with the body of function `name` ("f" or "Class.f") replaced by an error that says `words`.
    Signature and docstring stay. Raises InputError if there is no such function."""
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
    body = ["from omni_lab.errors import NotWritten", "", f"raise NotWritten({json.dumps(words)})"]
    lines[start : node.end_lineno] = [f"{indent}{line}".rstrip() for line in body]
    return "\n".join(lines)


def student_notebook(source: Path) -> NotebookNode:
    """A lab's notebook with stubs, whose set-up cell looks for this release and fetches nothing."""
    made = notebook(source, solved=False)
    for cell in made.cells:
        if "bootstrap" in cell.metadata.get("tags", []):
            cell.source = release_cell_source(__version__)
    return made


def release_each(root: Path, labs: list[str], out: Path) -> list[dict]:
    """A release for each of `labs` (none: all), in a folder of its own below `out` if they are several; the manifests.
    Raises InputError."""
    sources = lab_sources(root, labs)
    alone = len(sources) == 1
    return [release(root, source.stem, out if alone else out / source.stem) for source in sources]


def release(root: Path, lab: str, out: Path) -> dict:
    """Write the folder `out`/omni_lab_course of one lab and the zip beside it; returns the manifest. Raises
    InputError."""
    source = lab_sources(root, [lab])[0]
    folder = out / "omni_lab_course"
    if folder.exists():
        raise InputError(f"{folder}: there already; remove it or choose another --out")
    working = out / f".release-{__version__}"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    try:
        removed = write_package(root, working, [source])
        write_notebook(working / "notebooks" / f"{source.stem}.ipynb", student_notebook(source))
        if (root / "notebooks" / "figures").is_dir():
            shutil.copytree(root / "notebooks" / "figures", working / "notebooks" / "figures")
        if (root / "data_samples").is_dir():
            shutil.copytree(
                root / "data_samples", working / "data_samples", ignore=lambda _, n: [x for x in n if _unwanted(x)]
            )
        for name in WITH_IT:
            if (root / name).is_file():
                shutil.copyfile(root / name, working / name)
        manifest = {"version": __version__, "lab": source.stem, "removed": sorted(removed),
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
