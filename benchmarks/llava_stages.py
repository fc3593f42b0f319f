"""How a tiny LLaVA learns to look, stage by stage: `python -m benchmarks.llava_stages`.

The four trainings of lab 02 (the language model; stage 1; stage 2; stage 2 without stage 1), each with the loss of
held-out answers over its steps, with the right picture and with another's. Writes data_samples/llava_stages.json.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

from omni_lab import runtime
from omni_lab.data.folders import samples_folder
from omni_lab.train.log import read_log
from omni_lab.train.loop import train
from omni_lab.train.recipes import llava as recipes

RIGHT, OTHER = "held-out answer loss", "held-out answer loss with another's picture"
RUNS = {  # name -> recipe, and the part to start from in place of its own choice
    "language": (recipes.LlavaLanguage, ""),
    "align": (recipes.LlavaAlign, ""),
    "instruct": (recipes.LlavaInstruct, ""),
    "skipped": (recipes.LlavaInstruct, "llava_language"),
}


def losses(log: Path) -> list[list[float]]:
    """A run's log -> [step, loss with the right picture, loss with another's] of each evaluation, in nats a token."""
    found: dict[int, dict[str, float]] = {}
    for row in read_log(log):
        if row["name"] in (RIGHT, OTHER):
            found.setdefault(row["step"], {})[row["name"]] = float(row["value"])
    return [[step, values[RIGHT], values[OTHER]] for step, values in sorted(found.items())]


def main() -> None:
    """Train, measure, print, and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="cpu", choices=runtime.SCALES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=samples_folder() / "llava_stages.json")
    args = parser.parse_args()
    curves = {}
    with tempfile.TemporaryDirectory() as work, runtime.threads():
        for name, (kind, start) in RUNS.items():
            settings = replace(kind.scales[args.scale], start=start)
            train(kind(settings, args.seed, Path(work) / "parts"), Path(work) / name, progress=False)
            curves[name] = losses(Path(work) / name / "log.csv")
            print(name, curves[name][-1], flush=True)
    record = {
        "command": shlex.join(["python", "-m", "benchmarks.llava_stages", *sys.argv[1:]]),
        "date": date.today().isoformat(),
        "machine": runtime.hardware().name,
        "scale": args.scale,
        "curves": curves,
    }
    partial = args.out.with_suffix(".part")
    partial.write_text(json.dumps(record) + "\n")
    os.replace(partial, args.out)


if __name__ == "__main__":
    main()
