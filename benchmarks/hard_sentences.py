"""How many words do talkers say wrong on hard sentences? Several talkers on the same ones, each against the first.

    python -m benchmarks.hard_sentences [NAME=TALKER.safetensors ...] [--sentences 120] [--checkpoint FOLDER]

The first talker is the checkpoint's with DPO's change to its weights taken back, the second the checkpoint's own.
Others are parts of training (`build/.../parts/talker_dpo.safetensors`), heard through the same DiT and vocoder.

The sentences are of training's side: this is for deciding which settings of DPO to keep, and tests are not for that.
Writes benchmarks/results/hard_sentences.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from omni_lab.data import sentences, speech
from omni_lab.data.folders import samples_folder
from omni_lab.data.splits import generator
from omni_lab.evaluate import dpo_change, ears
from omni_lab.evaluate.metrics import word_error_rate
from omni_lab.evaluate.tasks.speaking import spoken
from omni_lab.omni import OmniModel
from omni_lab.runtime import hardware, threads

OUT = Path(__file__).parent / "results" / "hard_sentences.md"
NAMES = "choose dpo"  # of this benchmark's random numbers


def lines(count: int) -> list[str]:
    """Hard sentences of the grammar, of training's side."""
    return [sentences.hard_sentence(generator(NAMES, "train", 0, i), "train") for i in range(count)]


def words_wrong(texts: Sequence[str], heard: Sequence[str]) -> list[int]:
    """Of each sentence: words replaced, left out or put in."""
    return [round(word_error_rate([t], [h]) * len(t.split())) for t, h in zip(texts, heard, strict=True)]


def difference(ours: Sequence[int], first: Sequence[int]) -> tuple[int, float]:
    """How many more words are wrong in all, and the standard error of that, the sentences being drawn at random."""
    each = torch.tensor([a - b for a, b in zip(ours, first, strict=True)], dtype=torch.float64)
    return int(each.sum()), float(each.std() * len(each) ** 0.5)


def talkers(folder: Path, own: dict[str, Tensor], others: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Weights by name: of the checkpoint's talker before and after DPO, then of NAME=FILE, rounded as it is."""
    found = {"before": dpo_change.taken_back(own, folder / dpo_change.FILE), "the checkpoint": own}
    for other in others:
        name, _, file = other.partition("=")
        found[name] = {key: weight.bfloat16().float() for key, weight in load_file(file).items()}
    return found


def row(name: str, wrong: Sequence[int], first: Sequence[int], words: int) -> str:
    """A talker's line of the table."""
    more, error = difference(wrong, first)
    beside = "" if name == "before" else f"{more:+d} ± {error:.0f}"
    return f"| {name} | {sum(wrong)} | {sum(wrong) / words:.3f} | {beside} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talkers", nargs="*", metavar="NAME=FILE", help="other talkers, as training leaves them")
    parser.add_argument("--sentences", type=int, default=120)
    parser.add_argument("--checkpoint", type=Path, default=samples_folder() / "checkpoints" / "nano")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    texts, wrong = lines(chosen.sentences), {}
    with threads(1), torch.no_grad():
        model = OmniModel.from_pretrained(chosen.checkpoint, "cpu", torch.float32)
        own = {name: weight.clone() for name, weight in model.talker.state_dict().items()}
        for name, weights in tqdm(talkers(chosen.checkpoint, own, chosen.talkers).items(), unit="talker"):
            model.talker.load_state_dict(weights)
            wrong[name] = words_wrong(texts, ears.write_all_down(spoken(model, texts, 0, ""), speech.SPEAKING_RATE))
    words = sum(len(text.split()) for text in texts)
    report = [
        "# Words said wrong on hard sentences", "",
        f"`python -m benchmarks.hard_sentences`, on {hardware().name}: {len(texts)} sentences of training's side, "
        f"{words} words. *before* is the checkpoint's talker with DPO's change taken back. The last column is the "
        "difference from it and the standard error of that over sentences.", "",
        "| talker | words wrong | of all | against *before* |", "|---|---|---|---|",
        *(row(name, each, wrong["before"], words) for name, each in wrong.items()), "",
    ]  # fmt: skip
    chosen.out.write_text("\n".join(report))
    print("\n".join(report))


if __name__ == "__main__":
    main()
