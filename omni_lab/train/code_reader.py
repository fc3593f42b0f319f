"""What codes are for, told to the speech tokenizer while it learns: to be read, by what sees their neighbours too.

A codebook alone can only bring each moment near to its code, whatever that costs. A DiT and a talker see a code among
others, so what one moment lost another may keep, and what any moment tells twice is wasted. Here a small network with a
third of a second to both sides reads phonemes and mel from the codes, and its loss reaches the codebook, and the
directions in which distances are measured, through the choice of the nearest (supervised tokens: Du et al. 2024,
section 2.1; learning through a choice: van den Oord et al. 2017, with the gradient of the softmax that the choice is
the limit of, as Agustsson et al. 2017). The network is thrown away after training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec.speech_tokenizer import FRAMES_PER_CODE, MEL_DEVIATION, MEL_MEAN
from .dilated import DilatedConvolutions

DILATIONS = (1, 2, 4)  # of convolutions over 5 codes each: 14 codes to both sides


def chosen(vectors: Tensor, entries: Tensor, temperature: float) -> Tensor:
    """The nearest entry as a row of zeros and a one: (..., dim), (codes, dim) -> (..., codes).

    Its gradient is that of softmax(-distance^2 / (2 temperature)), in which entries nearly as near have a part."""
    scores = vectors @ entries.T - entries.square().sum(-1) / 2
    soft = (scores / temperature).softmax(-1)
    return F.one_hot(scores.argmax(-1), len(entries)).to(soft) + soft - soft.detach()


class CodeReader(nn.Module):
    """Codes of a sentence -> the phonemes and the mel of each one's frames."""

    def __init__(self, codes: int, phonemes: int, mel_dim: int, embedding: int = 160, width: int = 256) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(codes, embedding))
        self.convolutions = DilatedConvolutions(embedding, width, DILATIONS)
        self.phonemes = nn.Linear(width, FRAMES_PER_CODE * phonemes)
        self.mel = nn.Linear(width, FRAMES_PER_CODE * mel_dim)

    def forward(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of `chosen` (batch, n, codes); zeros for padding -> logits (batch, n, 2, phonemes) and natural-log mel
        (batch, n, 2 * mel_dim)."""
        hidden = self.convolutions(weights @ self.embed)
        logits = self.phonemes(hidden).unflatten(-1, (FRAMES_PER_CODE, -1))
        return logits, self.mel(hidden) * MEL_DEVIATION + MEL_MEAN
