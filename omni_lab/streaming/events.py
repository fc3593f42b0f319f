"""What a streamed reply is made of."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the reply's text."""

    text: str


@dataclass(frozen=True)
class AudioChunk:
    """The next piece of the reply's sound: (samples,), float32 in [-1, 1], on the CPU."""

    samples: Tensor
    sample_rate: int = 24000  # Hz

    @property
    def seconds(self) -> float:
        """How long it plays."""
        return len(self.samples) / self.sample_rate
