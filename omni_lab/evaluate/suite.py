"""The mini suite: every ability that the report measures, on the nano world's held-out items, in minutes."""

import hashlib
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..runtime import hardware, threads
from . import page
from .outcome import Evaluation, Outcome
from .tasks import hearing, reading, seeing, speaking

# In the order of the report's sections: text; audio; audio chat; pictures; video; speech out.
ORDER = (
    "text_qa", "asr", "asr_recorded", "speech_translation", "sound_events", "music", "audio_order", "spoken_vs_typed",
    "picture_qa", "picture_qa_unseen_style", "picture_arithmetic", "ocr", "grounding", "science_choice", "video_order",
    "av_synchrony", "av_synchrony_no_time_axis", "who_said_what", "speech_wer", "resynthesis_wer_ratio",
    "speaker_similarity", "pause_errors", "dpo_wer_ratio",
)  # fmt: skip
_FOUND = reading.TASKS | hearing.TASKS | seeing.TASKS | speaking.TASKS
SUITE: dict[str, Evaluation] = {name: _FOUND[name] for name in ORDER}
ITEMS = 200  # a task
SMALL = 100_000_000  # parameters


def choose(tasks: Sequence[str] | None) -> list[str]:
    """The names to run, in the suite's order. Raises InputError for one that does not exist."""
    if tasks is None:
        return list(SUITE)
    for name in tasks:
        if name not in SUITE:
            raise InputError(f"unknown task {name!r}: choose from {', '.join(SUITE)}")
    return [name for name in SUITE if name in tasks]


def check_items(items: int) -> None:
    """Raise InputError for a number of items that measures nothing."""
    if items < 1:
        raise InputError(f"{items} items a task: at least 1")


def run(
    model: Any,
    tasks: Sequence[str] | None = None,
    items: int = ITEMS,
    seed: int = 0,
    progress: bool = False,
    folder: str | Path | None = None,
    done: Mapping[str, dict[str, Any]] | None = None,
    after_each: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Run the suite: {task: {"metric", "value", "chance", "baseline", "n", "seconds", "report", "failed", ...}}.

    model: an OmniModel, or a backend, to which tasks of speech are not put. items: how many a task (of recorded
    prompts, at most as many as there are); the same `seed`, the same items. folder: the checkpoint's, where the talker
    from before DPO lies. done: results of an earlier run, taken over where they did not fail. after_each is called with
    all results so far. A task that fails is a result without a value, and its traceback is printed: the others go on.
    Raises InputError for an unknown task."""
    check_items(items)
    results: dict[str, dict[str, Any]] = {}
    with threads(fitting_threads(model)):
        for name in choose(tasks):
            known = (done or {}).get(name)
            if known is not None and not known.get("failed"):
                results[name] = known
                continue
            results[name] = run_task(name, model, items, seed, progress, folder)
            if progress:
                print(line(name, results[name]), flush=True)
            if after_each is not None:
                after_each(results)
    return results


def fitting_threads(model: Any) -> int | None:
    """1 for a small model, whose tensors are too small to share (processes share better: workers.py); None: all."""
    small = hasattr(model, "parameters") and sum(p.numel() for p in model.parameters()) < SMALL
    return 1 if small else None


def run_task(name: str, model: Any, items: int, seed: int, progress: bool, folder: str | Path | None) -> dict[str, Any]:
    """One task's result, with the time it took."""
    task, began, failed = SUITE[name], time.perf_counter(), False
    busy = time.process_time()
    if task.ours_alone and hasattr(model, "replies"):
        outcome = Outcome("", None, 0.0, 0.0, 0, note="asks for what this backend does not have")
    else:
        try:
            outcome = task.run(model, items, seed, progress, *((folder,) if task.needs_folder else ()))
        except Exception as error:  # whatever one task meets must not cost the other twenty-two
            traceback.print_exc()
            failed = True
            outcome = Outcome("", None, 0.0, 0.0, 0, note=f"failed: {type(error).__name__}: {error}")
    return asdict(outcome) | {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - busy, 2),
        "report": task.report,
        "report_set": task.report_set,
        "lower_is_better": task.lower_is_better,
        "failed": failed,
    }


def document(checkpoint: str, results: dict[str, dict[str, Any]], seed: int, **origin: Any) -> dict[str, Any]:
    """What `--json` writes: checkpoint, hardware, seed, the results by task, and what else tells their origin."""
    return {"checkpoint": checkpoint, "hardware": hardware().name, "seed": seed, **origin, "tasks": results}


def weights_stamp(folder: str | Path) -> str:
    """A short name for the weights in a folder, of its files' names and contents; "" elsewhere."""
    told = []
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            told.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12] if told else ""


def write_json(path: str | Path, table: dict[str, Any]) -> None:
    """Write a results file atomically."""
    page.write(Path(path), json.dumps(table, indent=1) + "\n")


HEADER = f"{'task':<26}{'ours':>8}{'chance':>8}{'simple':>8}{'n':>5}{'s':>7}  {'7B':>6}  measure"


def line(name: str, result: dict[str, Any]) -> str:
    """One task as a line of the table."""
    value = "-" if result["value"] is None else f"{result['value']:.3f}"
    report = "-" if result["report"] is None else f"{result['report']:.3f}"
    measure = result["metric"] + (f"; 7B: {result['report_set']}" if result["report_set"] else "")
    remark = f" ({result['note']})" if result["note"] else ""
    return (
        f"{name:<26}{value:>8}{result['chance']:>8.3f}{result['baseline']:>8.3f}{result['n']:>5}"
        f"{result['seconds']:>7.1f}  {report:>6}  {measure}{remark}"
    )


def table(results: dict[str, dict[str, Any]]) -> str:
    """All results as text; "simple" is a program that does not look at the media, or the source voice."""
    return "\n".join([HEADER, *(line(name, result) for name, result in results.items())])


def plot(results: dict[str, dict[str, Any]]) -> Any:
    """A bar a task with ticks for chance and for the 7B model: a matplotlib figure (rates from 0 to 1.2)."""
    from matplotlib.figure import Figure

    shown = {name: r for name, r in results.items() if r["value"] is not None}
    figure = Figure(figsize=(8, 0.34 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    colours = ["#0072B2" if not r["lower_is_better"] else "#E69F00" for r in shown.values()]
    axes.barh(places, [min(r["value"], 1.2) for r in shown.values()], color=colours, height=0.6)
    axes.plot([min(r["chance"], 1.2) for r in shown.values()], places, "|", color="black", ms=14, mew=2, label="chance")
    known = [(r["report"], place) for place, r in zip(places, shown.values(), strict=True) if r["report"] is not None]
    axes.plot([k[0] for k in known], [k[1] for k in known], "d", color="#CC79A7", label="7B, on its own public set")
    axes.set_yticks(list(places), [f"{n} (lower is better)" if r["lower_is_better"] else n for n, r in shown.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2)
    axes.set_xlabel("rate")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
