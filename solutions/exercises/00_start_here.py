"""Cases, wrong answers and other right answers of lab 00's one exercise, which earns nothing."""

import numpy as np
import torch

from omni_lab.lab.authoring import Case, Exercise, also_right, cases, wrong

ID = "start.root_mean_square"

EXERCISES = [
    Exercise(
        ID,
        "0.1",
        "Root mean square",
        points=0,
        difficulty=1,
        minutes=3,
        target="omni_lab.lab.player:root_mean_square",
        hints=(
            "Which of the three steps, square, mean and root, comes first in the name, and which last?",
            "`squares = wave.square()`, of the same shape as `wave`.",
        ),
    )
]


@cases(ID)
def _(rng: np.random.Generator) -> list[Case]:
    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).float()

    samples = int(rng.integers(20, 60))
    return [
        Case("one wave", wave=draw(samples)),
        Case("a batch of three", wave=draw(3, samples)),
        Case("two channels each", wave=draw(4, 2, samples)),
        Case("a wave beside zero", wave=draw(samples) + 2.0),
        Case("a quiet wave", wave=1e-3 * draw(2, samples)),
        Case("a square batch", wave=draw(samples, samples)),
    ]


@wrong(ID, "Average over the last axis alone: each wave of a batch has its own loudness.")
def over_everything(wave):
    return wave.square().mean().sqrt()


@wrong(ID, "The last axis is time: you averaged over the first.")
def first_axis(wave):
    return wave.square().mean(dim=0).sqrt()


@wrong(ID, "Take the mean of the squares, not their sum: a longer sound is not a louder one.")
def sum_for_mean(wave):
    return wave.square().sum(dim=-1).sqrt()


@wrong(ID, "The root is missing: squares are no longer in the unit of the samples.")
def no_root(wave):
    return wave.square().mean(dim=-1)


@wrong(ID, "Square before you average: the samples of a wave cancel in their mean.")
def square_of_mean(wave):
    return wave.mean(dim=-1).square().sqrt()


@wrong(ID, "This is the mean of the absolute values: square instead.")
def mean_absolute(wave):
    return wave.abs().mean(dim=-1)


@wrong(ID, "This is the standard deviation: do not take the mean away first.")
def deviation(wave):
    return wave.std(dim=-1, correction=0)


@wrong(ID, "Keep your hands off the input: `square_()` changes the wave itself.")
def in_place(wave):
    return wave.square_().mean(dim=-1).sqrt()


@also_right(ID)
def by_norm(wave):
    return torch.linalg.vector_norm(wave, dim=-1) / wave.shape[-1] ** 0.5


@also_right(ID)
def in_double_precision(wave):
    return torch.sqrt((wave.double() ** 2).sum(-1) / wave.size(-1)).float()
