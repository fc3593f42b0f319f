"""Steps a second of the thinker's recipe beside the same model trained with `transformers.Trainer`.

    python -m benchmarks.train_thinker [--samples 16] [--steps 4] [--rounds 3] [--threads 1]

Both train the nano thinker with AdamW, clipping and a cosine on the same samples of the nano world, the same number of
them a step, in float32. The samples are encoded once beforehand, so that only training is timed. Ours packs them, mixed
as they come, into one row, as the recipe does on a CPU. The Trainer pads a batch to its longest sample. It is measured
twice: on the very batches that ours takes, mixed as by default, and on the same samples in batches of similar length,
made by the function behind its own option, `group_by_length`, out of as many samples as that sorts at a time. A round's
figure is the mean over all its steps but the first, on the same samples for all; rounds alternate.
The Trainer needs `accelerate`, which the course does not install.
"""

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from omni_lab.data import world
from omni_lab.runtime import hardware
from omni_lab.train import packing
from omni_lab.train.log import read_log
from omni_lab.train.loop import train
from omni_lab.train.recipe import Batch
from omni_lab.train.recipes.thinker import Thinker2
from tests.thinker_reference import reference

Groups = list[list[packing.Encoded]]  # the samples of each step
MOST_SORTED = 50  # batches that `group_by_length` sorts at a time where there are many samples
TASKS = ("text_qa", "picture_qa", "asr", "grounding", "ocr")
OUT = Path(__file__).parent / "results" / "train_thinker.md"


class Timed(Thinker2):
    """The recipe on samples made beforehand: step `i` trains on group `i`."""

    groups_of_samples: Groups

    def batch(self, index: int) -> Batch:
        filled, length = packing.end_to_end([self.groups_of_samples[index]])
        return packing.pack(filled, length, 2016) | {"samples": len(filled[0])}

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        return {}


class Clock(TrainerCallback):
    """Seconds of each of the Trainer's optimiser steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, *args, **kwargs) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *args, **kwargs) -> None:
        self.ends.append(time.perf_counter())


def by_length(samples: list[packing.Encoded], size: int) -> Groups:
    """Batches of `size` samples as the Trainer's `group_by_length` makes them."""
    lengths = [sample["input_ids"].shape[1] for sample in samples]
    order = get_length_grouped_indices(lengths, size, MOST_SORTED, torch.Generator().manual_seed(0))
    return [[samples[i] for i in order[start : start + size]] for start in range(0, len(order), size)]


def draw(batches: Groups, steps: int, seed: int) -> tuple[Groups, Groups]:
    """`steps` of the Trainer's batches: for us and for it. The first is the same; the others' samples we take mixed."""
    rng = random.Random(seed)
    theirs = rng.sample(batches, steps)
    mixed = [sample for batch in theirs[1:] for sample in batch]
    rng.shuffle(mixed)
    size = len(theirs[0])
    return [theirs[0], *(mixed[start : start + size] for start in range(0, len(mixed), size))], theirs


def pad(samples: list[packing.Encoded]) -> dict[str, torch.Tensor]:
    """A padded batch as the reference takes it."""
    rows = {name: [s[name][0] for s in samples] for name in ("input_ids", "labels", "attention_mask")}
    fill = {"input_ids": 2016, "labels": packing.IGNORED, "attention_mask": 0}
    return {k: pad_sequence(v, True, fill[k]) for k, v in rows.items()} | packing.join_media(samples)


def our_seconds(groups: Groups, folder: Path) -> list[float]:
    settings = replace(
        Thinker2.scales["cpu"], steps=len(groups), workers=0, log_every=1, ema=0.0, evaluate_every=0, save_every=10**6
    )
    recipe = Timed(settings)
    recipe.reads = ()
    recipe.groups_of_samples = groups
    train(recipe, folder, device="cpu", progress=False)
    ends = [float(row["seconds"]) for row in read_log(folder / "log.csv") if row["name"] == "loss"]
    return [b - a for a, b in zip([0.0, *ends], ends, strict=False)]


def their_seconds(groups: Groups, folder: Path) -> list[float]:
    clock, config = Clock(), Thinker2.at("cpu").config.thinker_config
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=1, max_steps=len(groups), learning_rate=1e-3, report_to=[],
        lr_scheduler_type="cosine", warmup_steps=1, use_cpu=True, save_strategy="no", logging_steps=1,
        disable_tqdm=True, remove_unused_columns=False, label_names=["labels"], weight_decay=0.01,
        train_sampling_strategy="sequential",  # the batches were drawn before
    )  # fmt: skip
    # One "example" of the data set is a whole padded batch: collating is timed on neither side.
    padded = [pad(group) for group in groups]
    trainer = Trainer(
        reference(config).train(), arguments, data_collator=lambda b: b[0], train_dataset=padded, callbacks=[clock]
    )
    trainer.train()
    return [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=16, help="a step")
    parser.add_argument("--steps", type=int, default=5, help="a round, 2 to 50; the first of each is not counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    recipe = Thinker2.at("cpu")
    places = range(args.samples * MOST_SORTED)
    encoded = [recipe.encode(world.sample(TASKS[i % len(TASKS)], "train", 0, i)) for i in places]
    batches = by_length(encoded, args.samples)
    ours: list[float] = []
    theirs: dict[str, list[float]] = {"batches as they come": [], "grouped by length": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            mixed, grouped = draw(batches, args.steps, number)
            ours.append(statistics.mean(our_seconds(mixed, Path(folder) / f"ours{number}")[1:]))
            for place, (how, given) in enumerate(zip(theirs, (mixed, grouped), strict=True)):
                seconds = their_seconds(given, Path(folder) / f"theirs{number}_{place}")
                theirs[how].append(statistics.mean(seconds[1:]))
    us = statistics.median(ours)
    lines = [
        "# Training the thinker, preset nano, beside transformers.Trainer",
        "",
        f"{hardware('cpu').name}, {args.threads} threads, float32, {args.samples} samples a step of "
        f"{', '.join(TASKS)}; medians of {len(ours)} rounds, alternating, of the mean "
        f"of {args.steps - 1} steps on the same samples; torch {torch.__version__}, transformers "
        f"{transformers.__version__}.",
        "",
        "| | seconds a step | steps a second | ours / theirs |",
        "|---|---|---|---|",
        f"| ours | {us:.3f} | {1 / us:.3f} | |",
    ]
    for how, seconds in theirs.items():
        them = statistics.median(seconds)
        lines.append(f"| transformers.Trainer, {how} | {them:.3f} | {1 / them:.3f} | {them / us:.2f} |")
    print("\n".join(lines))
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
