"""Which word is being said: what a talker has to know at every code, told to it while it learns.

The codes' loss alone would have it find out by itself that each word of the reply is said once and in turn. Text to
speech has the same trouble with attention and helps it with where it should look (guided attention: Tachibana et al.
2018, section 3.3). Here the state that predicts a code must also point at the reply's token that is said a moment
later. The pointer is thrown away after training.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100
QUIET = 2.0  # nats below a sentence's mean in which its mel counts as silence
COMMON = 128  # dimensions in which states and tokens are compared


class Pointer(nn.Module):
    """Talker state and tokens of a reply -> which token it is about to say."""

    def __init__(self, hidden_size: int, embedding_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, COMMON)
        self.key = nn.Linear(embedding_size, COMMON)

    def forward(self, hidden: Tensor, reply: Tensor, lengths: Tensor) -> Tensor:
        """(batch, steps, hidden_size), (batch, longest, embedding_size), (batch,) -> logits (batch, steps, longest)."""
        logits = self.query(hidden) @ self.key(reply).transpose(1, 2) / COMMON**0.5
        beyond = torch.arange(reply.shape[1], device=reply.device)[None] >= lengths[:, None]  # (batch, longest)
        return logits.float().masked_fill(beyond[:, None], torch.finfo(torch.float32).min)


def said_at(mel: Tensor, letters: Sequence[int], ahead: int) -> Tensor:
    """The reply's token that is said `ahead` codes after each code and after the last: (codes + 1,) int64.

    mel: (frames, mel_dim), two frames a code. letters: of each token, in order. A rough alignment, but monotonic and
    without a recogniser: what sounds is shared out among the tokens by their letters, silence adds to none."""
    loud = mel.unflatten(0, (-1, 2)).mean((1, 2))  # (codes,)
    spoken = (loud > loud.mean() - QUIET).double().cumsum(0)  # (codes,): codes that have sounded so far
    ends = torch.tensor(letters, dtype=torch.float64).cumsum(0)
    ends = ends / ends[-1].clamp(min=1) * spoken[-1]  # (tokens,)
    token = torch.searchsorted(ends, spoken - 0.5).clamp(max=len(letters) - 1)
    later = torch.arange(len(token) + 1) + ahead
    return token[later.clamp(max=len(token) - 1)]


def reading_loss(pointed: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of the pointer in nats: (batch, steps, longest), (batch, steps) with IGNORED -> a scalar."""
    return F.cross_entropy(pointed.flatten(0, 1), tokens.flatten(), ignore_index=IGNORED)
