"""The measures of the suite. Rates are fractions of 1."""

import functools
import re
from collections.abc import Sequence

import jiwer
import numpy as np

from ..data.words import NUMBERS
from ..processing.thoughts import without_thoughts


@functools.cache
def whisper_normalizer():
    """Whisper's English normaliser (Radford et al. 2022, appendix C)."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    # British spellings of the world's words, as Whisper's own table has them
    return EnglishTextNormalizer({"grey": "gray", "colour": "color", "harbour": "harbor", "metre": "meter"})


def normalise(text: str) -> str:
    """English text as it is compared: small letters, no punctuation, numbers as digits whether spelled out or not."""
    return " ".join(whisper_normalizer()(text.replace("-", " ")).split())


def word_error_rate(references: Sequence[str], heard: Sequence[str]) -> float:
    """Errors (substituted, deleted, inserted words) of all texts together, over the words of the references.

    Both are normalised first. Empty references count their insertions only."""
    pairs = [(normalise(reference), normalise(text)) for reference, text in zip(references, heard, strict=True)]
    spoken = [(reference, text) for reference, text in pairs if reference]
    inserted = sum(len(text.split()) for reference, text in pairs if not reference)
    if not spoken:
        return float(inserted > 0)
    found = jiwer.process_words([r for r, _ in spoken], [t for _, t in spoken])
    errors = found.substitutions + found.deletions + found.insertions + inserted
    return errors / sum(len(reference.split()) for reference, _ in spoken)


def same_answer(answer: str, reply: str) -> bool:
    """Whether a short reply is the answer, but for case, punctuation, article and spelled-out numbers."""
    return essence(answer) == essence(reply)


def essence(text: str) -> str:
    """A short answer without what does not matter: case, punctuation, English articles, thoughts between think tags.

    An article that stands alone is the answer: the "A" of an option."""
    text = without_thoughts(text).lower()
    found = re.findall(r"[^\W_]+", text)
    found = [str(NUMBERS.index(word)) if word in NUMBERS else word for word in found]
    kept = [word for word in found if word not in ("the", "a", "an")]
    return " ".join(kept or found)


def read_box(text: str) -> tuple[float, float, float, float] | None:
    """The first four numbers of a reply's answer, in hundredths of the picture's side; None when there are not four."""
    found = re.findall(r"\d+(?:\.\d+)?", without_thoughts(text))
    if len(found) < 4:
        return None
    x1, y1, x2, y2 = (float(number) / 100 for number in found[:4])
    return x1, y1, x2, y2


def intersection_over_union(one: Sequence[float], other: Sequence[float]) -> float:
    """Overlap of two boxes (x1, y1, x2, y2) over their union; 0 for a box turned inside out."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    areas = [max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (one, other)]
    if width <= 0 or height <= 0 or min(areas) == 0:
        return 0.0
    return width * height / (sum(areas) - width * height)


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine of two voiceprints, (dim,) each."""
    return float(similarity_matrix(one[None], other[None])[0, 0])


def similarity_matrix(voices: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosine of every voiceprint with every other one: (n, dim), (m, dim) -> (n, m). Silence (zeros) is like nobody."""
    scale = np.linalg.norm(voices, axis=1)[:, None] * np.linalg.norm(others, axis=1)[None]
    return np.where(scale > 0, voices @ others.T / np.where(scale > 0, scale, 1.0), 0.0)


def pause_errors(text: str, timed: Sequence[tuple[str, float, float]], longest_gap: float = 0.12) -> tuple[int, int]:
    """(pause errors, places judged) of a spoken text, the measure by which the report ranks replies (section 4.3, DPO).

    timed: (word, begin, end) in seconds, as heard. Between two neighbouring words of the text a pause is wanted where a
    comma, colon, semicolon or full stop stands and unwanted elsewhere; a gap over `longest_gap` seconds is a pause.
    Words that were not heard in their place are not judged here: word errors count them."""
    wanted = [(normalise(token), bool(re.search(r"[,;:.!?]$", token))) for token in text.split()]
    heard = [(normalise(word), begin, end) for word, begin, end in timed]
    pairs = align([word for word, _ in wanted], [word for word, _, _ in heard])
    errors = judged = 0
    for (i, j), (next_i, next_j) in zip(pairs, pairs[1:], strict=False):
        if next_i != i + 1 or next_j != j + 1:
            continue
        gap = heard[next_j][1] - heard[j][2]
        judged += 1
        errors += (gap > longest_gap) != wanted[i][1]
    return errors, judged


def align(one: Sequence[str], other: Sequence[str]) -> list[tuple[int, int]]:
    """Places of the same words in two texts, in order (longest common subsequence)."""
    lengths = np.zeros((len(one) + 1, len(other) + 1), int)
    for i in range(len(one) - 1, -1, -1):
        for j in range(len(other) - 1, -1, -1):
            same = one[i] == other[j]
            lengths[i, j] = 1 + lengths[i + 1, j + 1] if same else max(lengths[i + 1, j], lengths[i, j + 1])
    pairs, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        if one[i] == other[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif lengths[i + 1, j] >= lengths[i, j + 1]:
            i += 1
        else:
            j += 1
    return pairs
