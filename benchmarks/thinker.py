"""Thinker beside the reference: same weights, same machine, one process, alternating; medians, ratios, peak memory.

    python -m benchmarks.thinker [--preset nano] [--rounds 7] [--threads N]

Prints a table and writes benchmarks/results/thinker.md (on a GPU thinker_gpu.md).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import described
from omni_lab import cpu_kernels
from omni_lab.config import PRESETS, ThinkerConfig
from omni_lab.encoders import audio
from omni_lab.runtime import hardware
from omni_lab.thinker import IGNORE, Thinker
from tests.thinker_reference import reference, released_names

RESULTS = Path(__file__).parent / "results"
HEADER = """| task | ours | transformers | ours / theirs | peak memory, ours | theirs |
|---|---|---|---|---|---|
"""


def mixed_inputs(config: ThinkerConfig, device: torch.device) -> dict[str, Tensor]:
    """Two rows: a picture of 224 x 224 pixels, 5 s of sound and 100 tokens of text each."""
    grid, frames, merge = torch.tensor([[1, 16, 16]] * 2), 500, config.vision_config.spatial_merge_size
    row = [config.vision_start_token_id, *[config.image_token_index] * (256 // merge**2), config.vision_end_token_id]
    row += [config.audio_start_token_id, *[config.audio_token_index] * audio.token_count(frames)]
    row += [config.audio_end_token_id, *range(10, 110)]
    inputs = dict(
        input_ids=torch.tensor([row, row]),
        pixel_values=torch.randn(512, 3 * 2 * 14 * 14),
        image_grid_thw=grid,
        input_features=torch.randn(2, config.audio_config.num_mel_bins, frames),
        feature_attention_mask=torch.ones(2, frames, dtype=torch.long),
    )
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def train_step(model: torch.nn.Module, inputs: dict[str, Tensor], bf16: bool = False) -> Callable[[], None]:
    """Forward and backward, in float32 or under autocast."""
    device = inputs["input_ids"].device.type
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORE)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = model(**inputs, labels=labels).loss
        loss.backward()

    return step


def tasks(ours: Thinker, theirs: torch.nn.Module, device: torch.device) -> dict[str, tuple[Callable, Callable]]:
    """Name -> (our run, the reference's run)."""
    config = ours.config
    text = torch.randint(0, 1000, (4, 256), device=device)
    text = dict(input_ids=text, attention_mask=torch.ones_like(text))
    mixed = mixed_inputs(config, device)
    lengths = torch.arange(32, 257, 32, device=device)[:, None]  # of eight rows
    ragged = torch.randint(0, 1000, (8, 256), device=device), (torch.arange(256, device=device) < lengths).long()
    ragged = dict(zip(("input_ids", "attention_mask"), ragged, strict=True))
    prompt = {name: tensor[:1, :64] for name, tensor in text.items()}
    padded = {name: tensor[:, :64].clone() for name, tensor in text.items()}
    padded["attention_mask"][0, :20] = 0
    pixels, grid = torch.randn(16 * 256, 1176, device=device), torch.tensor([[16, 16, 16]], device=device)
    mels = torch.randn(config.audio_config.num_mel_bins, 2950, device=device)
    clips = torch.tensor([2000, 950], device=device)

    def training(inputs: dict[str, Tensor], bf16: bool = False) -> tuple[Callable, Callable]:
        return train_step(ours, inputs, bf16), train_step(theirs, inputs, bf16)

    def decoding(inputs: dict[str, Tensor]) -> tuple[Callable, Callable]:
        settings = dict(max_new_tokens=128, min_new_tokens=128, do_sample=False, eos_token_id=None, pad_token_id=0)
        return lambda: ours.generate(128, **inputs), lambda: theirs.generate(**inputs, **settings)

    no_grad = torch.no_grad()
    return {
        "forward + backward, 4 x 256 text": training(text),
        "forward + backward, picture + 5 s sound + text": training(mixed),
        "forward + backward, 8 x 32 to 256 text, padded": training(ragged),
        "forward + backward, 4 x 256 text, bfloat16": training(text, bf16=True),
        "forward + backward, picture + 5 s sound + text, bfloat16": training(mixed, bf16=True),
        "128 tokens, batch 1": decoding(prompt),
        "128 tokens, batch 4, left padding": decoding(padded),
        "vision encoder, 32 frames 224 x 224": (
            no_grad(lambda: ours.visual(pixels, grid)),
            no_grad(lambda: theirs.model.visual(pixels, grid_thw=grid)),
        ),
        "audio encoder, 20 s + 9.5 s": (
            no_grad(lambda: ours.audio_tower(mels, clips)),
            no_grad(lambda: theirs.model.audio_tower(mels, feature_lens=clips)),
        ),
    }


def seconds(run: Callable, device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_bytes(run: Callable, device: torch.device) -> int:
    """Most memory held at once beyond what was held before, in bytes; packed copies of weights are made anew."""
    cpu_kernels.PACKED.clear()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    changes, stack = [], list(record.profiler.kineto_results.experimental_event_tree())
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag == _EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
    held = peak = 0
    for _, change in sorted(changes):
        held += change
        peak = max(peak, held)
    return peak


def measure(preset: str, rounds: int, threads: int) -> str:
    """The table as Markdown."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    here = hardware()
    config = PRESETS[preset]().thinker_config
    theirs, ours = reference(config).to(here.device), Thinker(config).to(here.device)
    ours.load_state_dict(released_names(theirs.state_dict()))
    table = HEADER
    for name, runs in tasks(ours, theirs, here.device).items():
        for model in (ours, theirs):
            model.train("backward" in name)
        times = ([], [])
        for run in runs:
            run()  # warm
        for _ in range(rounds):
            for run, taken in zip(runs, times, strict=True):
                taken.append(seconds(run, here.device))
        mine, other = (statistics.median(taken) for taken in times)
        memory = [peak_bytes(run, here.device) / 2**20 for run in runs]
        row = f"| {name} | {mine * 1e3:.0f} ms | {other * 1e3:.0f} ms | {mine / other:.2f} | "
        row += f"{memory[0]:.0f} MB | {memory[1]:.0f} MB |\n"
        print(row, end="", flush=True)
        table += row
    return (
        f"# Thinker, preset {preset}\n\n{described()}; {threads} threads, float32 where not named, torch "
        f"{torch.__version__}, transformers {transformers.__version__}; medians of {rounds} rounds, ours and theirs "
        f"alternating. Peak memory is what a run holds beyond the weights; copies packed for the CPU count.\n\n{table}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="nano", choices=sorted(PRESETS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    table = measure(options.preset, options.rounds, options.threads)
    RESULTS.mkdir(exist_ok=True)
    name = "thinker_gpu.md" if hardware().device.type == "cuda" else "thinker.md"
    (RESULTS / name).write_text(table)
    print(f"written: benchmarks/results/{name}")


if __name__ == "__main__":
    main()
