"""A real recipe killed (kill -9) at random moments and resumed each time, beside one that nobody touched: the bits.

    python -m benchmarks.kills [--recipe thinker_2] [--kills 20] [--steps 100] [--seed 0]

Both run as commands of `omni-lab train` at smoke scale, on the CPU, with a checkpoint after every step. A kill comes a
random time after the start, so that it falls into imports, steps and the writing of checkpoints alike. The parts that
the recipe reads are trained at smoke scale first. Writes benchmarks/results/kills.md.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from omni_lab.data.emoji_build import write_atomic
from omni_lab.train.checkpoints import saved_steps
from omni_lab.train.recipes import ALL

RESULT = Path(__file__).parent / "results" / "kills.md"
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def command(recipe: str, out: Path, *settings: str) -> list[str]:
    """`omni-lab train` for this recipe into the folder `out`."""
    chosen = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "omni_lab.cli", "train", recipe, "--scale", "smoke", "--out", str(out), *chosen]


def prepared(recipe: str, folder: Path) -> Path:
    """A folder with all parts that come before `recipe`."""
    for name in ALL[: ALL.index(recipe)]:
        subprocess.run(command(name, folder), check=True, env=ENVIRONMENT, capture_output=True)
    return folder / "parts"


def killed_and_resumed(run: list[str], kills: int, seconds: float, rng: random.Random) -> list[int]:
    """Start the command again and again; returns how long each killed start lived, in milliseconds.

    A start that reaches the end before its kill does not count, so the last ones may be none."""
    lived = []
    while len(lived) < kills:
        delay = rng.uniform(0, seconds)
        child = subprocess.Popen([*run, "--resume"], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            child.wait(delay)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            lived.append(round(1000 * delay))
            continue
        if child.returncode:
            raise SystemExit(child.stderr.read().decode() if child.stderr else "the run failed")
        break
    subprocess.run([*run, "--resume"], check=True, env=ENVIRONMENT, capture_output=True)
    return lived


def differing(one: Path, other: Path) -> list[str]:
    """Names of tensors that are not the same in both files, to the bit."""
    left, right = load_file(one), load_file(other)
    return sorted(n for n in left.keys() | right.keys() if n not in left or n not in right or not same(left, right, n))


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], name: str) -> bool:
    return left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="thinker_2", choices=ALL)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = prepared(given.recipe, folder / "before")
        runs = {kind: folder / kind for kind in ("whole", "killed")}
        for run in runs.values():
            shutil.copytree(parts, run / "parts")
        how = (f"steps={given.steps}", "save_every=1")
        began = time.perf_counter()
        subprocess.run(command(given.recipe, runs["whole"], *how), check=True, env=ENVIRONMENT, capture_output=True)
        seconds = time.perf_counter() - began
        lived = killed_and_resumed(
            command(given.recipe, runs["killed"], *how), given.kills, seconds / 4, random.Random(given.seed)
        )
        ends = [f"step_{saved_steps(run / given.recipe)[-1]:08d}" for run in runs.values()]
        states = [run / given.recipe / end / "state.safetensors" for run, end in zip(runs.values(), ends, strict=True)]
        wrong = differing(*states) + differing(
            *(run / "parts" / f"{given.recipe}.safetensors" for run in runs.values())
        )
        count = len(load_file(states[0]))
    told = f": {', '.join(wrong[:5])}" if wrong else ""
    report = (
        "# Killed and resumed\n\n"
        f"`omni-lab train {given.recipe} --scale smoke`, {given.steps} steps, a checkpoint after each, torch "
        f"{torch.__version__}, CPU: killed {len(lived)} times (kill -9), {min(lived)} to {max(lived)} ms after its "
        f"start (the whole run took {1000 * seconds:.0f} ms), seed {given.seed}.\n\n"
        f"Last checkpoints: {ends[0]} and {ends[1]}. Of {count} tensors (weights, their average, both moments) and the "
        f"part that it leaves, {len(wrong)} differ from those of a run that nobody touched{told}.\n"
    )
    print(report)
    write_atomic(RESULT, report.encode())
    if wrong or ends[0] != ends[1] or len(lived) < given.kills:
        raise SystemExit("not the same, or ended too soon to be killed so often: take more --steps")


if __name__ == "__main__":
    main()
