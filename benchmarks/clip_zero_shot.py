"""Zero-shot accuracy of the shipped CLIP on every style, the unseen one too.

    python -m benchmarks.clip_zero_shot [--checkpoint FOLDER]

A picture counts as right when its own Unicode name scores highest (top-1) or among the five highest (top-5) of all
shipped concepts' names, each name given in the recipe's five prompts. One view of each picture, on white.
"""

import argparse
import re
from pathlib import Path

from omni_lab import runtime
from omni_lab.clip import CLIP
from omni_lab.data import emoji
from omni_lab.data.emoji_build import write_atomic
from omni_lab.train.recipes.clip import emoji_accuracy

CHECKPOINT = emoji.default_root().parent / "checkpoints" / "clip"
OUT = Path(__file__).parent / "results" / "clip_zero_shot.md"
README = Path(__file__).parents[1] / "README.md"
MARKS = re.compile("(?<=<!-- clip -->\n).*(?=<!-- clip -->)", re.DOTALL)  # the table's place in the README


def table(model: CLIP, names: emoji.EmojiSet) -> str:
    """Markdown rows: style, pictures, split, top-1, top-5 in percent; the test style first."""
    order = sorted(names.sheets.values(), key=lambda sheet: ("test", "train", "extra").index(sheet.split))
    rows = []
    for sheet in order:
        top1, top5 = emoji_accuracy(model, names, sheet.name)
        use = "never trained on" if sheet.split == "test" else "trained on"
        use += ", with gaps" if len(sheet.present) < len(names) else ""
        rows.append(f"| {sheet.title} | {use} | {len(sheet.present)} | {top1:.1%} | {top5:.1%} |")
    chance = f"| chance | | | {1 / len(names):.2%} | {5 / len(names):.2%} |"
    return "\n".join(["| style | | pictures | top-1 | top-5 |", "|---|---|---|---|---|", *rows, chance])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    given = parser.parse_args()
    names = emoji.load()
    with runtime.threads(1):
        made = table(CLIP.load(given.checkpoint), names)
    text = f"Zero-shot among {len(names)} concepts. Made by `python -m benchmarks.clip_zero_shot`.\n\n{made}\n"
    if given.checkpoint == CHECKPOINT:
        OUT.parent.mkdir(exist_ok=True)
        write_atomic(OUT, text.encode())
        readme = README.read_text(encoding="utf-8")
        write_atomic(README, MARKS.sub(lambda _: made + "\n", readme).encode())
    print(text)


if __name__ == "__main__":
    main()
