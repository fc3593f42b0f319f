"""From a lab's one source (`solutions/NN_name.py`, jupytext percent format) to its two notebooks and its checks.

The student form has stubs and no outputs, the solved form is executed at smoke scale with its outputs kept. Both are
the same cells for the same source, so that CI can compare.
"""

import ast
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from .. import __version__
from ..errors import InputError
from . import lint
from .authoring import Lab, load_lab
from .bootstrap import cell_source
from .check import Checks, make_checks
from .stored import differs, folder_of, read_checks, replace_file, write_checks

SEED = 20250326  # of the stored cases: the day of the report
MAX_BYTES = 1_500_000  # of an executed notebook
BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def lab_sources(root: Path, names: Iterable[str] = ()) -> list[Path]:
    """The sources of the named labs ("01" or "01_clip"; none: all), in order. Raises InputError for an unknown one."""
    found = sorted((root / "solutions").glob("[0-9][0-9]_*.py"))
    if not found:
        raise InputError(f"{root / 'solutions'}: no labs here; run this from the course's folder")
    chosen = [p for n in names for p in found if n in (p.stem, p.stem.split("_")[0])]
    for name in names:
        if not any(name in (p.stem, p.stem.split("_")[0]) for p in found):
            raise InputError(f"unknown lab {name!r}: choose from {', '.join(p.stem for p in found)}")
    return chosen or found


def lab_of(source: Path) -> Lab:
    """The lab's exercises and answers; a lab without an exercises file has none."""
    exercises = source.parent / "exercises" / source.name
    return load_lab(exercises, source) if exercises.is_file() else Lab(source.stem, (), {})


def stub_of(source: str) -> str:
    """A cell with each solution replaced by `...`. Raises InputError for markers without a partner."""
    out: list[str] = []
    inside = False
    for line in source.splitlines():
        mark = line.strip()
        if mark in (BEGIN, END):
            if (mark == BEGIN) == inside:
                raise InputError(f"{mark} without its partner")
            inside = not inside
            if inside:
                out.append(line[: len(line) - len(line.lstrip())] + "...")
        elif not inside:
            out.append(line)
    if inside:
        raise InputError(f"{BEGIN} without its partner")
    return "\n".join(out)


def solved_of(source: str) -> str:
    """A cell without the markers of its solution."""
    return "\n".join(line for line in source.splitlines() if line.strip() not in (BEGIN, END))


def cells_of(source: Path) -> list[NotebookNode]:
    """The cells of a source, with generated ones (set-up, hints) in place, checked by `lint`. Raises InputError."""
    lab = lab_of(source)
    known = {e.id: e for e in lab.exercises}
    text = source.read_text(encoding="utf-8")
    cells: list[NotebookNode] = []
    for cell in jupytext.reads(text, fmt="py:percent").cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode({"tags": sorted(tags)} if tags else {})
        cells.append(cell)
        if "parameters" in tags:
            setup = nbformat.v4.new_code_cell(cell_source(__version__))
            setup.metadata = NotebookNode({"tags": ["bootstrap", "hide-input"]})
            cells.append(setup)
        if "exercise" in tags:
            identifier = exercise_of(cell.source, source)
            if identifier in known:
                cells.extend(hint_cells(known[identifier].hints))
    lint.check_source(source, cells, lab)
    for cell, identifier in zip(cells, stable_ids(source.stem, cells), strict=True):
        cell.id = identifier
    return cells


def exercise_of(code: str, source: Path) -> str:
    """The id of the exercise in a cell tagged so. Raises InputError."""
    found = re.search(r'@(?:lab\.)?exercise\(\s*"([^"]+)"', code)
    if not found:
        raise InputError(f'{source}: a cell is tagged "exercise", but holds no @exercise("...")')
    return found[1]


def hint_cells(hints: Iterable[str]) -> list[NotebookNode]:
    """A folded cell for each hint."""
    cells = []
    for number, hint in enumerate(hints, 1):
        text = f"<details><summary>Hint {number}</summary>\n\n{hint}\n\n</details>"
        cells.append(nbformat.v4.new_markdown_cell(text, metadata=NotebookNode({"tags": ["hint"]})))
    return cells


