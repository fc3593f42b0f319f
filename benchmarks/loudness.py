"""How loud pictures, sounds and words are inside a thinker, layer by layer: benchmarks/results/loudness.md.

    python -m benchmarks.loudness [CHECKPOINT] [--items 16] [--out FILE]

Root mean squares of the residual stream at the tokens of each kind, on training's side of the nano world. Tokens far
louder than what a layer writes pass through it as they came (omni_lab/train/balance.py, `beyond`).
"""

import argparse
from pathlib import Path

import torch

from omni_lab.data import world
from omni_lab.data.emoji_build import write_atomic
from omni_lab.data.folders import samples_folder
from omni_lab.data.sample import assistant
from omni_lab.omni import OmniModel

TASKS = {"picture": "picture_qa", "sound": "asr"}
RESULT = Path(__file__).parent / "results" / "loudness.md"


@torch.inference_mode()
def measure(model: OmniModel, items: int) -> list[tuple[str, list[float]]]:
    """(kind of token, root mean square before the first layer, behind each but the last, and behind the last norm)."""
    config, rows = model.thinker.config, []
    places = {"picture": config.image_token_index, "sound": config.audio_token_index}
    for kind, task in TASKS.items():
        samples = [world.sample(task, "train", 0, index) for index in range(items)]
        messages = [[*sample.messages, assistant(sample.answer)] for sample in samples]
        inputs = dict(model.processor(messages=messages, longest_audio=True))
        states = model.thinker(**inputs, output_hidden_states=True).hidden_states
        medium = inputs["input_ids"] == places[kind]
        words = ~medium & inputs["attention_mask"].bool()
        for name, chosen in ((kind, medium), (f"words beside a {kind}", words)):
            rows.append((name, [float(state[chosen].square().mean().sqrt()) for state in states]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default=samples_folder() / "checkpoints" / "nano")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    rows = measure(OmniModel.from_pretrained(chosen.checkpoint, "cpu", torch.float32), chosen.items)
    layers = len(rows[0][1]) - 1
    lines = [
        "# Pictures, sounds and words inside the shipped thinker",
        "",
        f"Root mean square of the residual stream at tokens of each kind; {chosen.items} samples each, of training.",
        "",
        "| tokens | given to the decoder | "
        + " | ".join(f"behind layer {i}" for i in range(1, layers))
        + " | last norm |",
        "|---" * (layers + 2) + "|",
    ]
    lines += [f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |" for name, values in rows]
    write_atomic(chosen.out, ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
