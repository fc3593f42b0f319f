"""`omni-lab bench`: run the measurements of `benchmarks/`, each a module that prints and keeps its table."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from .errors import InputError, OmniLabError

FOLDER = Path(__file__).parents[1] / "benchmarks"


def bench(names: Annotated[list[str] | None, typer.Argument(help="Benchmarks; none: list them.")] = None) -> None:
    """Run benchmarks by name; without a name, list them."""
    known = sorted(p.stem for p in FOLDER.glob("[a-z]*.py"))
    if not known:
        raise InputError(f"{FOLDER}: no benchmarks here; run this in a clone of the course")
    if unknown := [n for n in names or [] if n not in known]:
        raise InputError(f"unknown benchmark {unknown[0]!r}: choose from {', '.join(known)}")
    if not names:
        print("\n".join(known))
    for name in names or []:
        print(f"benchmarks.{name}", flush=True)
        ended = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=FOLDER.parent)
        if ended.returncode:
            raise OmniLabError(f"{name} failed with exit code {ended.returncode}: see its output above")
