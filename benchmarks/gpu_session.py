"""Every figure that needs a GPU, by one command that ends within nine minutes; called again, it does what is left.

    python -m benchmarks.gpu_session [--out FOLDER] [--parts published memory ...] [--minutes 9] [--smoke]

published: the 3B thinker beside transformers (MFU, share of bandwidth, ratios, load, memory); memory: counted against
torch.cuda.max_memory_allocated; thinker, talker, codec: nano beside transformers on the same card. A part that was done
on this card with this torch is not run again unless --parts names it. The first two go on where they were cut short,
the others begin only if they would end in time. --smoke runs the first two on the nano shape on any machine.

FOLDER (default benchmarks/results) holds each part's Markdown and JSON, and gpu_session.md and gpu_session.json over
them; what a part printed is in build/gpu_session, or in FOLDER. All that is packed into one file as well,
gpu_session.tar.gz beside FOLDER (by default in build): some machines give back only a few files. In several calls:

    python -m benchmarks.gpu_session --out build/gpu       # again and again, until it says that all is measured
    tar -xzf gpu_session.tar.gz -C build                   # on a fresh machine, before the next call: build/gpu is back

The minutes count from the start of the process, imports included, and the last half of one is kept for writing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from omni_lab.evaluate.page import write
from omni_lab.runtime import hardware

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SPARE = 30  # seconds at the end, for writing


@dataclass(frozen=True)
class Part:
    """A module to run and what it leaves."""

    command: str  # OUT is the folder
    files: tuple[str, ...]
    seconds: float  # with less it does not begin: all that it may take on an H100; of one that goes on, its first lines


PARTS = {
    "published": Part("benchmarks.gpu_published --out OUT", ("gpu_published.md", "gpu_published.json"), 180),
    "memory": Part("benchmarks.memory --out OUT", ("memory_gpu.md", "memory_gpu.json"), 90),
    "thinker": Part("benchmarks.thinker", ("thinker_gpu.md",), 90),
    "talker": Part("benchmarks.talker", ("talker_gpu.md",), 90),
    "codec": Part("benchmarks.codec", ("codec_gpu.md",), 90),
}
SMOKE = {
    "published": Part("benchmarks.gpu_published --smoke --out OUT", ("gpu_smoke.md", "gpu_smoke.json"), 60),
    "memory": Part("benchmarks.memory --rows train_recomputed --out OUT", ("memory.md", "memory.json"), 60),
}


def seconds_left(minutes: float) -> float:
    """What is left for measuring of a call of so many minutes: the clock runs since this process was started."""
    return 60 * minutes - SPARE - (time.time() - psutil.Process().create_time())


def stop(process: psutil.Popen) -> None:
    """End a process and all that it started: a benchmark's own children would keep the GPU busy."""
    family = [*process.children(recursive=True), process]
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:  # it ended by itself just now
            continue
    psutil.wait_procs(family)


def run_part(part: Part, out: Path, log_path: Path, seconds: float) -> dict[str, Any]:
    """Run one part for at most `seconds`; its files go to `out`."""
    began = time.monotonic()
    words = [str(out) if word == "OUT" else word for word in part.command.split()]
    # What is stopped cannot clear up its temporary files, checkpoints of many GB among them.
    with tempfile.TemporaryDirectory() as scratch, log_path.open("a") as log:
        line, places = [sys.executable, "-m", *words], {**os.environ, "TMPDIR": scratch, "PYTHONUNBUFFERED": "1"}
        process = psutil.Popen(line, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=places)
        try:
            code = process.wait(seconds)
            state = f"failed with code {code}" if code else "done"
        except psutil.TimeoutExpired:
            state = "cut short"
        finally:
            if process.is_running():
                stop(process)
    for file in part.files:
        if state == "done" and out != RESULTS and "OUT" not in part.command and (RESULTS / file).exists():
            shutil.copy(RESULTS / file, out / file)
    missing = [file for file in part.files if not (out / file).exists()]
    if state == "done" and missing:
        state = f"left no {missing[0]}"
    return {"state": state, "seconds": round(time.monotonic() - began, 1), "files": list(part.files), "on": here()}


