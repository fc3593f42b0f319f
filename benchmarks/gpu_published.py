"""The published 3B thinker on one GPU beside transformers: training (MFU), decoding (share of bandwidth), load, memory.

    python -m benchmarks.gpu_published

Random weights of the published shape go to disk in shards and are loaded by both, so that the path of a released
checkpoint is the one that is measured. All in bf16. Prints its tables and writes benchmarks/results/gpu_published.md.
Without a GPU that holds it, it says so and measures nothing.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from omni_lab.config import OmniConfig, preset
from omni_lab.errors import InputError
from omni_lab.omni import OmniModel
from omni_lab.runtime import hardware
from omni_lab.train import memory, utilisation

OUT = Path(__file__).parent / "results" / "gpu_published.md"
NEEDED = 75e9  # bytes of GPU memory: weights twice, gradients and moments of one, activations
ROWS, LENGTH = 2, 4096  # of a training step
STEPS = 6  # timed, after two that are not
NEW = 400  # tokens decoded behind a prompt of 64


def timed(run: Callable[[], object]) -> float:
    """Seconds of `run()`, to the end of the GPU's work."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def written(config: OmniConfig, folder: Path) -> str:
    """Random weights of `config` on the disk, made on the GPU; returns what they are, in words."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = OmniModel(config)
    torch.set_default_dtype(before)
    taken = timed(lambda: model.save_pretrained(folder))
    count, shards = sum(p.numel() for p in model.parameters()), len(list(folder.glob("*.safetensors")))
    return f"{count / 1e9:.2f} billion parameters in {shards} shards, written in {taken:.1f} s"


def loaded(folder: Path) -> tuple[nn.Module, nn.Module, str]:
    """Our thinker and theirs from one folder, and seconds and peak memory of each as a table."""
    models, rows = [], ["| | seconds to load | peak GPU memory while loading |", "|---|---|---|"]
    kind = transformers.Qwen2_5OmniForConditionalGeneration
    loaders = {
        "ours": lambda: OmniModel.from_pretrained(folder, device="cuda", dtype=torch.bfloat16),
        "transformers": lambda: kind.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda"),
    }
    for name, load in loaders.items():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        taken = timed(lambda load=load: models.append(load()))
        peak = torch.cuda.max_memory_allocated() - before
        rows.append(f"| {name} | {taken:.1f} | {peak / 1e9:.1f} GB |")
    return models[0].thinker, models[1].thinker, "\n".join(rows)


@torch.no_grad()
def agreement(ours: nn.Module, theirs: nn.Module, ids: Tensor) -> str:
    """How far the logits of both are apart, in bf16, beside what rounding itself does."""
    mine, other = ours(input_ids=ids).logits.float(), theirs(input_ids=ids).logits.float()
    apart = float((mine - other).norm() / other.norm())
    same = float((mine.argmax(-1) == other.argmax(-1)).float().mean())
    return f"Logits on {ids.shape[1]} tokens differ by {apart:.2%} (norm; bf16 rounds to {2**-8:.2%}), "\
        f"the most likely token is the same at {same:.1%} of the places."  # fmt: skip


def training(model: nn.Module, ids: Tensor, **options: object) -> tuple[float, int]:
    """Median seconds of an optimiser step of all that text trains, and peak bytes of the GPU beyond other models."""
    model.train()
    before = torch.cuda.memory_allocated()
    chosen = [p for name, p in model.named_parameters() if not any(part in name for part in ("visual", "audio_tower"))]
    optimiser = torch.optim.AdamW(chosen, lr=1e-6, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids, **options).loss.backward()
        optimiser.step()

    for _ in range(2):
        step()
    torch.cuda.reset_peak_memory_stats()
    taken = statistics.median(timed(step) for _ in range(STEPS))
    peak = torch.cuda.max_memory_allocated() - before
    optimiser.zero_grad(set_to_none=True)
    model.eval()
    return taken, peak


def training_table(ours: nn.Module, theirs: nn.Module, config: OmniConfig, peak_flops: float) -> str:
    """MFU and memory of both, each as it is and compiled."""
    text = config.thinker_config.text_config
    ids = torch.randint(0, 150_000, (ROWS, LENGTH), device="cuda")
    flops = utilisation.decoder_flops(text, LENGTH)
    rows = ["| | seconds a step | tokens a second | MFU | peak memory, its weights apart |", "|---|---|---|---|---|"]
    taken = {}

    def add(name: str, model: nn.Module, **options: object) -> None:
        seconds, peak = training(model, ids, **options)
        gc.collect()  # the optimiser's moments go before the next model's come
        torch.cuda.empty_cache()
        taken[name] = seconds
        share = utilisation.mfu(ids.numel() / seconds, flops, peak_flops)
        rows.append(f"| {name} | {seconds:.3f} | {ids.numel() / seconds:.0f} | {share:.1%} | {peak / 1e9:.1f} GB |")
        print(rows[-1], flush=True)

    add("ours", ours, logits_to_keep=0)
    add("transformers", theirs, use_cache=False)
    ours.model.compile()
    add("ours, compiled", ours, logits_to_keep=0)
    theirs.model.compile()
    add("transformers, compiled", theirs, use_cache=False)
    need = memory.training_memory(text, ROWS, LENGTH, "bfloat16")
    rows.append("")
    rows.append(f"Speed, ours over theirs: {taken['transformers'] / taken['ours']:.2f}; both compiled "
                f"{taken['transformers, compiled'] / taken['ours, compiled']:.2f}; ours compiled over theirs as it is "
                f"{taken['transformers'] / taken['ours, compiled']:.2f}. Counted before the run, without compiling: "
                f"{(need.peak - need.weights) / 1e9:.1f} GB.")  # fmt: skip
    return "\n".join(rows)


def decoding_table(ours: nn.Module, theirs: nn.Module, config: OmniConfig, bandwidth: float) -> str:
    """Tokens a second at batch 1 and 8, whole replies and between their second and last token."""
    text = config.thinker_config.text_config
    rows = [
        "| batch | | tokens a second, whole reply | in full flow | share of the bandwidth limit |",
        "|---|---|---|---|---|",
    ]
    fixed = dict(do_sample=False, eos_token_id=None, pad_token_id=0)
    for batch in (1, 8):
        ids = torch.randint(0, 150_000, (batch, 64), device="cuda")
        mask = torch.ones_like(ids)
        limit = utilisation.decoder_limit(text, 64 + NEW // 2, bandwidth, batch)
        runs = {
            "ours": lambda n, ids=ids: ours.generate(n, input_ids=ids),
            "transformers": lambda n, ids=ids, mask=mask: theirs.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, **fixed
            ),
        }
        for name, run in runs.items():
            run(NEW)  # warm
            whole = statistics.median(timed(lambda run=run: run(NEW)) for _ in range(3))
            start = statistics.median(timed(lambda run=run: run(2)) for _ in range(3))
            flow = batch * (NEW - 2) / (whole - start)
            rows.append(f"| {batch} | {name} | {batch * NEW / whole:.0f} | {flow:.0f} | {flow / limit:.1%} |")
            print(rows[-1], flush=True)
    return "\n".join(rows)


def main() -> None:
    if not torch.cuda.is_available() or hardware().memory < NEEDED:
        print(f"gpu_published needs an NVIDIA GPU with {NEEDED / 1e9:.0f} GB and there is none here: nothing measured")
        return
    here = hardware()
    try:
        sheet = utilisation.card(here.name)
    except InputError as error:
        print(f"gpu_published: {error}: nothing measured")
        return
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = replace(preset("qwen2_5_omni_3b"), enable_audio_output=False)
    with tempfile.TemporaryDirectory() as scratch:
        about = written(config, Path(scratch) / "checkpoint")
        print(about, flush=True)
        ours, theirs, load = loaded(Path(scratch) / "checkpoint")
    print(load, flush=True)
    agreed = agreement(ours, theirs, torch.randint(0, 150_000, (1, 512), device="cuda"))
    print(agreed, flush=True)
    decoded = decoding_table(ours, theirs, config, sheet.bandwidth)
    trained = training_table(ours, theirs, config, sheet.flops)
    page = [
        "# The published 3B thinker on one GPU",
        f"{here.name}, bf16, torch {torch.__version__}, transformers {transformers.__version__}. Random weights: "
        f"{about}.",
        load,
        agreed,
        f"## Decoding, greedy, {NEW} tokens behind 64",
        decoded,
        f"## Training, {ROWS} rows of {LENGTH} tokens, AdamW, all in bf16, nothing recomputed",
        trained,
    ]
    OUT.write_text("\n\n".join(page) + "\n")
    print(f"written: benchmarks/results/{OUT.name}")


if __name__ == "__main__":
    main()
