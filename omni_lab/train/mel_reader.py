"""What a made mel is for, told to the DiT while it learns: that the words can be read off it.

Flow matching asks for every band of every frame alike, and 20 ms that make a /h/ a /k/ are next to nothing in such a
mean. A small network that has learned to read phonemes off the source voice's real mels (recipe `mel_reader`) reads
them off the mel that a velocity points at, and what it cannot read is a second loss: the gradient of classifier
guidance (Dhariwal and Nichol 2021, section 4), paid for once in training and not at each step of the solver.

Notable: the network never learns on what the DiT makes, or the two would agree on signs that no ear knows; it is not
part of the model, and the mini suite's recogniser has had no part in it.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ..codec.speech_tokenizer import MEL_DEVIATION, MEL_MEAN
from ..data import speech
from .dilated import DilatedConvolutions
from .speech_bank import IGNORED

DILATIONS = (1, 2, 4, 8)  # of convolutions over 5 frames each: 0.3 s to both sides
WIDTH = 160


class MelReader(nn.Module):
    """Natural-log mel -> the phoneme that is said in each frame."""

    def __init__(self, mel_dim: int = 80, phonemes: int = len(speech.PHONEMES) + 1, width: int = WIDTH) -> None:
        super().__init__()
        self.convolutions = DilatedConvolutions(mel_dim, width, DILATIONS)
        self.phonemes = nn.Linear(width, phonemes)

    def forward(self, mel: Tensor) -> Tensor:
        """mel (batch, frames, mel_dim) -> logits (batch, frames, phonemes)."""
        return self.phonemes(self.convolutions((mel - MEL_MEAN) / MEL_DEVIATION))


def unread(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of the frames with a label; 0 where no frame has one. logits (batch, frames,
    phonemes), labels (batch, frames), IGNORED where nothing is known."""
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)
