"""`omni-lab release | grade | regrade | report`."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError

Course = Annotated[Path, typer.Option(help="The course's folder, instructor's side: it holds solutions/.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Lab = Annotated[str, typer.Option(help='The lab, such as "01".')]


def release(
    lab: Annotated[list[str] | None, typer.Option(help="Labs to hand out, a release each; none: all.")] = None,
    out: Out = Path("build/release"),
    root: Course = Path("."),
) -> None:
    """Write what students get, as a folder and a zip: notebook, package, data; no answers to the lab's exercises."""
    from .release import release_each

    made = release_each(root, lab or [], out)
    for manifest in made:
        folder = out if len(made) == 1 else out / manifest["lab"]
        print(f"{folder / 'omni_lab_course'} and .zip: lab {manifest['lab']}, {len(manifest['files'])} files, "
              f"{len(manifest['removed'])} reference bodies taken out")  # fmt: skip


def grade(
    submissions: Annotated[Path, typer.Argument(help="A folder or zip of notebooks or students' folders.")],
    lab: Lab,
    out: Out = Path("build/grades"),
    roster: Annotated[Path | None, typer.Option(help="Class list, a CSV with a column `name`.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Submissions at a time.")] = 2,
    cell_seconds: Annotated[float, typer.Option(min=1, help="Wall time of one cell.")] = 60.0,
    total_seconds: Annotated[float, typer.Option(min=5, help="Wall time of one submission.")] = 600.0,
    memory_gb: Annotated[float, typer.Option(min=0.5, help="Memory of one submission.")] = 4.0,
    gpu: Annotated[bool, typer.Option(help="Let submissions use the GPU.")] = False,
    scheduler: Annotated[
        str | None, typer.Option(help='Let the workers of a Dask scheduler do it, such as "tcp://host:8786".')
    ] = None,
    trust_submissions: Annotated[bool, typer.Option(help="Run without a sandbox. Never for work of others.")] = False,
    root: Course = Path("."),
) -> None:
    """Grade a folder of submissions; what is graded already is kept, so an interrupted run goes on where it stopped."""
    need_locks("grade")
    from .grade import Settings
    from .grade import grade as run
    from .sandbox import Limits

    if trust_submissions:
        print("No sandbox: the submissions run with your own rights.")
    limits = Limits(cell_seconds=cell_seconds, total_seconds=total_seconds, memory=int(memory_gb * (1 << 30)))
    settings = Settings(root.resolve(), lab, out, workers, limits, trust_submissions, gpu, scheduler=scheduler)
    _print_summary(run(submissions, settings, roster), out)


def regrade(
    names: Annotated[list[str] | None, typer.Argument(help="Submissions; none: all.")] = None,
    out: Out = Path("build/grades"),
    root: Course = Path("."),
) -> None:
    """Compare the stored answers again, after a repaired tolerance or message, without running any submission."""
    need_locks("regrade")
    from .grade import Settings
    from .grade import regrade as run

    _print_summary(run(Settings(root, "", out), names or []), out)


def report(
    out: Out = Path("build/grades"),
    manual: Annotated[Path | None, typer.Option(help="CSV of points and comments given by hand.")] = None,
    late_per_day: Annotated[float, typer.Option(min=0, max=1, help="Share of the points lost a day.")] = 0.0,
    root: Course = Path("."),
) -> None:
    """Write the gradebook again from the store, with points given by hand, and the class's statistics and
    likenesses."""
    need_locks("report")
    from .report import write_report

    book, pages = write_report(out, root, manual, late_per_day)
    _print_summary(book, out)
    print(f"{pages}: exercises, mistakes, likenesses")


def need_locks(command: str) -> None:
    """Raise ConfigError on a system without POSIX file locks, which keep two graders off one store: that is Windows."""
    try:
        found = importlib.util.find_spec("fcntl")
    except ValueError:  # how Python says that somebody has put nothing in the module's place
        found = None
    if found is None:
        raise ConfigError(
            f"{command} needs Linux, for its sandbox and its file locks: on Windows run it within WSL 2. "
            "Labs, release and everything else work here"
        )


def _print_summary(book: dict, out: Path) -> None:
    graded = [entry["points"] for entry in book.values() if entry["points"] is not None]
    mean = sum(graded) / len(graded) if graded else 0.0
    print(f"{out / 'gradebook.csv'}: {len(book)} submissions, mean {mean:.2f} points")
    if len(graded) < len(book):
        print(f"{len(book) - len(graded)} could not be graded for reasons of this machine: run the command again")
