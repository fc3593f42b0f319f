"""Every figure that needs a GPU, by one command that ends within ten minutes; called again, it does what is left.

    python -m benchmarks.gpu_session [--out FOLDER] [--parts published memory ...] [--minutes 9.8] [--smoke]

published: the 3B thinker beside transformers (MFU, share of bandwidth, ratios, load, memory); memory: counted against
torch.cuda.max_memory_allocated; thinker, talker, codec: nano beside transformers on the same card. A part that has its
results in FOLDER is not run again unless --parts names it, and none begins that would not end in time. --smoke runs
the first two on the nano shape on any machine. FOLDER (default benchmarks/results) then holds each part's Markdown and
JSON, and gpu_session.md and gpu_session.json over them; what a part printed is in build/gpu_session, or in FOLDER.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omni_lab.runtime import hardware

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Part:
    """A module to run and what it leaves."""

    command: str  # OUT is the folder
    files: tuple[str, ...]
    seconds: float  # that it may well take, on an H100


PARTS = {
    "published": Part("benchmarks.gpu_published --out OUT", ("gpu_published.md", "gpu_published.json"), 480),
    "memory": Part("benchmarks.memory --out OUT", ("memory_gpu.md", "memory_gpu.json"), 360),
    "thinker": Part("benchmarks.thinker", ("thinker_gpu.md",), 90),
    "talker": Part("benchmarks.talker", ("talker_gpu.md",), 90),
    "codec": Part("benchmarks.codec", ("codec_gpu.md",), 90),
}
SMOKE = {
    "published": Part("benchmarks.gpu_published --smoke --out OUT", ("gpu_smoke.md", "gpu_smoke.json"), 60),
    "memory": Part("benchmarks.memory --rows train_recomputed --out OUT", ("memory.md", "memory.json"), 60),
}


def run_part(part: Part, out: Path, log_path: Path, seconds: float) -> dict[str, Any]:
    """Run one part for at most `seconds`; its files go to `out`."""
    began = time.monotonic()
    words = [str(out) if word == "OUT" else word for word in part.command.split()]
    with log_path.open("w") as log:
        try:
            line = [sys.executable, "-m", *words]
            code = subprocess.run(line, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            code = 124
    for file in part.files:
        if out != RESULTS and "OUT" not in part.command and (RESULTS / file).exists():
            shutil.copy(RESULTS / file, out / file)
    missing = [file for file in part.files if not (out / file).exists()]
    state = f"failed with code {code}" if code else f"left no {missing[0]}" if missing else "done"
    return {"state": state, "seconds": round(time.monotonic() - began, 1), "files": list(part.files)}


def page(found: dict[str, dict[str, Any]], out: Path, parts: dict[str, Part]) -> str:
    """One page over all parts."""
    lines = ["# GPU session", "", f"{hardware().name}, torch {torch.__version__}.", "", "| part | | seconds |"]
    lines += ["|---|---|---|"]
    lines += [f"| {n} | {found[n]['state']} | {found[n]['seconds']} |" if n in found else f"| {n} | not run | |"
              for n in parts]  # fmt: skip
    for name in found:
        for file in found[name]["files"]:
            if file.endswith(".md") and (out / file).exists():
                lines += ["", (out / file).read_text().replace("\n#", "\n##").replace("# ", "## ", 1).strip()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS))
    parser.add_argument("--minutes", type=float, default=9.8, help="of the whole call")
    parser.add_argument("--smoke", action="store_true")
    chosen = parser.parse_args()
    if not chosen.smoke and hardware().device.type != "cuda":
        print("gpu_session: no GPU here: nothing measured (--smoke runs the same code on the nano shape)")
        return
    parts = SMOKE if chosen.smoke else PARTS
    scratch = ROOT / "build" / "gpu_session"
    out = (chosen.out or (scratch if chosen.smoke else RESULTS)).resolve()
    logs = out if chosen.out else scratch
    for folder in (out, logs):
        folder.mkdir(parents=True, exist_ok=True)
    record = out / "gpu_session.json"
    found = json.loads(record.read_text()) if record.exists() else {}
    ends = time.monotonic() + 60 * chosen.minutes
    for name in chosen.parts or parts:
        if name not in parts:
            sys.exit(f"gpu_session: {name} has no smoke size: choose from {', '.join(parts)}")
        if found.get(name, {}).get("state") == "done" and not chosen.parts:
            print(f"{name}: done before; --parts {name} does it again")
            continue
        left = ends - time.monotonic()
        if left < parts[name].seconds:
            print(f"{name}: left for the next call")
            continue
        found[name] = run_part(parts[name], out, logs / f"{name}.log", left)
        print(f"{name}: {found[name]['state']}, {found[name]['seconds']} s", flush=True)
        record.write_text(json.dumps(found, indent=1) + "\n")
        (out / "gpu_session.md").write_text(page(found, out, parts))
    if any(part["state"] != "done" for part in found.values()):
        sys.exit(f"gpu_session: not everything was measured: see the logs in {logs}")


if __name__ == "__main__":
    main()
