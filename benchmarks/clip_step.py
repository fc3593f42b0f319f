"""A training step of our CLIP against `open_clip`'s, with the same towers, weights, batch and threads.

    python -m benchmarks.clip_step [--steps 15] [--threads 1] [--batch 64]

Steps of the two libraries alternate, so that whatever else the machine does hits both alike. Times are medians. The CPU
time of the process is given beside wall time, because a busy machine stretches only the latter.
"""

import argparse
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import open_clip
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from torch import Tensor, nn

from benchmarks.machine import described
from omni_lab import clip, runtime
from omni_lab.clip_config import CLIPConfig, ImageTowerConfig, TextTowerConfig

TEXT = TextTowerConfig(vocab_size=2048, context_length=16, width=128, heads=4, layers=2)
TOWERS = {
    "modified ResNet, 64 px": CLIPConfig(192, ImageTowerConfig(64, 32, (2, 2, 2, 2), 16), TEXT),
    "ViT, 64 px, patch 8": CLIPConfig(192, ImageTowerConfig(64, 192, (6,), 6, patch_size=8), TEXT),
}
OUT = Path(__file__).parent / "results" / "clip_step.md"


def theirs(config: CLIPConfig) -> CustomTextCLIP:
    """`open_clip`'s model of the same shape."""
    vision, text = config.vision, config.text
    resnet = not vision.patch_size
    # open_clip computes heads = width * 32 / head_width for a ResNet (its feature width), width / head_width for a ViT.
    features = vision.width * 32 if resnet else vision.width
    shape = CLIPVisionCfg(
        layers=vision.layers if resnet else vision.layers[0],
        width=vision.width,
        head_width=features // vision.heads,
        patch_size=vision.patch_size or 16,
        image_size=vision.image_size,
    )
    return CustomTextCLIP(config.embed_dim, shape, CLIPTextCfg(**asdict(text)))


def their_loss(model: CustomTextCLIP, pictures: Tensor, tokens: Tensor) -> Tensor:
    """Its forward pass and loss as its training script calls them, the clamp of the scale included."""
    images, texts, scale = model(pictures, tokens)
    return ClipLoss()(images, texts, scale.clamp(max=100))


def step(model: nn.Module, optimiser: torch.optim.Optimizer, loss) -> tuple[float, float, float]:
    """One training step: wall seconds, CPU seconds, loss."""
    wall, cpu = time.perf_counter(), time.process_time()
    optimiser.zero_grad(set_to_none=True)
    value = loss(model)
    value.backward()
    optimiser.step()
    return time.perf_counter() - wall, time.process_time() - cpu, value.item()


def compare(config: CLIPConfig, batch: int, steps: int) -> dict[str, list[tuple[float, float, float]]]:
    """Interleaved steps of both on the same batches, from the same weights."""
    generator = runtime.seed_everything(0)
    their_model, our_model = theirs(config).train(), clip.CLIP(config).train()
    our_model.load_state_dict(their_model.state_dict())
    models = {"open_clip": (their_model, their_loss), "omni_lab": (our_model, lambda m, x, t: m(x, t))}
    optimisers = {name: torch.optim.AdamW(model.parameters(), 1e-4) for name, (model, _) in models.items()}
    taken = {name: [] for name in models}
    for number in range(steps + 2):
        pictures = torch.randn(batch, 3, config.vision.image_size, config.vision.image_size, generator=generator)
        tokens = torch.randint(2, config.text.vocab_size - 1, (batch, config.text.context_length), generator=generator)
        tokens[:, -1] = config.text.vocab_size - 1
        order = list(models) if number % 2 else list(models)[::-1]
        for name in order:
            model, loss = models[name]
            result = step(model, optimisers[name], lambda m, loss=loss, x=pictures, t=tokens: loss(m, x, t))
            if number >= 2:  # the first steps fill caches
                taken[name].append(result)
    return taken


def row(title: str, taken: dict[str, list[tuple[float, float, float]]]) -> str:
    """A line of the table, in milliseconds."""
    medians = [[1000 * statistics.median(s[k] for s in taken[name]) for name in taken] for k in (0, 1)]
    apart = max(abs(a[2] - b[2]) for a, b in zip(*taken.values(), strict=True))
    (wall_theirs, wall_ours), (cpu_theirs, cpu_ours) = medians
    return (
        f"| {title} | {wall_theirs:.0f} | {wall_ours:.0f} | {wall_ours / wall_theirs:.2f} | {cpu_theirs:.0f} "
        f"| {cpu_ours:.0f} | {cpu_ours / cpu_theirs:.2f} | {apart:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    with runtime.threads(given.threads):
        rows = [row(title, compare(config, given.batch, given.steps)) for title, config in TOWERS.items()]
    table = "\n".join([
        f"Training step (forward, loss, backward, AdamW), batch {given.batch}, {given.threads} thread(s), float32, "
        f"{described()}, torch {torch.__version__}, open_clip {open_clip.__version__}; medians of "
        f"{given.steps} interleaved steps, milliseconds. Ratio: ours / theirs.",
        "",
        "| towers | open_clip, wall | omni_lab, wall | ratio | open_clip, CPU | omni_lab, CPU | ratio | losses apart |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(table)
    print(table)


if __name__ == "__main__":
    main()
