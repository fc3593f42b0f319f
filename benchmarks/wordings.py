"""Held-out items asked for in three ways: as in the suite, as in training's other wordings, and as never before.

    python -m benchmarks.wordings [--checkpoint FOLDER] [--items 100]

Writes benchmarks/results/wordings.md. WER for speech (less is better), else the share of right replies.
"""

import argparse
from datetime import date
from pathlib import Path

import torch

from omni_lab.data import wordings
from omni_lab.data.folders import samples_folder
from omni_lab.data.sample import Sample
from omni_lab.data.splits import generator
from omni_lab.evaluate.asking import ask, items
from omni_lab.evaluate.metrics import same_answer, word_error_rate
from omni_lab.evaluate.tasks.hearing import musical
from omni_lab.omni import OmniModel
from omni_lab.runtime import hardware

RESULTS = Path(__file__).parent / "results"
TASKS = {
    "asr": "speech, WER", "sound_events": "a sound, named", "music": "key, metre, tempo", "ocr": "a word, read",
    "picture_arithmetic": "a written sum, solved",
}  # fmt: skip
ASKED = {"the suite's": None, "training's others": wordings.OTHERS, "never trained on": wordings.HELD_OUT}


def score(task: str, samples: list[Sample], replies: list[str]) -> float:
    """As the suite scores this task."""
    if task == "asr":
        return word_error_rate([sample.answer for sample in samples], replies)
    pairs = list(zip(samples, replies, strict=True))
    if task == "music":
        return sum(all(musical(sample.meta["piece"], reply)) for sample, reply in pairs) / len(pairs)
    return sum(same_answer(sample.answer, reply) for sample, reply in pairs) / len(pairs)


def measure(model: OmniModel, count: int) -> dict[str, list[float]]:
    """Task -> its score in each way of ASKED."""
    found = {}
    for task in TASKS:
        samples = items(task, count, 0)
        found[task] = []
        for name, known in ASKED.items():
            rng = generator(f"wordings, {name}", "test", 0, 0)
            asked = samples if known is None else [wordings.in_other_words(sample, rng, known) for sample in samples]
            found[task].append(score(task, asked, ask(model, asked, progress=f"{task}, {name}")))
    return found


def page(found: dict[str, list[float]], checkpoint: str, count: int) -> str:
    """The table, in Markdown."""
    rows = [f"| {TASKS[task]} | " + " | ".join(f"{value:.3f}" for value in row) + " |" for task, row in found.items()]
    return "\n".join([
        "# Requests in other words",
        "",
        f"{checkpoint} on {hardware('cpu').name}, {date.today().isoformat()}: {count} held-out items a task, the same "
        "ones in each column. The wordings stand in `omni_lab/data/wordings.py`.",
        "",
        "| task | " + " | ".join(ASKED) + " |",
        "|---" * (len(ASKED) + 1) + "|",
        *rows,
        "",
    ])  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default=str(samples_folder() / "checkpoints" / "nano"))
    parser.add_argument("--items", type=int, default=100)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model = OmniModel.from_pretrained(chosen.checkpoint, "cpu")
    text = page(measure(model, chosen.items), Path(chosen.checkpoint).name, chosen.items)
    (RESULTS / "wordings.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