def here() -> str:
    """On what a figure is measured."""
    return f"{hardware().name}, torch {torch.__version__}"


def page(found: dict[str, dict[str, Any]], out: Path, parts: dict[str, Part]) -> str:
    """One page over all parts."""
    lines = ["# GPU session", "", f"{here()}.", "", "| part | | seconds |", "|---|---|---|"]
    lines += [f"| {n} | {found[n]['state']} | {found[n]['seconds']} |" if n in found else f"| {n} | not run | |"
              for n in parts]  # fmt: skip
    for name in found:
        for file in found[name]["files"]:
            if file.endswith(".md") and (out / file).exists():
                lines += ["", (out / file).read_text().replace("\n#", "\n##").replace("# ", "## ", 1).strip()]
    return "\n".join(lines) + "\n"


def pack(files: Iterable[Path], folder: str, archive: Path) -> None:
    """All files that are there in one archive, under `folder`; written whole or not at all."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_name(f".{archive.name}.{os.getpid()}")
    with tarfile.open(unfinished, "w:gz") as made:
        for file in files:
            if file.exists():
                made.add(file, f"{folder}/{file.name}")
    os.replace(unfinished, archive)


@dataclass(frozen=True)
class Folders:
    """Where things go."""

    out: Path  # results
    logs: Path
    archive: Path

    def keep(self, found: dict[str, dict[str, Any]], parts: dict[str, Part]) -> None:
        """Write the record of all parts, the page over them, and the archive."""
        write(self.out / "gpu_session.json", json.dumps(found, indent=1) + "\n")
        write(self.out / "gpu_session.md", page(found, self.out, parts))
        results = [self.out / file for name in found for file in found[name]["files"]]
        logs = [self.logs / f"{name}.log" for name in found]
        over = [self.out / "gpu_session.json", self.out / "gpu_session.md"]
        pack([*over, *results, *logs], self.out.name, self.archive)


def folders(chosen: Path | None, smoke: bool) -> Folders:
    """Make those that are not there."""
    scratch = ROOT / "build" / "gpu_session"
    out = (chosen or (scratch if smoke else RESULTS)).resolve()
    made = Folders(out, out if chosen else scratch, (out if chosen else scratch).with_name("gpu_session.tar.gz"))
    for folder in (made.out, made.logs):
        folder.mkdir(parents=True, exist_ok=True)
    return made


def read_record(out: Path) -> dict[str, dict[str, Any]]:
    """What earlier calls found on this card with this torch."""
    record = out / "gpu_session.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    return {name: part for name, part in known.items() if part.get("on") == here()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS))
    parser.add_argument("--minutes", type=float, default=9, help="of the whole call, from the start of the process")
    parser.add_argument("--smoke", action="store_true")
    chosen = parser.parse_args()
    if not chosen.smoke and hardware().device.type != "cuda":
        print("gpu_session: no GPU here: nothing measured (--smoke runs the same code on the nano shape)")
        return
    parts = SMOKE if chosen.smoke else PARTS
    if unknown := [name for name in chosen.parts or () if name not in parts]:
        sys.exit(f"gpu_session: {unknown[0]} has no smoke size: choose from {', '.join(parts)}")
    places = folders(chosen.out, chosen.smoke)
    found = read_record(places.out)
    wanted = chosen.parts or list(parts)
    finished = []
    for name in wanted:
        if found.get(name, {}).get("state") == "done" and not chosen.parts:
            print(f"{name}: done before; --parts {name} does it again")
            finished.append(name)
            continue
        left = seconds_left(chosen.minutes)
        if left < parts[name].seconds:
            print(f"{name}: left for the next call")
            continue
        found[name] = run_part(parts[name], places.out, places.logs / f"{name}.log", left)
        print(f"{name}: {found[name]['state']}, {found[name]['seconds']} s", flush=True)
        finished += [name] * (found[name]["state"] == "done")
        places.keep(found, parts)
    if found:
        places.keep(found, parts)
    if missing := [name for name in wanted if name not in finished]:
        sys.exit(f"gpu_session: not yet measured: {', '.join(missing)}: call it again (logs: {places.logs})")
    print(f"gpu_session: all is measured: {places.archive}")


if __name__ == "__main__":
    main()
