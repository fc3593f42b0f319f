"""Accuracy of the trained model on sums of three numbers against the thinking tokens that it is allowed.

    python -m benchmarks.thinking_budget [--checkpoint FOLDER] [--items 40]

Writes benchmarks/results/thinking_budget.md and .json, which lab 08 shows, labelled as recorded, where it has no time
to measure them.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from omni_lab.data.folders import samples_folder
from omni_lab.evaluate import thinking
from omni_lab.evaluate.metrics import same_answer
from omni_lab.omni import OmniModel
from omni_lab.runtime import hardware

RESULTS = Path(__file__).parent / "results"
BUDGETS = (0, 2, 4, 8, 12, 16, 24)


def page(found: dict[str, Any]) -> str:
    rows = [f"| {p['budget']} | {p['accuracy']:.0%} | {p['thought']:.1f} |" for p in found["points"]]
    return "\n".join([
        "# Thinking budget",
        "",
        f"{found['checkpoint']} on {hardware('cpu').name}, {found['date']}: {found['items']} held-out sums of three "
        f"numbers, greedy. Always answering the commonest sum would be right {found['commonest']:.0%} of the time.",
        "",
        "| thinking tokens allowed | sums right | thought, mean tokens |",
        "|---|---|---|",
        *rows,
        "",
    ])  # fmt: skip


def commonest(items: int) -> float:
    """Accuracy of giving every question the one answer that most of them have."""
    answers = [thinking.final_answer(sample.answer) for sample in thinking.sums(items)]
    return max(sum(same_answer(one, other) for other in answers) for one in answers) / items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default=str(samples_folder() / "checkpoints" / "nano"))
    parser.add_argument("--items", type=int, default=40)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    points = thinking.curve(OmniModel.from_pretrained(chosen.checkpoint, "cpu"), BUDGETS, chosen.items)
    found = {
        "checkpoint": Path(chosen.checkpoint).name, "date": date.today().isoformat(), "items": chosen.items,
        "commonest": commonest(chosen.items), "points": points, "cpu_seconds": round(time.process_time() - began, 1),
    }  # fmt: skip
    (RESULTS / "thinking_budget.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "thinking_budget.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
