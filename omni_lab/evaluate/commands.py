"""`omni-lab eval` and `omni-lab results`."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.folders import samples_folder
from ..errors import DataError, InputError, OmniLabError
from . import backends, page, suite, workers


def evaluate(
    checkpoint: Annotated[str | None, typer.Option(help="folder or hub id; default: the shipped nano model")] = None,
    backend: Annotated[str, typer.Option(help="ours, transformers:HUB_ID, or openai:URL#MODEL")] = "ours",
    tasks: Annotated[str | None, typer.Option(help="some tasks, with commas between; default: all")] = None,
    items: Annotated[int, typer.Option(help="items a task")] = suite.ITEMS,
    seed: Annotated[int, typer.Option(help="which items, and the talker's dice")] = 0,
    json: Annotated[Path | None, typer.Option(help="write all figures to this file, after every task")] = None,
    resume: Annotated[bool, typer.Option(help="take over what stands in the --json file of the same run")] = False,
    processes: Annotated[int, typer.Option(help="tasks at a time, each in a process of its own")] = 1,
    plot: Annotated[Path | None, typer.Option(help="write a picture of the figures (PNG, SVG, PDF)")] = None,
) -> None:
    """Run the mini suite on a model: a task for every family that the report measures."""
    chosen = suite.choose(None if tasks is None else [name.strip() for name in tasks.split(",")])
    ours = backend == "ours"
    if checkpoint is not None and not ours:
        raise InputError(f"--checkpoint is for our own models, and --backend {backend} names another: give one of them")
    for path in (json, plot):
        if path is not None:
            page.make_room(path)
    if plot is not None:
        page.check_picture(plot)
    source = checkpoint or str(samples_folder() / "checkpoints" / "nano")
    name = (checkpoint or "shipped nano") if ours else backend
    origin = {"items": items, "weights": suite.weights_stamp(source) if ours else ""}
    done = earlier(json, suite.document(name, {}, seed, **origin)) if resume else {}
    how = (backend, source, os.environ.get("OPENAI_API_KEY", ""))
    folder = source if ours else None

    def save(results: dict[str, Any]) -> None:
        if json is not None:
            suite.write_json(json, suite.document(name, done | results, seed, **origin))

    if done:
        print(f"{len(done)} tasks stand in {json} already")
    print(suite.HEADER, flush=True)
    if processes > 1:
        results = {task: done[task] for task in chosen if task in done}
        for task, result in workers.run([t for t in chosen if t not in done], processes, how, items, seed, folder):
            print(suite.line(task, result), flush=True)
            results[task] = result
            save(results)
        results = {task: results[task] for task in chosen}
    else:
        results = suite.run(backends.open_backend(*how), chosen, items, seed, True, folder, done, save)
    save(results)
    for task, result in results.items():
        for part, value in result["parts"].items():
            print(f"  {task}: {part} {value:.3f}")
    if json is not None:
        print(f"figures: {json}")
    if plot is not None:
        suite.plot(results).savefig(plot, dpi=120)
        print(f"picture: {plot}")
    busy = sum(result["cpu_seconds"] for result in results.values())
    print(f"{len(results)} tasks in {busy:.0f} s of processor time on {suite.hardware().name}")
    failed = [task for task, result in results.items() if result["failed"]]
    if failed:
        raise OmniLabError(f"{len(failed)} of {len(results)} tasks failed: {', '.join(failed)}")


def earlier(path: Path | None, wanted: dict[str, Any]) -> dict[str, Any]:
    """Results in a file of the same run, {} if there is no such file. Raises DataError for a file of another run."""
    if path is None:
        raise DataError("--resume needs --json: the file to go on with")
    if not path.is_file():
        return {}
    found = page.read(path)
    for key, value in wanted.items():
        if key not in ("tasks", "hardware") and found.get(key) != value:
            raise DataError(f"{path}: is of {key} {found.get(key)!r}, this run of {value!r}; give another --json file")
    return {name: result for name, result in found["tasks"].items() if not result.get("failed")}


def results(
    files: Annotated[list[Path], typer.Argument(help="files that `omni-lab eval --json` wrote")],
    out: Annotated[Path, typer.Option(help="page to write; its radar plot goes beside it, as PNG")] = Path(
        "results.md"
    ),
) -> None:
    """Set several models' figures side by side, with the published ones: a page with a table and a radar plot."""
    documents = [page.read(file) for file in files]
    if out.suffix.lower() == ".png":
        raise InputError(f"{out}: the radar plot goes there; give the page another ending, such as .md")
    page.make_room(out)
    picture = out.with_suffix(".png")
    drawn = page.drawable(documents)
    page.write(out, page.page(documents, picture.name if drawn else None))
    if drawn:
        page.radar(documents).savefig(picture, dpi=120)
    print(f"page: {out}" + (f"\nradar plot: {picture}" if drawn else "\nfewer than three figures: no radar plot"))
