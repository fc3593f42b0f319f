"""Tasks of typed text, and of speech against text."""

from typing import Any

from ...data.sample import Sample, user
from ..asking import ask, items
from ..metrics import same_answer
from ..outcome import Evaluation, Outcome, accuracy, commonest


def text_qa(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """Short typed questions: sums, classes, legs, translations."""
    samples = items("text_qa", count, seed)
    return accuracy(samples, ask(model, samples, progress="text_qa" * progress), chance=commonest(samples))


def spoken_vs_typed(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """The same questions asked aloud and typed: accuracy of the first over that of the second (1: as good by ear)."""
    spoken = items("spoken_qa", count, seed)
    typed = [Sample([user(s.meta["question"])], "text_qa", s.answer, meta=s.meta) for s in spoken]
    heard = ask(model, spoken, progress="spoken" * progress)
    read = ask(model, typed, progress="typed" * progress)
    by_ear = sum(same_answer(s.answer, r) for s, r in zip(spoken, heard, strict=True)) / count
    by_eye = sum(same_answer(s.answer, r) for s, r in zip(typed, read, strict=True)) / count
    guess = commonest(spoken)
    ratio = by_ear / by_eye if by_eye else 0.0
    guessed = min(guess / by_eye, 1.0) if by_eye else 1.0
    return Outcome("accuracy ratio", ratio, guessed, guessed, count, {"spoken": by_ear, "typed": by_eye})


TASKS = {
    "text_qa": Evaluation(text_qa, 0.710, "MMLU-redux"),
    "spoken_vs_typed": Evaluation(spoken_vs_typed),
}