def stable_ids(name: str, cells: Iterable[NotebookNode]) -> list[str]:
    """Cell ids that follow from the content, so that an inserted cell changes no other's."""
    seen: dict[str, int] = {}
    ids = []
    for cell in cells:
        digest = hashlib.sha256(f"{name}|{cell.cell_type}|{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        ids.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return ids


def notebook(source: Path, solved: bool) -> NotebookNode:
    """One form of a lab, not executed. Raises InputError."""
    cells = []
    for cell in cells_of(source):
        tags = cell.metadata.get("tags", [])
        try:
            text = solved_of(cell.source) if solved else stub_of(cell.source)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        if not solved:  # nothing to compare with: a student notebook has no outputs
            tags = [t for t in tags if t != "nbval-check-output"]
        make = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
        cells.append(make(text, id=cell.id, metadata=NotebookNode({"tags": tags} if tags else {})))
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=NotebookNode(metadata))


def checks_of(source: Path) -> list[Checks]:
    """The checks of a lab, computed afresh with the one seed of the stored cases."""
    lab = lab_of(source)
    stubs = stub_functions(source)
    return [make_checks(e, lab.answers[e.id], SEED, stubs[e.id]) for e in lab.exercises]


def stub_functions(source: Path) -> dict[str, str]:
    """The source of each stub, decorator included, by exercise id."""
    found = {}
    for cell in notebook(source, solved=False).cells:
        if "exercise" in cell.metadata.get("tags", []):
            functions = [n for n in ast.parse(cell.source).body if isinstance(n, ast.FunctionDef) and n.decorator_list]
            found[exercise_of(cell.source, source)] = ast.unparse(functions[-1])
    return found


def clean(executed: NotebookNode) -> NotebookNode:
    """Drop what an execution leaves behind besides outputs (times, versions, widget states)."""
    executed.metadata = NotebookNode({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in executed.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
    return executed


def write_notebook(path: Path, content: NotebookNode) -> int:
    """Write atomically; returns the size in bytes."""
    text = nbformat.writes(content, version=4, indent=1, ensure_ascii=False, sort_keys=True)
    encoded = (text.rstrip("\n") + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, encoded)
    return len(encoded)


def skeleton(content: NotebookNode) -> list[tuple]:
    """What must not change unless the source does: ids, kinds, tags and sources of all cells."""
    return [(c.get("id"), c.cell_type, tuple(c.metadata.get("tags", [])), c.source) for c in content.cells]


def read_notebook(path: Path) -> NotebookNode:
    """Raises InputError for a file that is missing or no notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such notebook; run `omni-lab notebooks build`") from error
    except Exception as error:  # nbformat raises a different error for each way of being no notebook
        raise InputError(
            f"{path}: not a Jupyter notebook; `omni-lab notebooks build` makes the course's own again"
        ) from error


def up_to_date(source: Path, solved: bool) -> bool:
    """Whether the notebook on disk is what the source gives now (and, if solved, has been executed)."""
    path = notebook_path(source, solved)
    if not path.is_file():
        return False
    old = read_notebook(path)
    executed = any(c.get("outputs") for c in old.cells) or not solved
    return executed and skeleton(old) == skeleton(notebook(source, solved))


def notebook_path(source: Path, solved: bool) -> Path:
    """solutions/NN_name.py -> its solved or student notebook."""
    folder = source.parent if solved else course_of(source) / "notebooks"
    return folder / f"{source.stem}.ipynb"


def course_of(source: Path) -> Path:
    """The course's folder: solutions/NN_name.py lies in it."""
    return source.parent.parent


def number_of(source: Path) -> str:
    """The two digits at the head of a lab's file name."""
    return source.stem.split("_")[0]


def problems(source: Path, folder: Path | None = None) -> list[str]:
    """Everything that `notebooks check` has to say about one lab; empty when all is up to date.

    folder: of the checks; None: its course's own."""
    folder = folder or folder_of(course_of(source))
    found = []
    for solved in (False, True):
        path = notebook_path(source, solved)
        if not up_to_date(source, solved):
            found.append(f"{path}: not what {source.name} gives now")
        elif solved:
            found += lint.check_outputs(path, read_notebook(path))
            size = path.stat().st_size
            if size > MAX_BYTES:
                found.append(f"{path}: {size / 1e6:.2f} MB, the limit is {MAX_BYTES / 1e6:g} MB")
    fresh = checks_of(source)
    if fresh:
        difference = differs(fresh, read_checks(number_of(source), folder))
        if difference:
            found.append(f"{folder / number_of(source)}.json: not what {source.name} gives now: {difference}")
    return [f"{line}: run `omni-lab notebooks build`" for line in found]


def build_unexecuted(source: Path, folder: Path | None = None) -> None:
    """Write the checks (into `folder`; None: its course's own) and the student notebook of one lab."""
    checks = checks_of(source)
    if checks:
        write_checks(number_of(source), checks, folder or folder_of(course_of(source)))
        read_checks.cache_clear()
    write_notebook(notebook_path(source, solved=False), notebook(source, solved=False))
