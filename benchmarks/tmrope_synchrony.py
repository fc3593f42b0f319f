"""What absolute time in TMRoPE is good for: `python -m benchmarks.tmrope_synchrony`.

One small decoder is trained under each of four schemes of positions on clips of 4 s, and asked "what moved when the
bell rang?" on clips up to ten times as long (omni_lab/lab/synchrony.py); the first is also asked at the bells, and with
the sound late. Writes data_samples/tmrope_synchrony.json.
"""

import argparse
import json
import os
import shlex
import sys
import time
from datetime import date
from functools import partial
from pathlib import Path

import torch

from omni_lab import runtime
from omni_lab.data.folders import samples_folder
from omni_lab.lab import synchrony


def main() -> None:
    """Train, measure, print, and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemes", nargs="+", default=synchrony.SCHEMES)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a clip in training")
    parser.add_argument(
        "--times", type=float, nargs="+", default=[1, 1.5, 2, 4, 10], help="test lengths over training's"
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--clips", type=int, default=64, help="of each test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=samples_folder() / "tmrope_synchrony.json")
    parser.add_argument("--late", type=int, nargs="+", default=[0, 1, 2, 4, 8], help="ids of 40 ms each")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    curves, broken = {}, {}
    for scheme in args.schemes:
        begin = time.perf_counter()
        watcher, losses = synchrony.train(scheme, args.steps, args.seconds)
        right = [synchrony.accuracy(watcher, scheme, args.seconds * n, args.clips) for n in args.times]
        took = time.perf_counter() - begin
        curves[scheme] = {"accuracy": right, "last loss": sum(losses[-20:]) / 20, "seconds": round(took)}
        print(scheme, curves[scheme], flush=True)
        if scheme == synchrony.SCHEMES[0]:
            ask = partial(synchrony.accuracy, watcher, scheme, clips=args.clips)
            broken["asked at the bells"] = [ask(args.seconds * n, at="bells") for n in args.times]
            broken["late by ms"] = {40 * late: ask(args.seconds, late=late) for late in args.late}
            print(broken, flush=True)
        record = {
            "command": shlex.join(["python", "-m", "benchmarks.tmrope_synchrony", *sys.argv[1:]]),
            "date": date.today().isoformat(),
            "machine": f"{runtime.hardware('cpu').name}, busy with other work, {args.threads} thread",
            "seconds in training": args.seconds,
            "steps": args.steps,
            "questions a point": 4 * args.clips,
            "lengths": args.times,
            "chance": synchrony.CHANCE,
            "curves": curves,
            **broken,
        }
        part = args.out.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(part, args.out)


if __name__ == "__main__":
    main()
