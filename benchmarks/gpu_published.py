"""The published 3B thinker on one GPU beside transformers: training (MFU), decoding (share of bandwidth), load, memory.

    python -m benchmarks.gpu_published [--smoke] [--out FOLDER]

Random weights of the published shape go to disk in shards and are loaded by both, so that the path of a released
checkpoint is the one that is measured. All in bf16. Writes gpu_published.md and gpu_published.json into
benchmarks/results, or another folder, after each line that was measured. A run that was cut short is gone on with when
card, versions and settings are the same: both models are loaded again, and what is missing is measured. After a whole
one the next begins anew. Without a GPU that holds it, it says so and measures nothing; --smoke runs the same code on
the nano shape, for a minute, on whatever machine there is.
"""

import argparse
import gc
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.thinker import seconds
from omni_lab.config import OmniConfig, TextConfig, preset
from omni_lab.errors import InputError
from omni_lab.evaluate.page import write
from omni_lab.omni import OmniModel
from omni_lab.runtime import free_memory, hardware
from omni_lab.train import memory, utilisation

RESULTS = Path(__file__).parent / "results"
Found = dict[str, Any]  # what has been measured so far
Keep = Callable[[], None]  # writes it
NEEDED = 75e9  # bytes of GPU memory: weights twice, gradients and moments of one, activations
BARS = {"MFU": 0.40, "training, ours over theirs": 1.3, "share of the bandwidth": 0.70, "decoding, ours over theirs": 2}


@dataclass(frozen=True)
class Plan:
    """What is measured, and on what."""

    shape: str
    device: torch.device
    flops: float  # of the machine, a second
    bandwidth: float  # bytes a second
    rows: int = 2  # of a training step
    length: int = 4096
    longest: int = 32768  # tokens of the one row that the report's last stage has
    steps: int = 6  # timed, after two that are not
    new: int = 400  # tokens decoded behind a prompt of 64
    rounds: int = 3  # of decoding
    compiled: bool = True

    @property
    def config(self) -> OmniConfig:
        return replace(preset(self.shape), enable_audio_output=False, speech_tokenizer_config=None)

    @property
    def text(self) -> TextConfig:
        return self.config.thinker_config.text_config

    def ids(self, rows: int, length: int) -> Tensor:
        """Random words, no special tokens: a token's cost does not depend on its meaning."""
        return torch.randint(0, min(self.text.vocab_size - 100, 150_000), (rows, length), device=self.device)


def published_plan() -> Plan | str:
    """The plan for this machine's GPU, or why there is none."""
    here = hardware()
    if here.device.type != "cuda" or here.memory < NEEDED:
        return f"needs an NVIDIA GPU with {NEEDED / 1e9:.0f} GB and there is none here"
    try:
        sheet = utilisation.card(here.name)
    except InputError as error:
        return str(error)
    return Plan("qwen2_5_omni_3b", here.device, sheet.flops, sheet.bandwidth)


def smoke_plan() -> Plan:
    """The same on the nano shape; the roofs are measured, for there is no data sheet."""
    device = hardware().device
    roofs = utilisation.measured_flops(device, size=256), utilisation.measured_bandwidth(device, 8)
    return Plan("nano", device, *roofs, rows=1, length=64, longest=256, steps=1, new=8, rounds=1, compiled=False)


def peak_since(device: torch.device) -> Callable[[], int | None]:
    """A function that tells the most GPU memory held beyond what is held now; None on a CPU."""
    if device.type != "cuda":
        return lambda: None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return lambda: torch.cuda.max_memory_allocated(device) - before


