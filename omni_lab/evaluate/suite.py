"""The mini suite: every ability that the report measures, on the nano world's held-out items, in minutes."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..runtime import hardware, threads
from .outcome import Evaluation
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


def choose(tasks: Sequence[str] | None) -> list[str]:
    """The names to run, in the suite's order. Raises InputError for one that does not exist."""
    if tasks is None:
        return list(SUITE)
    for name in tasks:
        if name not in SUITE:
            raise InputError(f"unknown task {name!r}: choose from {', '.join(SUITE)}")
    return [name for name in SUITE if name in tasks]


def run(
    model: Any,
    tasks: Sequence[str] | None = None,
    items: int = ITEMS,
    seed: int = 0,
    progress: bool = False,
    folder: str | Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Run the suite on an OmniModel: {task: {"metric", "value", "chance", "baseline", "n", "seconds", "report", ...}}.

    items: how many a task (of recorded prompts, at most as many as there are); the same `seed`, the same items.
    folder: the checkpoint's, where the talker from before DPO lies. Raises InputError for an unknown task."""
    if items < 1:
        raise InputError(f"{items} items a task: at least 1")
    results = {}
    with threads():
        for name in choose(tasks):
            began = time.perf_counter()
            extra = (folder,) if SUITE[name].needs_folder else ()
            outcome = SUITE[name].run(model, items, seed, progress, *extra)
            results[name] = asdict(outcome) | {
                "seconds": round(time.perf_counter() - began, 2),
                "report": SUITE[name].report,
                "report_set": SUITE[name].report_set,
                "lower_is_better": SUITE[name].lower_is_better,
            }
            if progress:
                print(line(name, results[name]), flush=True)
    return results


def document(checkpoint: str, results: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    """What `--json` writes: checkpoint, hardware, seed, and the results by task."""
    return {"checkpoint": checkpoint, "hardware": hardware().name, "seed": seed, "tasks": results}


def write_json(path: str | Path, table: dict[str, Any]) -> None:
    """Write a results file atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


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
