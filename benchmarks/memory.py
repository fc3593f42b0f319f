"""The memory that was counted beforehand against what was measured: steps of training, and replies.

    python -m benchmarks.memory [--rows NAME ...]

Each line is a process of its own. Its peak is measured twice: what torch's allocator gave at most (on a GPU
torch.cuda.max_memory_allocated), and by how much the process grew (the kernel's figure, resource.getrusage), which
also sees fragmentation and the libraries' workspaces. Writes benchmarks/results/memory.md and .json (on a GPU
memory_gpu.*) after each line, and tells how far off the count is. A run that was cut short is gone on with on the same
machine with the same torch; after a whole one the next begins anew. --rows measures the lines named, and keeps the
others.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.machine import processor
from benchmarks.thinker import peak_bytes
from omni_lab import decoding
from omni_lab.config import ThinkerConfig, preset
from omni_lab.errors import OmniLabError
from omni_lab.evaluate.page import write
from omni_lab.runtime import free_memory, hardware
from omni_lab.thinker import Thinker
from omni_lab.train import memory
from omni_lab.train.optimise import adamw
from omni_lab.train.recipe import Settings

RESULTS = Path(__file__).parent / "results"
MB = 1e6
WHY = """The count is of tensors that grow with the model or the batch. It leaves out rotary tables, statistics of norms
and softmax, and a layer's passing work. Under autocast a CPU takes each norm apart and keeps its pieces in float32; a
GPU has one kernel for it, and the count follows the GPU. The process grows by more than the allocator's peak, for freed
pieces are not all given back to the system, and libraries have workspaces of their own."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    preset: str
    rows: int
    length: int  # tokens of a training row, or of a prompt
    precision: str = "float32"
    recomputed: bool = False
    new: int = 0  # tokens of the reply; 0: a step of training

    @property
    def title(self) -> str:
        if self.new:
            return f"reply, {self.preset}, {self.rows} x {self.length} + {self.new} tokens"
        how = ", recomputed" if self.recomputed else ""
        return f"training, {self.preset}, {self.rows} x {self.length} tokens, {self.precision}{how}"


CASES = {
    "train": Case("nano", 2, 512),
    "train_long": Case("nano", 1, 2048),
    "train_recomputed": Case("nano", 2, 512, recomputed=True),
    "train_autocast": Case("nano", 2, 256, "autocast"),
    "train_small": Case("small", 1, 128),
    "reply": Case("nano", 1, 2048, new=16),
    "reply_batch": Case("nano", 16, 256, new=16),
    "reply_small": Case("small", 4, 128, new=4),
}
ON_A_GPU = {
    "train_3b": Case("qwen2_5_omni_3b", 2, 4096, "bfloat16"),
    "train_3b_recomputed": Case("qwen2_5_omni_3b", 2, 4096, "bfloat16", recomputed=True),
    "train_3b_32k": Case("qwen2_5_omni_3b", 1, 32768, "bfloat16", recomputed=True),
    "reply_3b": Case("qwen2_5_omni_3b", 1, 8192, "bfloat16", new=64),
    "reply_3b_batch": Case("qwen2_5_omni_3b", 16, 2048, "bfloat16", new=64),
}


