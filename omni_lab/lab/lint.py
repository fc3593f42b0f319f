"""What a lab's source and its executed notebook must look like: known tags, headings, no magics, alt text."""

import re
from collections.abc import Iterable
from pathlib import Path

from nbformat import NotebookNode

from ..errors import InputError
from .authoring import Lab

TAGS = {
    "parameters": "the cell that papermill overrides: SCALE and SEED",
    "bootstrap": "generated: the set-up cell",
    "exercise": "one function with @exercise",
    "hint": "generated: a folded hint",
    "hide-input": "code that a reader may leave folded",
    "nbval-ignore-output": "the output is never compared",
    "nbval-check-output": "the output is the same on every machine, and nbval compares it",
}


def check_source(source: Path, cells: Iterable[NotebookNode], lab: Lab) -> None:
    """Raise InputError for the first thing that is wrong with the cells of a source."""
    cells = list(cells)
    parameters = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    if len(parameters) != 1 or "SCALE" not in parameters[0].source or "SEED" not in parameters[0].source:
        raise InputError(f'{source}: needs exactly one cell tagged "parameters", which sets SCALE and SEED')
    for number, cell in enumerate(cells, 1):
        for fault in faults_of(cell):
            raise InputError(f"{source}: cell {number}: {fault}")
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    for e in lab.exercises:
        facts = f"difficulty {e.difficulty} of 3, {e.minutes} minutes, {e.points:g} points"
        heading = f"Exercise {e.number} - {e.title}  ({facts})"
        if " ".join(heading.split()) not in " ".join(prose.split()):
            raise InputError(f'{source}: {e.id} needs the heading "### {heading}"')


def faults_of(cell: NotebookNode) -> Iterable[str]:
    """What is wrong with one cell of a source, in words."""
    tags = cell.metadata.get("tags", [])
    for tag in tags:
        if tag not in TAGS:
            yield f"unknown tag {tag!r}: choose from {', '.join(TAGS)}"
    if cell.cell_type == "markdown":
        if re.search(r"!\[\s*\]\(", cell.source) or re.search(r"<img(?![^>]*\balt=\"[^\"]+\")", cell.source):
            yield "a picture without alt text"
        return
    # nbval passes a cell whose magic does not exist, so there are none: a notebook is plain Python.
    if magic := re.search(r"^\s*(%|!|\?)[^=].*$", cell.source, re.MULTILINE):
        yield f"a magic or shell line ({magic[0].strip()}): write plain Python"
    if ".show()" in cell.source and "plt" in cell.source:
        yield "plt.show(): use lab.show(figure, alt=...), which adds alt text"
    marked = "# BEGIN SOLUTION" in cell.source
    if marked != ("exercise" in tags):
        yield 'a solution stands between its markers in a cell tagged "exercise", and nowhere else'


def check_outputs(path: Path, executed: NotebookNode) -> list[str]:
    """What is wrong with the outputs of an executed notebook, in words."""
    found = []
    for number, cell in enumerate(executed.cells, 1):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if output.output_type == "error":
                found.append(f"{path}: cell {number} raised {output.ename}")
            if any(kind.startswith("image/") for kind in data):
                found.append(f"{path}: cell {number} shows a bare picture: use lab.show(figure, alt=...)")
            if re.search(r"<img(?![^>]*\balt=\"[^\"]+\")", data.get("text/html", "")):
                found.append(f"{path}: cell {number} shows a picture without alt text")
    return found
