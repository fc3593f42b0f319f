"""`omni-lab notebooks`: build, check and run the labs."""

from pathlib import Path
from typing import Annotated

import typer

from .. import runtime
from ..errors import OmniLabError

app = typer.Typer(help="Make, check and run the notebooks of the labs.", no_args_is_help=True)
Labs = Annotated[list[str] | None, typer.Argument(help='Labs such as "01" or "01_clip"; none: all.')]
Root = Annotated[Path, typer.Option(help="The course's folder, which holds solutions/.")]


@app.command()
def build(
    labs: Labs = None,
    root: Root = Path("."),
    execute: Annotated[bool, typer.Option(help="Execute the solved form too.")] = True,
    force: Annotated[bool, typer.Option(help="Execute again even if the source has not changed.")] = False,
) -> None:
    """Make checks, student and solved notebooks from solutions/NN_name.py; execute the solved one at smoke scale."""
    from . import build as building
    from . import run

    for source in building.lab_sources(root, labs or []):
        building.build_unexecuted(source)
        print(f"{building.notebook_path(source, solved=False)}: written")
        if not execute or (not force and building.up_to_date(source, solved=True)):
            continue
        result = run.build_executed(source)
        run.keep(source, "smoke", result)
        size = building.notebook_path(source, solved=True).stat().st_size / 1e6
        print(f"{building.notebook_path(source, solved=True)}: executed in {result.seconds:.0f} s, {size:.2f} MB")


@app.command()
def check(labs: Labs = None, root: Root = Path(".")) -> None:
    """Fail if making the notebooks or checks again would change them."""
    from . import build as building

    sources = building.lab_sources(root, labs or [])
    found = [line for source in sources for line in building.problems(source)]
    for line in found:
        print(line)
    if found:
        raise OmniLabError(f"{len(found)} of the labs' files are out of date")
    print(f"{len(sources)} labs up to date")


@app.command(name="run")
def run_command(
    labs: Labs = None,
    scale: Annotated[str, typer.Option(help=f"One of {', '.join(runtime.SCALES)}.")] = "smoke",
    seed: Annotated[int | None, typer.Option(help="Another seed than the notebooks' own.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for executed copies and HTML.")] = Path("build/course"),
    root: Root = Path("."),
    record: Annotated[bool, typer.Option(help="Keep time and memory, which the labs' headers state.")] = False,
) -> None:
    """Run solved labs through papermill and print time, peak memory and key figure of each."""
    from . import run
    from .stored import replace_file

    results = run.run_labs(root, labs or [], runtime.check_scale(scale), seed, out, record)
    print(run.table(results))
    replace_file(out / "summary.txt", f"{run.table(results)}\n".encode())
    print(f"Executed copies, HTML pages and this table (summary.txt): {out}")
    failed = [r.name for r in results if r.fault]
    if failed:
        raise OmniLabError(f"{len(failed)} of {len(results)} labs failed: {', '.join(failed)}")
