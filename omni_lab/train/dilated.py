"""Convolutions that see ever further, by which readers of codes and of mels tell phonemes (van den Oord et al. 2016,
section 2.1, without a mask: they look to both sides)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 5


class DilatedConvolutions(nn.Module):
    """(batch, n, inside) -> (batch, n, width): one layer a dilation, each but the first around a skip connection.

    Sees 2 * sum(dilations) places to both sides."""

    def __init__(self, inside: int, width: int, dilations: Sequence[int]) -> None:
        super().__init__()
        widths = (inside, *(width for _ in dilations))
        self.layers = nn.ModuleList(
            nn.Conv1d(before, width, KERNEL, padding=KERNEL // 2 * dilation, dilation=dilation)
            for before, dilation in zip(widths, dilations, strict=False)
        )

    def forward(self, rows: Tensor) -> Tensor:
        hidden = rows.transpose(1, 2)
        for number, layer in enumerate(self.layers):
            heard = F.gelu(layer(hidden))
            hidden = hidden + heard if number else heard
        return hidden.transpose(1, 2)
