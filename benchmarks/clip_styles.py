"""How accuracy on an unseen style grows with the number of styles trained on: the curve of lab 01.

    python -m benchmarks.clip_styles [--steps 250]

A small CLIP is trained on 1, 2, 4 and all 11 styles for the same number of steps, on pictures as they are and on
pictures redrawn at random. Writes `data_samples/clip_styles.json`, which the lab shows as recorded data.
"""

import argparse
import json
import tempfile

from omni_lab import runtime
from omni_lab.data import emoji
from omni_lab.data.emoji_build import write_atomic
from omni_lab.train.loop import train
from omni_lab.train.recipes.clip import ClipRecipe, ClipSettings, emoji_accuracy

OUT = emoji.default_root().parent / "clip_styles.json"
COUNTS = (1, 2, 4, 11)


def point(styles: tuple[str, ...], restyled: bool, steps: int) -> dict:
    """Train on `styles` for `steps` and return the accuracies on a style that was trained on and on the unseen one."""
    settings = ClipSettings(steps, 64, 3e-3, preset="tiny", styles=styles, restyled=restyled, save_every=10**6)
    recipe = ClipRecipe(settings)
    with tempfile.TemporaryDirectory() as out:
        result = train(recipe, out, device="cpu", progress=False)
    accuracies = {name: emoji_accuracy(result.model, recipe.emoji, style)
                  for name, style in (("seen", styles[0]), ("unseen", emoji.TEST_STYLE))}  # fmt: skip
    figures = {f"{name} top-{k}": value[i] for name, value in accuracies.items() for i, k in enumerate((1, 5))}
    return {"styles": len(styles), "restyled": restyled, "seconds": result.seconds, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=250)
    given = parser.parse_args()
    names = emoji.load()
    every = names.training_styles + names.extra_styles
    points = []
    with runtime.threads(1):
        for restyled in (False, True):
            for count in COUNTS:
                points.append(point(every[:count], restyled, given.steps))
                print(points[-1], flush=True)
    settings = ClipSettings(given.steps, 64, 3e-3, preset="tiny").as_dict()
    record = {"machine": runtime.hardware("cpu").name, "settings": settings, "order": every, "points": points}
    write_atomic(OUT, json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