def written(plan: Plan, folder: Path) -> dict[str, Any]:
    """Random weights on the disk, made where they will run, in shards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with plan.device:
        model = OmniModel(plan.config)
    torch.set_default_dtype(before)
    shard = 4 << 20 if plan.shape == "nano" else 5 << 30
    taken = seconds(lambda: model.save_pretrained(folder, shard), plan.device)
    count = sum(p.numel() for p in model.parameters())
    return {"parameters": count, "shards": len(list(folder.glob("*.safetensors"))), "seconds": taken}


def loaded(plan: Plan, folder: Path) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """Our thinker and theirs from one folder, and what loading took."""
    models: list[Any] = []
    taken: dict[str, Any] = {}
    kind, device = transformers.Qwen2_5OmniForConditionalGeneration, plan.device
    loaders = {
        "ours": lambda: OmniModel.from_pretrained(folder, device=device, dtype=torch.bfloat16),
        "transformers": lambda: (
            kind.from_pretrained(folder, dtype=torch.bfloat16).to(device)
            if device.type == "cpu"
            else kind.from_pretrained(folder, dtype=torch.bfloat16, device_map=device)
        ),
    }
    for name, load in loaders.items():
        peak = peak_since(device)
        taken[name] = {"seconds": seconds(lambda load=load: models.append(load()), device), "peak": peak()}
    return models[0].thinker, models[1].thinker.eval(), taken


@torch.no_grad()
def agreement(ours: nn.Module, theirs: nn.Module, ids: Tensor) -> dict[str, float]:
    """How far the logits of both are apart in bf16, and how often they mean the same token."""
    mine, other = ours(input_ids=ids).logits.float(), theirs(input_ids=ids).logits.float()
    same = float((mine.argmax(-1) == other.argmax(-1)).float().mean())
    return {"tokens": ids.shape[1], "apart": float((mine - other).norm() / other.norm()), "same_token": same}


def training(plan: Plan, model: nn.Module, ids: Tensor, **options: object) -> dict[str, Any]:
    """Median seconds of an optimiser step of all that text trains, MFU, and peak bytes beyond all weights."""
    model.train()
    peak = peak_since(plan.device)
    chosen = [p for name, p in model.named_parameters() if not any(part in name for part in ("visual", "audio_tower"))]
    optimiser = torch.optim.AdamW(chosen, lr=1e-6, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids, **options).loss.backward()
        optimiser.step()

    for _ in range(2):
        step()
    taken = statistics.median(seconds(step, plan.device) for _ in range(plan.steps))
    most = peak()
    optimiser.zero_grad(set_to_none=True)
    model.eval()
    flops = utilisation.decoder_flops(plan.text, ids.shape[1])
    speed = ids.numel() / taken
    found = {"rows": ids.shape[0], "length": ids.shape[1], "seconds": taken, "tokens_per_second": speed, "peak": most}
    return found | {"mfu": utilisation.mfu(speed, flops, plan.flops)}


def trained(plan: Plan, ours: Any, theirs: Any, found: Found, keep: Keep) -> None:
    """Both as they are, both compiled, and ours on the longest row with its layers recomputed, if that fits."""
    ids, done = plan.ids(plan.rows, plan.length), found.setdefault("trained", {})
    long = "ours, one long row, recomputed"

    def add(name: str, model: nn.Module, ids: Tensor, **options: object) -> None:
        done[name] = training(plan, model, ids, **options)
        gc.collect()  # the optimiser's moments go before the next model's come
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()
        print(name, done[name], flush=True)
        keep()

    if "ours" not in done:
        add("ours", ours, ids, logits_to_keep=0)
    if "transformers" not in done:
        add("transformers", theirs, ids, use_cache=False)
    need = memory.training_memory(plan.text, 1, plan.longest, "bfloat16", checkpointed=True)
    if long not in done and need.peak - need.weights < free_memory(hardware(plan.device)):
        ours.gradient_checkpointing(True)
        add(long, ours, plan.ids(1, plan.longest), logits_to_keep=0)
        ours.gradient_checkpointing(False)
    elif long not in done:
        print(f"a row of {plan.longest} tokens needs {(need.peak - need.weights) / 1e9:.0f} GB more: left out")
    if plan.compiled and "ours, compiled" not in done:
        ours.model.compile()
        add("ours, compiled", ours, ids, logits_to_keep=0)
    if plan.compiled and "transformers, compiled" not in done:
        theirs.model.compile()
        add("transformers, compiled", theirs, ids, use_cache=False)


def decoded(plan: Plan, ours: Any, theirs: Any, found: Found, keep: Keep) -> None:
    """Tokens a second at batch 1 and 8: of whole replies, and between their second and last token."""
    fixed = dict(do_sample=False, eos_token_id=None, pad_token_id=0)
    rows = found.setdefault("decoded", [])
    for batch in (1, 8):
        ids = plan.ids(batch, 64)
        mask = torch.ones_like(ids)
        runs = {
            "ours": lambda n, ids=ids: ours.generate(n, input_ids=ids),
            "transformers": lambda n, ids=ids, mask=mask: theirs.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, **fixed
            ),
        }
        for name, run in runs.items():
            if not any(row["batch"] == batch and row["name"] == name for row in rows):
                rows.append({"batch": batch, "name": name} | decoding(plan, run, batch))
                print(rows[-1], flush=True)
                keep()


def decoding(plan: Plan, run: Callable[[int], object], batch: int) -> dict[str, Any]:
    """One line of `decoded`; run: makes as many tokens in each of the batch's rows as it is told."""
    run(plan.new)  # warm
    peak = peak_since(plan.device)
    whole, start = (
        statistics.median(seconds(lambda n=n: run(n), plan.device) for _ in range(plan.rounds)) for n in (plan.new, 2)
    )
    flow = batch * (plan.new - 2) / max(whole - start, 1e-9)
    limit = utilisation.decoder_limit(plan.text, 64 + plan.new // 2, plan.bandwidth, batch)
    return {"whole": batch * plan.new / whole, "flow": flow, "peak": peak(), "share": flow / limit}


def verdicts(train: dict[str, dict[str, Any]], decode: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What the course asks of itself, beside what was measured: ours at its best, and as like with like."""
    ours, theirs = (
        ("ours, compiled", "transformers, compiled") if "ours, compiled" in train else ("ours", "transformers")
    )
    one = {row["name"]: row for row in decode if row["batch"] == 1}
    reached = {
        "MFU": max(train[name]["mfu"] for name in {ours, "ours"}),
        "training, ours over theirs": train[theirs]["seconds"] / train[ours]["seconds"],
        "share of the bandwidth": one["ours"]["share"],
        "decoding, ours over theirs": one["ours"]["whole"] / one["transformers"]["whole"],
    }
    return {name: {"asked": BARS[name], "measured": value} for name, value in reached.items()}


def ratios(train: dict[str, dict[str, Any]]) -> str:
    """Speed of our training step over theirs, each way of comparing, in words."""
    pairs = [("each as it is", "ours", "transformers"), ("both compiled", "ours, compiled", "transformers, compiled")]
    pairs.append(("ours compiled, theirs as it is", "ours, compiled", "transformers"))
    told = [
        f"{how} {train[b]['seconds'] / train[a]['seconds']:.2f}" for how, a, b in pairs if a in train and b in train
    ]
    return f"Speed, ours over theirs: {'; '.join(told) or 'not yet measured'}."


def gigabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e9:.1f} GB"


def page(found: Found) -> str:
    """The results as Markdown; of a run that was cut short, those that are there."""
    made, agreed, count = found["written"], found["agreement"], found["counted"]
    calls = "" if found["calls"] == 1 else f"; measured in {found['calls']} calls"
    loads = [f"| {n} | {r['seconds']:.1f} | {gigabytes(r['peak'])} |" for n, r in found["loaded"].items()]
    steps = [
        f"| {n} | {r['rows']} x {r['length']} | {r['seconds']:.3f} | {r['tokens_per_second']:.0f} | {r['mfu']:.1%} | "
        f"{gigabytes(r['peak'])} |"
        for n, r in found.get("trained", {}).items()
    ]
    replies = [
        f"| {r['batch']} | {r['name']} | {r['whole']:.0f} | {r['flow']:.0f} | {r['share']:.1%} | "
        f"{gigabytes(r['peak'])} |"
        for r in found.get("decoded", [])
    ]
    asked = [f"| {n} | {v['asked']:g} | {v['measured']:.2f} |" for n, v in found.get("verdicts", {}).items()]
    if not found["whole"]:
        asked.append("| cut short: called again, it goes on | | |")
    return "\n".join([
        f"# The thinker of {found['shape']} on one machine, beside transformers",
        "",
        f"{found['hardware']}, {found['date']}, bf16, torch {found['torch']}, transformers "
        f"{found['transformers']}{calls}. Random weights: {made['parameters'] / 1e9:.2f} billion parameters in "
        f"{made['shards']} shards, written in {made['seconds']:.1f} s. Logits on {agreed['tokens']} tokens differ by "
        f"{agreed['apart']:.2%} (norm; bf16 rounds to {2**-8:.2%}); the most likely token is the same at "
        f"{agreed['same_token']:.1%} of the places.",
        "", "| | asked | measured |", "|---|---|---|", *asked,
        "", "| loading | seconds | peak memory |", "|---|---|---|", *loads,
        "", "## Decoding, greedy, behind 64 tokens", "",
        "| batch | | tokens a second, whole reply | in full flow | share of the bandwidth limit | peak memory |",
        "|---|---|---|---|---|---|", *replies,
        "", "## Training, AdamW, all in bf16", "",
        "| | rows | seconds a step | tokens a second | MFU | peak memory, all weights apart |",
        "|---|---|---|---|---|---|", *steps,
        "", f"{ratios(found.get('trained', {}))} Counted before the run for the first line: {gigabytes(count)}.", "",
    ])  # fmt: skip


def settings(plan: Plan) -> Found:
    """What must be the same for one run to go on with another's figures."""
    told = {name: value for name, value in asdict(plan).items() if name != "device"}
    if plan.shape == "nano":  # whose roofs were measured, and are never the same twice
        told |= {"flops": None, "bandwidth": None}
    here = {"hardware": hardware().name, "torch": torch.__version__, "transformers": transformers.__version__}
    return {"shape": plan.shape, **here, "plan": told}


def begun(path: Path, plan: Plan) -> Found:
    """What an earlier run with these settings has measured and did not end; else an empty record."""
    known = json.loads(path.read_text()) if path.exists() else {}
    if known and not known.get("whole", True) and all(known.get(n) == told for n, told in settings(plan).items()):
        print(f"goes on with {path}, begun on {known['date']}", flush=True)
        return known
    roofs = {"flops": plan.flops, "bandwidth": plan.bandwidth}
    return {**settings(plan), "roofs": roofs, "date": date.today().isoformat(), "calls": 0, "whole": False}


def measure(plan: Plan, found: Found, keep: Keep) -> None:
    """All that is not yet in `found`; `keep` is called whenever a line is there."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    plan = replace(plan, **found["roofs"])
    need = memory.training_memory(plan.text, plan.rows, plan.length, "bfloat16")
    found["counted"] = need.peak - need.weights
    with tempfile.TemporaryDirectory() as scratch:
        found["calls"] += 1
        found.setdefault("written", written(plan, Path(scratch) / "checkpoint"))
        keep()
        ours, theirs, load = loaded(plan, Path(scratch) / "checkpoint")
        found.setdefault("loaded", load)
        keep()
        if "agreement" not in found:
            found["agreement"] = agreement(ours, theirs, plan.ids(1, min(plan.length, 512)))
        print(*(found[name] for name in ("written", "loaded", "agreement")), sep="\n", flush=True)
        keep()
        decoded(plan, ours, theirs, found, keep)
        trained(plan, ours, theirs, found, keep)
    found |= {"verdicts": verdicts(found["trained"], found["decoded"]), "whole": True}
    keep()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the nano shape on any machine")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    plan = smoke_plan() if chosen.smoke else published_plan()
    if isinstance(plan, str):
        print(f"gpu_published: {plan}: nothing measured")
        return
    path = chosen.out / ("gpu_smoke.json" if chosen.smoke else "gpu_published.json")
    found = begun(path, plan)

    def keep() -> None:
        write(path, json.dumps(found, indent=1) + "\n")
        if "agreement" in found:  # before there is no table
            write(path.with_suffix(".md"), page(found))

    measure(plan, found, keep)
    print(page(found))


if __name__ == "__main__":
    main()
