"""Which word is being said: what a talker has to know at every code, told to it while it learns.

The codes' loss alone would have it find out by itself that each word of the reply is said once and in turn. Text to
speech has the same trouble with attention and helps it with where it should look (guided attention: Tachibana et al.
2018, section 3.3). Here the state that predicts a code must also point at the reply's token that is said a moment
later. The pointer is thrown away after training.

Given its own codes without a fault, it also learns to go on from them rather than to read: after the first sound of
"chicken" any word that begins so will do. So some of what it has said is kept from it, or is another sentence's
(dropping words from what a decoder is fed: Bowman et al. 2016, section 3.1, there for the same reason).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100
QUIET = 2.0  # nats below a sentence's mean in which its mel counts as silence
SPAN = 8  # codes that are misheard together: about a syllable
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


def misheard(codes: Tensor, share: float, silence: int) -> Tensor:
    """Codes as the talker hears itself say them, (batch, n) -> (batch, n), with spans that are not what it said.

    Each row loses a share drawn between none and nearly twice `share` (spans overlap), in spans of SPAN codes: in half
    of the rows they become `silence`, in the others what the row before says there. Padding (negative) stays."""
    batch, n = codes.shape
    rate = torch.rand(batch, 1, device=codes.device) * 2 * share / SPAN
    starts = (torch.rand(batch, n, device=codes.device) < rate).float()
    lost = F.max_pool1d(F.pad(starts, (SPAN - 1, 0))[:, None], SPAN, 1)[:, 0] > 0  # (batch, n)
    others = codes.roll(1, 0)
    wrong = torch.rand(batch, 1, device=codes.device) < 0.5
    instead = torch.where(wrong & (others >= 0), others, silence)
    return torch.where(lost & (codes >= 0), instead, codes)