def decoder(config: ThinkerConfig, dtype: torch.dtype, device: torch.device) -> Thinker:
    """A thinker of which only the decoder has weights: text needs no encoders, and they are not counted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device("meta"):
        model = Thinker(config)
    torch.set_default_dtype(before)
    fresh = {  # rotary tables and the like are no parameters, and cheap to make again
        name: torch.empty_like(p, device=device).normal_(std=0.02)
        for name, p in model.named_parameters()
        if name.startswith(("model.", "lm_head."))
    }
    for name, tensor in fresh.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(tensor))
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def training(case: Case, device: torch.device) -> Callable[[], None]:
    """Two optimiser steps: the second meets everything that the first has left."""

    def run() -> None:
        config = preset(case.preset).thinker_config
        model = decoder(config, torch.bfloat16 if case.precision == "bfloat16" else torch.float32, device).train()
        model.model.gradient_checkpointing = case.recomputed
        learning = [p for name, p in model.named_parameters() if name.startswith(("model.", "lm_head."))]
        optimiser = adamw([{"params": learning}], Settings(2, case.rows, 1e-4), device)
        ids = torch.randint(0, 2000, (case.rows, case.length), device=device)
        for _ in range(2):
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "autocast"):
                loss = model(input_ids=ids, labels=ids, logits_to_keep=0).loss
            loss.backward()
            optimiser.step()

    return run


def replying(case: Case, device: torch.device) -> Callable[[], None]:
    """A reply of `new` tokens to each row."""

    def run() -> None:
        dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
        model = decoder(preset(case.preset).thinker_config, dtype, device).eval()
        model.generate(case.new, input_ids=torch.randint(0, 2000, (case.rows, case.length), device=device))

    return run


def counted(case: Case, device: torch.device) -> int:
    """What the package says beforehand."""
    config = preset(case.preset).thinker_config
    text, tied = config.text_config, config.tie_word_embeddings
    if not case.new:
        held = memory.decoder_parameters(text, tied)
        return memory.training_memory(
            text, case.rows, case.length, case.precision, case.recomputed, parameters=held, learning=held
        ).peak
    size = 2 if case.precision == "bfloat16" else 4
    new = min(case.new, decoding.ROOM)
    if device.type == "cuda":
        new = max(new, decoding.StaticStepper.BLOCK)
    return memory.inference_memory(text, case.rows, case.length, new, size, tied).peak


def measured(name: str) -> dict[str, Any]:
    """Run one case in this process."""
    case, device = {**CASES, **ON_A_GPU}[name], hardware().device
    run = (replying if case.new else training)(case, device)
    small = Case("nano", 1, 16, case.precision, new=min(case.new, 2))
    (replying if case.new else training)(small, device)()  # loads what the libraries load once
    process = psutil.Process()
    before, most_before = process.memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    run()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cpu" and most == most_before:
        raise OmniLabError(f"{case.title}: needs less than importing torch, nothing can be said of the process")
    grown = most - before if device.type == "cpu" else None  # a GPU's memory is none of the process's
    own = peak_bytes(run, device)
    return {"case": asdict(case), "counted": counted(case, device), "allocated": own, "grown": grown}


def alone(name: str, on_card: bool) -> dict[str, Any]:
    """`measured(name)` in a process of its own: forked, for imports cost seconds, but where there is a GPU started."""
    if on_card:  # CUDA does not survive a fork
        done = subprocess.run([sys.executable, "-m", "benchmarks.memory", "--one", name], stdout=subprocess.PIPE)
        code, told = done.returncode, done.stdout.decode()
    else:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            try:
                os.write(writer, json.dumps(measured(name)).encode())
                code = 0
            except BaseException:  # the child must not go on as its parent
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            told = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OmniLabError(f"{name} failed, see above")
    return json.loads(told.splitlines()[-1])


def page(found: dict[str, dict[str, Any]]) -> str:
    """The table."""
    machines = dict.fromkeys(row.get("on", "machine not noted") for row in found.values())
    days = sorted({row["date"] for row in found.values() if "date" in row})
    lines = [
        "# Memory: counted before, measured after",
        "",
        f"{', '.join([*machines, *days])}. Decoder with embedding and head, AdamW; each line is a process of its own.",
        "",
        "| | counted | torch's allocator, peak | counted / allocator | process grew by | counted / process |",
        "|---|---|---|---|---|---|",
    ]
    for row in found.values():
        count, own, grown = row["counted"], row["allocated"], row["grown"]
        process = f"{grown / MB:.0f} MB | {count / grown:.2f}" if grown else "-"
        title = Case(**row["case"]).title + (f" ({row.get('on', 'machine not noted')})" if len(machines) > 1 else "")
        lines.append(f"| {title} | {count / MB:.0f} MB | {own / MB:.0f} MB | {count / own:.2f} | {process} |")
    lines += ["", WHY]
    return "\n".join(lines) + "\n"


def here() -> str:
    """On what a line is measured. Lines of one machine and torch may stand in one table."""
    name = hardware().name if hardware().device.type == "cuda" else f"{hardware().name} ({processor()})"
    return f"{name}, torch {torch.__version__}"


def keep(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Write what has been measured so far."""
    write(path, json.dumps(found, indent=1) + "\n")
    write(path.with_suffix(".md"), page(found))


def fits(case: Case) -> bool:
    """Whether there is memory for it; says so if not."""
    need, there = counted(case, hardware().device), free_memory(hardware())
    if need > there:
        print(f"{case.title}: needs {need / 1e9:.1f} GB and {there / 1e9:.1f} GB are there: left out")
    return need <= there


def begun(known: dict[str, dict[str, Any]], cases: dict[str, Case]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Of `cases`, lines that an earlier run measured here, and those to be measured: what is missing, or all anew."""
    kept = {n: r for n, r in known.items() if n in cases and r.get("on") == here() and r["case"] == asdict(cases[n])}
    wanted = [name for name, case in cases.items() if name in kept or fits(case)]
    missing = [name for name in wanted if name not in kept]
    return (kept, missing) if missing else ({}, wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="*", help="lines of the table to measure; the others keep their last figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measured(chosen.one)))
        return
    on_card = hardware().device.type == "cuda"
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / ("memory_gpu.json" if on_card else "memory.json")
    cases = {**CASES, **ON_A_GPU} if on_card else CASES
    known = json.loads(path.read_text()) if path.exists() else {}
    if chosen.rows is None:
        found, missing = begun(known, cases)
    else:
        found, missing = known, [name for name in chosen.rows if fits(cases[name])]
    for row in found.values():  # measured before; the count may have changed
        row["counted"] = counted(Case(**row["case"]), hardware().device)
    if found:
        print(f"measured before: {', '.join(found)}")
    failed = []
    for name in missing:
        try:
            found[name] = alone(name, on_card) | {"on": here(), "date": date.today().isoformat()}
        except OmniLabError as error:  # the other lines can still be had
            failed.append(str(error))
            continue
        print(name, found[name], flush=True)
        found = {line: found[line] for line in cases if line in found}
        keep(found, path)
    if found:
        keep(found, path)
        print(page(found))
    if failed:
        sys.exit(f"memory: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
