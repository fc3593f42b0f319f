"""A results page: several models' figures of the mini suite side by side, with the published ones, as table and radar.

Reads the files that `omni-lab eval --json` writes. The published figures are of public sets, the others of the nano
world: they stand beside each other, not against each other, and the page says so.
"""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import read_json
from ..errors import DataError, InputError

FIGURES = ("value", "chance", "report")  # of a task: numbers, or None
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00")  # Okabe and Ito, for the colour-blind


def read(path: str | Path) -> dict[str, Any]:
    """One results file. Raises DataError when it is none."""
    document = read_json(Path(path))
    if not isinstance(document, Mapping) or not isinstance(document.get("tasks"), Mapping):
        raise DataError(f"{path}: not a results file of `omni-lab eval --json`")
    if missing := [key for key in ("checkpoint", "hardware", "seed") if key not in document]:
        raise DataError(f"{path}: not a results file of `omni-lab eval --json`: no {missing[0]!r} in it")
    for task, result in document["tasks"].items():
        check_result(result, f"{path}: task {task!r}")
    return dict(document)


def check_result(result: Any, where: str) -> None:
    """Raise DataError, which begins with `where`, for what is no task's result."""
    if not isinstance(result, Mapping):
        raise DataError(f"{where}: got {result!r}, expected a table of figures")
    if missing := [key for key in (*FIGURES, "metric", "report_set", "lower_is_better") if key not in result]:
        raise DataError(f"{where}: no {missing[0]!r} in it")
    for key in FIGURES:
        if result[key] is not None and not isinstance(result[key], int | float):
            raise DataError(f"{where}: {key} is {result[key]!r}, expected a number")


def make_room(path: Path) -> None:
    """Make the folder of a file that is to be written, before the work for it. Raises InputError when it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: its folder cannot be made ({error.strerror})") from error
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the name of a file")


def check_picture(path: Path) -> None:
    """Raise InputError for a name whose ending is none of a picture that can be drawn."""
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix.lower().removeprefix(".") not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"{path}: no ending of a picture; give .png, .svg or .pdf")


def goodness(result: Mapping[str, Any], value: float | None) -> float | None:
    """A figure from 0 (worst) to 1 (best), whichever way its measure points."""
    if value is None:
        return None
    good = 1 - value if result["lower_is_better"] else value
    return min(max(good, 0.0), 1.0)


def table(documents: Sequence[Mapping[str, Any]]) -> str:
    """All tasks of all documents as Markdown; the last columns are chance and what the report publishes."""
    names = [d["checkpoint"] for d in documents]
    tasks = list(dict.fromkeys(task for d in documents for task in d["tasks"]))
    lines = [f"| task | measure | {' | '.join(names)} | chance | Qwen2.5-Omni-7B | its set |"]
    lines.append("|" + "---|" * (len(names) + 5))

    def written(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    for task in tasks:
        results = [d["tasks"].get(task) for d in documents]
        any_one = next((r for r in results if r and r["value"] is not None), None)
        any_one = any_one or next(r for r in results if r is not None)  # nobody has a figure
        measure = any_one["metric"] + (" (lower is better)" if any_one["lower_is_better"] else "")
        figures = " | ".join(written(r["value"]) if r is not None else "" for r in results)
        published = f"{written(any_one['report'])} | {any_one['report_set']}"
        lines.append(f"| {task} | {measure} | {figures} | {written(any_one['chance'])} | {published} |")
    return "\n".join(lines)


def page(documents: Sequence[Mapping[str, Any]], picture: str | None = None) -> str:
    """The results page as Markdown; picture: the name of its radar plot's file."""
    if not documents:
        raise DataError("a results page needs at least one results file")
    made = "; ".join(f"{d['checkpoint']} on {d['hardware']}, seed {d['seed']}" for d in documents)
    shown = f"\n![Radar plot: a spoke a task, outwards is better, a line a model]({picture})\n" if picture else ""
    return (
        f"# Results\n\nMeasured: {made}. The last two columns are the technical report's figure for a public set of "
        f"the same family: a different task, named beside it.\n\n{table(documents)}\n{shown}"
    )


def write(path: Path, text: str) -> None:
    """Write a page or a results file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def spokes(document: Mapping[str, Any]) -> list[str]:
    """The tasks of a file that have a figure."""
    return [task for task, result in document["tasks"].items() if result["value"] is not None]


def drawable(documents: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is enough for a radar plot."""
    return len(spokes(documents[0])) >= 3


def radar(documents: Sequence[Mapping[str, Any]]) -> Any:
    """A spoke a task, outwards is better, a line a model: a matplotlib figure. Tasks that a model lacks are at 0.

    The spokes are the first model's tasks. Raises DataError when they are fewer than three."""
    from matplotlib.figure import Figure

    tasks = spokes(documents[0])
    if len(tasks) < 3:
        raise DataError(f"a radar plot needs three tasks with a figure, got {len(tasks)}")
    angles = [2 * math.pi * i / len(tasks) for i in range(len(tasks))]
    figure = Figure(figsize=(7, 7), layout="constrained")
    axes: Any = figure.subplots(subplot_kw={"projection": "polar"})
    for document, colour in zip(documents, itertools.cycle(COLOURS), strict=False):
        found = [document["tasks"].get(task) for task in tasks]
        reached = [(goodness(r, r["value"]) or 0.0) if r is not None else 0.0 for r in found]
        axes.plot([*angles, angles[0]], [*reached, reached[0]], color=colour, label=document["checkpoint"])
    ours = [documents[0]["tasks"][task] for task in tasks]
    known = [(angle, goodness(r, r["report"])) for angle, r in zip(angles, ours, strict=True)]
    shown = [(angle, value) for angle, value in known if value is not None]
    axes.plot([a for a, _ in shown], [v for _, v in shown], "d", color="black", label="7B, on its own public sets")
    axes.set_xticks(angles, tasks, fontsize=7)
    axes.set_ylim(0, 1)
    figure.legend(loc="outside lower center", ncols=3)
    return figure
