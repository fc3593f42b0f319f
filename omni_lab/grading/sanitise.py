"""From a submitted file to the cells that will be run: code sources only, matched to exercises, all else dropped.

Tags, metadata, outputs, parameters and markdown of a submission have no effect: they are never copied. A cell answers
an exercise when it carries the exercise's decorator, else when it defines a function of the exercise's name, wherever
it stands and however often; the last attempted definition counts, and whatever is unusual is reported to the reader.
"""

import ast
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import OmniLabError
from .inside.marks import CAPTURE, PROBE

MAX_BYTES = 5 << 20
MAX_CELLS = 2000
_PARSED_BYTES = 200_000  # a longer cell is run but not looked into


class InvalidSubmission(OmniLabError):
    """The file is not a notebook that can be graded; the message is for the student."""


@dataclass
class Cell:
    """One code cell to run. `answers`: exercise id -> name of the function that it defines."""

    name: str  # "cell 7", counted as in the submitted notebook
    source: str
    answers: dict[str, str] = field(default_factory=dict)


@dataclass
class Submission:
    """What is left of a notebook: cells in order, the exercises that it attempts, and remarks for the feedback."""

    cells: list[Cell]
    attempted: dict[str, str]  # exercise id -> source of the cell that counts
    notes: list[str]


def read_regular_file(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; links, pipes and devices are refused unread."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidSubmission(f"cannot be opened as a regular file ({error.strerror})") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidSubmission("not a regular file")
        if status.st_size > limit:
            raise InvalidSubmission(f"larger than {limit / (1 << 20):g} MB: clear the outputs and submit again")
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(limit + 1)[:limit]
    finally:
        os.close(handle)


def code_sources(raw: bytes) -> list[tuple[int, str, str]]:
    """(position, kind, source) of all cells, kind "code" or "markdown", of a notebook of format 3 or 4."""
    import nbformat

    if not raw.strip():
        raise InvalidSubmission("the file is empty")
    try:
        notebook = nbformat.reads(raw.decode("utf-8-sig"), as_version=4)
        cells = [(str(cell["cell_type"]), cell["source"]) for cell in notebook["cells"]]
    except (Exception, RecursionError) as error:  # nbformat meets hostile data with any exception there is
        raise InvalidSubmission(f"not a Jupyter notebook ({type(error).__name__})") from None
    if len(cells) > MAX_CELLS:
        raise InvalidSubmission(f"more than {MAX_CELLS} cells")
    if any(not isinstance(source, str) for _, source in cells):
        raise InvalidSubmission("a cell's source is not text")
    return [(position, kind, source) for position, (kind, source) in enumerate(cells, 1)]


def sanitise(raw: bytes, functions: dict[str, str]) -> Submission:
    """Match the notebook's cells with the exercises. functions: exercise id -> the function's name in the lab.

    Raises InvalidSubmission for what is no notebook."""
    cells: list[Cell] = []
    candidates: dict[str, list[tuple[int, str, bool]]] = {}  # id -> (place in `cells`, name, attempted)
    notes: list[str] = []
    for position, kind, source in code_sources(raw):
        if kind != "code":
            if re.search(r"^[ \t]*@(?:\w+\.){0,9}exercise\(", source, re.MULTILINE):
                notes.append(f"cell {position}: an exercise stands in a {kind} cell and was not run")
            continue
        source = _without_marks(source)
        tree, text = parse_cell(source)
        cell = Cell(f"cell {position}", text)
        cells.append(cell)
        if tree is None:
            continue
        for identifier, name, attempted in defined_answers(tree, functions):
            candidates.setdefault(identifier, []).append((len(cells) - 1, name, attempted))
    return Submission(cells, _choose(cells, candidates, functions, notes), notes)


def _choose(cells: list[Cell], candidates: dict, functions: dict[str, str], notes: list[str]) -> dict[str, str]:
    attempted: dict[str, str] = {}
    last = -1
    for identifier, usual in functions.items():
        found = candidates.get(identifier, [])
        tried = [entry for entry in found if entry[2]]
        for place, name, _ in tried:
            cells[place].answers[identifier] = name
        for place in {place for place, _, _ in tried}:
            cells[place].source = strip_decorators(cells[place].source)
        if not tried:
            continue
        place, name, _ = tried[-1]
        attempted[identifier] = cells[place].source
        if len(tried) > 1:
            notes.append(f"{identifier}: attempted in {len(tried)} cells; the last that defines it counts")
        if name != usual:
            notes.append(f"{identifier}: the function is called {name}, not {usual}")
        if place < last:
            notes.append(f"{identifier}: stands before an exercise that it follows in the lab")
        last = max(last, place)
    return attempted


def _without_marks(source: str) -> str:
    """Drop lines that look like the grader's own marks."""
    marks = (CAPTURE.strip(), PROBE.strip())
    return "\n".join(line for line in source.split("\n") if not line.startswith(marks))


def parse_cell(source: str) -> tuple[ast.Module | None, str]:
    """(syntax tree or None, the source to run). Timing and capture magics around a whole cell are taken off, since a
    function defined under them would be out of sight."""
    text = re.sub(r"\A\s*%%(?:time|timeit|capture)\b[^\n]*\n", "", source)
    if len(text) > _PARSED_BYTES:
        return None, text
    try:
        return ast.parse(text), text
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # perhaps only for a magic or a shell line
    plain = re.sub(r"^([ \t]*)[%!?][^\n]*$", r"\1pass", text, flags=re.MULTILINE)
    try:
        return ast.parse(plain), text
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, text


def defined_answers(tree: ast.Module, functions: dict[str, str]) -> list[tuple[str, str, bool]]:
    """(exercise id, name, whether it is more than a stub) for everything at top level that answers an exercise."""
    by_name = {name: identifier for identifier, name in functions.items()}
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            identifier = decorator_id(node) or by_name.get(node.name)
            if identifier in functions:
                found.append((identifier, node.name, not is_stub(node)))
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            # `name = lambda ...` is an answer; `name = name(...)` further down only uses the word again.
            name = node.targets[0].id
            if name in by_name and isinstance(node.value, ast.Lambda):
                found.append((by_name[name], name, True))
    return found


def decorator_id(node: ast.AST) -> str | None:
    """The id in `@exercise("id")` or `@lab.exercise("id", ...)`."""
    for decorator in getattr(node, "decorator_list", ()):
        if _is_exercise(decorator) and decorator.args and isinstance(decorator.args[0], ast.Constant):
            named = decorator.args[0].value  # a number of 5,000 digits has no text
            return named if isinstance(named, str) else None
    return None


def _is_exercise(decorator: ast.AST) -> bool:
    if not isinstance(decorator, ast.Call):
        return False
    called = decorator.func
    return "exercise" in (getattr(called, "id", None), getattr(called, "attr", None))


def is_stub(node: ast.AST) -> bool:
    """Whether a function's body is what the student was given: a docstring and `...`."""
    body = list(getattr(node, "body", ()))
    if body and isinstance(body[0], ast.Expr) and isinstance(getattr(body[0].value, "value", None), str):
        body = body[1:]
    return all(
        isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and getattr(line.value, "value", None) is Ellipsis)
        for line in body
    )


