"""Codes -> sound while codes still arrive: the DiT block by block, the vocoder in chunks with overlap.

Notable:
- the vocoder is not causal. Its right context is the DiT's look-ahead, which is a draft; its left context has been
  spoken. Where two chunks meet, the next one fades in over a few milliseconds of what the last one had already
  computed beyond its end, so that no seam is heard;
- chunks grow: the first is one block, because someone is waiting; later ones are longer, because the look-ahead is
  paid once a chunk;
- the first block does not wait for its look-ahead: its beginning is given out as a sketch says it, and its end, on
  which the look-ahead bears, comes of the block as it is spoken;
- state is a few blocks, however long the reply.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..codec import disclosure, packed_vocoder
from ..codec.bigvgan import BigVGAN
from ..errors import ConfigError
from .account import Account

MARGIN = 12  # mel frames of context on each side of a vocoder's chunk (0.12 s); beyond them it hears next to nothing
# Mel frames that are given out before their look-ahead is known (0.1 s): a third longer than it takes to make the rest
# of their block. With the trained nano DiT it would change 4 % of their mel's spread, and of the last eight's 48 %.
FIRST = 10
FADE = 0.01  # seconds over which a chunk fades into the next


def chunk_blocks(spoken: int, most: int = 8) -> int:
    """Blocks of the next chunk when `spoken` blocks have been: 1, 1, 1, 1, 2, 3, 4, 6, 8, 8, ...

    Half of what has been spoken at most: a chunk is then ready before the sound runs out even if making sound takes
    nearly as long as playing it."""
    return min(max(1, spoken // 2), most)


def crossfade(old: Tensor, new: Tensor) -> Tensor:
    """Pass from `old` to the first samples of `new`, (samples,) each, by a raised cosine: as long as `new`."""
    count = min(len(old), len(new))
    if count == 0:
        return new
    place = (torch.arange(count, device=new.device) + 0.5) / count
    weight = 0.5 - 0.5 * torch.cos(torch.pi * place)  # (count,), 0 -> 1; both weights sum to 1
    return torch.cat((old[:count] * (1 - weight) + new[:count] * weight, new[count:]))


class WaveStream:
    """Mel -> samples, chunk by chunk: what has been said of the past and the future is context."""

    def __init__(self, vocoder: BigVGAN, margin: int = MARGIN, fade: float = FADE, sample_rate: int = 24000) -> None:
        """margin: mel frames of context on each side; fade: seconds."""
        config = vocoder.config
        if any((k - r) % 2 for k, r in zip(config.upsample_kernel_sizes, config.upsample_rates, strict=True)):
            raise ConfigError("streaming needs upsample_kernel_sizes that differ from their rates by even numbers")
        self.vocoder, self.margin, self.fade = vocoder, margin, round(fade * sample_rate)
        self.before: Tensor | None = None  # mel, (1, up to margin, mel_dim)
        self.beyond: Tensor | None = None  # samples computed beyond the last chunk's end

    def add(self, mel: Tensor, ahead: Tensor) -> Tensor:
        """The next mel (1, frames, mel_dim) and a draft of what follows it -> samples (frames * hop,)."""
        before = mel[:, :0] if self.before is None else self.before
        window = torch.cat((before, mel, ahead[:, : self.margin]), dim=1)
        hop = self.vocoder.hop
        start, end = before.shape[1] * hop, (before.shape[1] + mel.shape[1]) * hop
        wave = packed_vocoder.vocode(self.vocoder, window, start, end + self.fade)[0]
        samples, beyond = wave[: end - start], wave[end - start :].clone()
        if self.beyond is not None:
            samples = crossfade(self.beyond, samples)
        self.beyond = beyond
        # Frames in front of a window's edge reach back `margin` frames, not further.
        joined = torch.cat((before, mel), dim=1)
        self.before = joined[:, max(0, joined.shape[1] - self.margin) :].clone()
        return samples


class Mels(Protocol):
    """What `Speech` asks of a MelStream."""

    codes: list[int]  # not yet spoken
    blocks: int  # spoken

    def add(self, codes: Sequence[int], /) -> None: ...
    def sketchable(self) -> bool: ...
    def sketch(self) -> Tensor: ...
    def ready(self, blocks: int, /) -> bool: ...
    def advance(self, blocks: int, ended: bool, /) -> tuple[Tensor, Tensor]: ...


class Waves(Protocol):
    """What `Speech` asks of a WaveStream."""

    def add(self, mel: Tensor, ahead: Tensor, /) -> Tensor: ...


class Speech:
    """Codes in, sound out: joins MelStream and WaveStream and decides when a chunk is due."""

    def __init__(
        self,
        mel: Mels,
        wave: Waves,
        account: Account,
        most_blocks: int = 8,
        disclosed: bool = False,
        first: int | None = None,
    ) -> None:
        """most_blocks: of a chunk; disclosed: whether the sound carries the audible mark of an enrolled voice;

        first: mel frames that do not wait for their look-ahead (default: none)."""
        self.mel, self.wave, self.account, self.most = mel, wave, account, most_blocks
        self.disclosed, self.first, self.spoken = disclosed, first, 0  # samples so far
        self.sketched = 0  # mel frames of the first block that have been given out before it was spoken

    def add(self, code: int) -> Tensor | None:
        """One more code; samples (n,), float32, on the CPU, when there are some to give out, else None."""
        self.mel.add([code])
        if self.first and not self.sketched and self.mel.sketchable():
            return self.sketch(self.first)
        blocks = chunk_blocks(self.mel.blocks, self.most)
        return self.chunk(blocks) if self.mel.ready(blocks) else None

    def finish(self) -> Iterator[Tensor]:
        """No more codes: the rest, in chunks."""
        while self.mel.codes:
            yield self.chunk(chunk_blocks(self.mel.blocks, self.most), ended=True)

    def sketch(self, first: int) -> Tensor:
        """Samples of the `first` mel frames of all."""
        with self.account.span("dit"):
            mel = self.mel.sketch()
        self.sketched = min(first, mel.shape[1] - 1)
        return self.voiced(mel[:, : self.sketched], mel[:, self.sketched :])

    def chunk(self, blocks: int, ended: bool = False) -> Tensor:
        """Samples of the next `blocks` blocks, without what a sketch has given out of them."""
        done = 0 if self.mel.blocks else self.sketched
        with self.account.span("dit"):
            mel, ahead = self.mel.advance(blocks, ended)
        return self.voiced(mel[:, done:] if done else mel, ahead)

    def voiced(self, mel: Tensor, ahead: Tensor) -> Tensor:
        """Samples of these frames."""
        with self.account.span("vocoder"):
            samples = self.wave.add(mel, ahead).float().cpu()
        marked = disclosure.mark(samples, start=self.spoken) if self.disclosed else samples
        self.spoken += len(samples)
        return marked
