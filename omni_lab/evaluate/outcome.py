"""What a task of the suite reports."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..data.sample import Sample
from .metrics import same_answer


@dataclass(frozen=True)
class Outcome:
    """One task's figures. value is None when the task cannot be run on this checkpoint; `note` then says why."""

    metric: str
    value: float | None
    chance: float  # what guessing among the options gives
    baseline: float  # what a simple program gives that does not look at the media
    n: int
    parts: dict[str, float] = field(default_factory=dict)  # the value by kind of item, and figures beside it
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """A task of the suite: `run(model, items, seed, progress)`, and the big sibling's figure for the family."""

    run: Callable[..., Outcome]
    report: float | None = None  # Qwen2.5-Omni-7B in the technical report, as a fraction of 1
    report_set: str = ""  # on which public set
    lower_is_better: bool = False
    needs_folder: bool = False  # run takes the checkpoint's folder as well
    ours_alone: bool = False  # asks for what a backend does not have: speech, or positions to change


def accuracy(
    samples: Sequence[Sample],
    replies: Sequence[str],
    chance: float,
    right: Callable[[Sample, str], float] | None = None,
    by: str = "kind",
) -> Outcome:
    """Share of right replies, in all and by the items' `by` field; baseline: always the commonest answer."""
    right = right or (lambda sample, reply: float(same_answer(sample.answer, reply)))
    scores = [right(sample, reply) for sample, reply in zip(samples, replies, strict=True)]
    parts = {}
    for kind in sorted({str(sample.meta[by]) for sample in samples if by in sample.meta}):
        chosen = [score for score, sample in zip(scores, samples, strict=True) if str(sample.meta.get(by)) == kind]
        parts[kind] = sum(chosen) / len(chosen)
    return Outcome("accuracy", sum(scores) / len(scores), chance, commonest(samples, by), len(samples), parts)


def commonest(samples: Sequence[Sample], by: str = "kind") -> float:
    """Accuracy of always giving the commonest answer of the item's kind."""
    kinds: dict[str, Counter] = {}
    for sample in samples:
        kinds.setdefault(str(sample.meta.get(by)), Counter())[sample.answer] += 1
    return sum(counts.most_common(1)[0][1] for counts in kinds.values()) / len(samples)