def strip_decorators(source: str) -> str:
    """`source` without the lines of `@exercise(...)`: the lab's own check would run, and could only cost time."""
    tree, _ = parse_cell(source)
    lines: list[str | None] = list(source.split("\n"))
    for node in tree.body if tree else ():
        for decorator in getattr(node, "decorator_list", ()):
            if _is_exercise(decorator):
                lines[decorator.lineno - 1 : decorator.end_lineno] = [None] * (
                    decorator.end_lineno - decorator.lineno + 1
                )
    return "\n".join(line for line in lines if line is not None)


def notebook_to_run(cells: list[Cell], probes: list[str], without: set[str]) -> bytes:
    """The notebook that papermill executes: the student's cells, each with its marks, then one probe an exercise."""

    def code(name: str, source: str) -> dict:
        return {"cell_type": "code", "execution_count": None, "metadata": {"omni_lab": name}, "outputs": [],
                "source": source, "id": f"c{len(written)}"}  # fmt: skip

    written: list[dict] = []
    for cell in cells:
        if cell.name not in without:
            marks = "".join(f"\n{CAPTURE}{identifier} {name}" for identifier, name in cell.answers.items())
            written.append(code(cell.name, cell.source + marks))
    for identifier in probes:
        written.append(code(f"probe {identifier}", PROBE + identifier))
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = {"cells": written, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook).encode()
