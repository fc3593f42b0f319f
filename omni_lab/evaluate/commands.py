"""`omni-lab eval`."""

from pathlib import Path
from typing import Annotated

import typer

from ..data.folders import samples_folder
from . import suite


def evaluate(
    checkpoint: Annotated[str | None, typer.Option(help="folder or hub id; default: the shipped nano model")] = None,
    tasks: Annotated[str | None, typer.Option(help="some tasks, with commas between; default: all")] = None,
    items: Annotated[int, typer.Option(help="items a task")] = suite.ITEMS,
    seed: Annotated[int, typer.Option(help="which items, and the talker's dice")] = 0,
    json: Annotated[Path | None, typer.Option(help="write all figures to this file")] = None,
    plot: Annotated[Path | None, typer.Option(help="write a picture of the figures (PNG, SVG, PDF)")] = None,
) -> None:
    """Run the mini suite on a checkpoint: a task for every family that the report measures."""
    from ..omni import OmniModel

    chosen = suite.choose(None if tasks is None else [name.strip() for name in tasks.split(",")])
    source = checkpoint or str(samples_folder() / "checkpoints" / "nano")
    model = OmniModel.from_pretrained(source)
    print(suite.HEADER, flush=True)
    results = suite.run(model, chosen, items, seed, progress=True, folder=source)
    for name, result in results.items():
        for part, value in result["parts"].items():
            print(f"  {name}: {part} {value:.3f}")
    if json is not None:
        suite.write_json(json, suite.document(checkpoint or "shipped nano", results, seed))
        print(f"figures: {json}")
    if plot is not None:
        suite.plot(results).savefig(plot, dpi=120)
        print(f"picture: {plot}")
    print(f"{len(results)} tasks in {sum(r['seconds'] for r in results.values()):.0f} s on {suite.hardware().name}")
