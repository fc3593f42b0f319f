"""Cases and wrong answers of the toy lab. CANARY-CASES"""

import numpy as np
import torch

from omni_lab.grading.artefacts import Artefact
from omni_lab.lab.authoring import Case, Exercise, also_right, cases, wrong

EXERCISES = [
    Exercise("toy.double", "90.1", "Double", points=5, difficulty=1, minutes=1, seconds=1.0),
    Exercise("toy.mean_square", "90.2", "Mean square", points=10, difficulty=1, minutes=1, seconds=1.0),
    Exercise("toy.running_total", "90.3", "Running total", points=5, difficulty=1, minutes=1, seconds=1.0),
]


@cases("toy.double")
def _(rng):
    return [Case(f"{n} numbers", x=torch.from_numpy(rng.normal(size=n))) for n in (1, 2, 3, 5, 8)]


@wrong("toy.double", "Twice, not squared.")
def squared(x):
    return x * x


@also_right("toy.double")
def added(x):
    return x + x


@cases("toy.mean_square")
def _(rng):
    # The last two have a negative mean: whoever squares late is found out; the first three are of one number.
    one = [Case(f"one number, {i}", values=[float(rng.uniform(1, 2))]) for i in range(3)]
    return one + [Case(f"{n} numbers", values=[float(v) for v in rng.uniform(-3, -1, n)]) for n in (4, 7)]


@wrong("toy.mean_square", "Square before you average.")
def square_of_mean(values):
    return (sum(values) / len(values)) ** 2


@cases("toy.running_total")
def _(rng):
    return [Case(f"{n} entries", values=rng.normal(size=n)) for n in (2, 3, 4, 6, 9)]


@wrong("toy.running_total", "The total runs from the first entry on.")
def backwards(values):
    return np.cumsum(values[::-1])[::-1].copy()


def accuracy(line, rng):
    """Share of 500 hidden points on the right side of the line."""
    x = torch.from_numpy(rng.normal(size=(500, 2))).float()
    above = x @ line["weight"] + line["bias"] > 0
    return float((above == (x[:, 0] - 2 * x[:, 1] + 0.5 > 0)).float().mean())


ARTEFACTS = [
    Artefact(
        "toy.line", "90.4", "A trained line", points=8, file="line.safetensors",
        arrays={"weight": ("float32", (2,)), "bias": ("float32", (1,))}, metric=accuracy,
        steps=((0.8, 0.5), (0.95, 1.0)),
    ),
]  # fmt: skip
