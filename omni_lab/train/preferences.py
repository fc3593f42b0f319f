"""Direct preference optimisation of the talker (report, section 4.3; Rafailov et al. 2023).

Triples (x, y_w, y_l): a text, and the best and worst of several ways in which the talker said it, ranked by word error
rate and by pauses that the punctuation does not ask for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class Triple:
    """One preference."""

    text: str
    speaker: str
    chosen: Tensor  # (codes,) int64
    rejected: Tensor  # (codes,)


def sequence_log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of log-probabilities of the labelled places: (batch, length, vocab), (batch, length) -> (batch,), in nats.

    Logits at a place are for the label at the same place; -100 counts nothing.
    """
    places = F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    return -places.sum(1)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """-log sigmoid(beta * (margin of the policy - margin of the reference)), a mean over the batch.

    All arguments are log-probabilities of whole sequences, (batch,), in nats (Rafailov et al. 2023, eq. 7).
    """
    policy_margin = policy_chosen - policy_rejected
    reference_margin = reference_chosen - reference_rejected
    return -F.logsigmoid(beta * (policy_margin - reference_margin)).mean()


def preference_score(word_error_rate: float, pause_error_rate: float, pause_weight: float = 0.5) -> float:
    """How badly a sentence was said: lower is better; both rates are fractions of 1."""
    return word_error_rate + pause_weight * pause_error_rate


def best_and_worst(scores: list[float], margin: float = 0.05) -> tuple[int, int] | None:
    """Indexes of the lowest and the highest score, or None if they are too close to prefer one to the other."""
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    if not order or scores[order[-1]] - scores[order[0]] < margin:
        return None
    return order[0], order[-1]


def better(score: float, others: Sequence[float], margin: float = 0.05) -> int | None:
    """Index of the lowest of `others`, or None if it is not lower than `score` by at least `margin`."""
    best = min(range(len(others)), key=lambda i: (others[i], i), default=None)
    return best if best is not None and score - others[best] >= margin else None


def reward_accuracy(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor
) -> Tensor:
    """Share of the batch in which the policy has moved towards the chosen one, a scalar."""
    return ((policy_chosen - reference_chosen) > (policy_rejected - reference_rejected)).float().mean()
