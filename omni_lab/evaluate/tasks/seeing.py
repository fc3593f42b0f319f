"""Tasks of looking: pictures and videos."""

from typing import Any

from ...data.sample import Sample
from ..asking import ask, items, no_time_axis
from ..metrics import intersection_over_union, normalise, read_box, word_error_rate
from ..outcome import Evaluation, Outcome, accuracy


def picture_qa(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """Count, colour, relation in new scenes, in the styles of training."""
    samples = items("picture_qa", count, seed)
    return accuracy(samples, ask(model, samples, progress="picture_qa" * progress), chance=guessing(samples))


def picture_qa_unseen_style(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """The same in a style never trained on."""
    samples = items("picture_qa_unseen_style", count, seed)
    return accuracy(samples, ask(model, samples, progress="unseen style" * progress), chance=guessing(samples))


OPTIONS = {"count": 4, "things": 6, "colour": 8, "relation": 4}  # answers that a kind of question can have


def guessing(samples: list[Sample]) -> float:
    """Guessing evenly among the answers that an item's kind can have."""
    return sum(1 / OPTIONS[s.meta["kind"]] for s in samples) / len(samples)


def picture_arithmetic(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """X + Y = 10, X = 2, Y = ?"""
    samples = items("picture_arithmetic", count, seed)
    return accuracy(samples, ask(model, samples, progress="picture_arithmetic" * progress), chance=1 / 21)


def ocr(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """A word read exactly (letter case aside)."""
    samples = items("ocr", count, seed)
    return accuracy(samples, ask(model, samples, progress="ocr" * progress), chance=0.0)


def grounding(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """A box that overlaps the true one by half (IoU >= 0.5); baseline: the whole picture's middle half."""
    samples = items("grounding", count, seed)
    replies = ask(model, samples, progress="grounding" * progress)
    overlaps = []
    for sample, reply in zip(samples, replies, strict=True):
        box = read_box(reply)
        overlaps.append(intersection_over_union(sample.meta["box"], box) if box else 0.0)
    middle = [intersection_over_union(s.meta["box"], (0.25, 0.25, 0.75, 0.75)) >= 0.5 for s in samples]
    parts = {"mean IoU": sum(overlaps) / count}
    return Outcome("IoU >= 0.5", sum(o >= 0.5 for o in overlaps) / count, 0.0, sum(middle) / count, count, parts)


def science_choice(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """One of four letters, with the subject in a picture or in words."""
    samples = items("science_choice", count, seed)
    return accuracy(samples, ask(model, samples, progress="science_choice" * progress), chance=0.25, by="seen")


def video_order(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """Which of three things came first, second, last."""
    samples = items("video_order", count, seed)
    return accuracy(samples, ask(model, samples, progress="video_order" * progress), chance=1 / 3)


def av_synchrony(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """What moved when the bell rang."""
    samples = items("av_synchrony", count, seed)
    return accuracy(samples, ask(model, samples, progress="av_synchrony" * progress), chance=0.25)


def av_synchrony_no_time_axis(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """The same items, without the time axis of TMRoPE: what is left is what can be had without it."""
    with no_time_axis():
        return av_synchrony(model, count, seed, progress)


def who_said_what(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """Both people's words right (a word error rate of 0 each, numbers normalised)."""
    samples = items("who_said_what", count, seed)
    replies = ask(model, samples, progress="who_said_what" * progress)
    scores = [both_sides(s, r) for s, r in zip(samples, replies, strict=True)]
    wer = word_error_rate([s.answer for s in samples], replies)
    parts = {"left": sum(s[0] for s in scores) / count, "right": sum(s[1] for s in scores) / count, "WER": wer}
    return Outcome("both right", sum(all(s) for s in scores) / count, 0.0, 0.0, count, parts)


def both_sides(sample: Sample, reply: str) -> tuple[bool, bool]:
    """Whether the left and the right person's words of a reply ("left: ... right: ...") are right."""
    left, _, right = reply.lower().partition("right:")
    left = left.partition("left:")[2]
    return normalise(left) == normalise(sample.meta["left"]), normalise(right) == normalise(sample.meta["right"])


TASKS = {
    "picture_qa": Evaluation(picture_qa, 0.703, "RealWorldQA"),
    "picture_qa_unseen_style": Evaluation(picture_qa_unseen_style, 0.640, "MMStar"),
    "picture_arithmetic": Evaluation(picture_arithmetic, 0.679, "MathVista"),
    "ocr": Evaluation(ocr, 0.844, "TextVQA"),
    "grounding": Evaluation(grounding, 0.905, "RefCOCO val"),
    "science_choice": Evaluation(science_choice, 0.592, "MMMU val"),
    "video_order": Evaluation(video_order, 0.703, "MVBench"),
    "av_synchrony": Evaluation(av_synchrony, 0.5613, "OmniBench"),
    "av_synchrony_no_time_axis": Evaluation(av_synchrony_no_time_axis, ours_alone=True),
    "who_said_what": Evaluation(who_said_what),
}
