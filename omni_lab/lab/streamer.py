"""What lab 07's streamer is built on: a codec that tells its codes one by one and turns a window of them into sound.

`Codec` is the little that a streamer may know. `toy_codec` answers the check, `mel_codec` and `real_codec` make sound;
`examine` puts any streamer through the tests that the package's own has to pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Stream = Callable[["Codec"], Iterator[Tensor]]


@dataclass
class Codec:
    """Codes that arrive one at a time, and what makes them heard.

    `render(known)` takes codes not yet spoken, at most (1 + ahead) * block of them, speaks the first `block` (fewer at
    the very end) and returns (their samples, a few samples beyond them: a draft of how the sound would go on)."""

    codes: Iterator[int]
    block: int  # codes a block
    ahead: int  # blocks of look-ahead
    render: Callable[[list[int]], tuple[Tensor, Tensor]]
    pulled: list[int] = field(default_factory=list)  # codes that have been asked for so far
    spoken: list[int] = field(default_factory=list)  # codes that have been turned into sound
    held: int = 0  # the most codes that ever came to `render`


def new_codec(
    codes: Sequence[int], block: int, ahead: int, sound: Callable[[list[int], int], tuple[Tensor, Tensor]]
) -> Codec:
    """A codec that notes what is done with it. `sound(known, pulled)` -> (samples, beyond).

    Raises ValueError when more codes are handed over than a window holds."""

    def arriving() -> Iterator[int]:
        for code in codes:
            made.pulled.append(int(code))
            yield int(code)

    def render(known: list[int]) -> tuple[Tensor, Tensor]:
        window = (1 + ahead) * block
        if not 0 < len(known) <= window:
            raise ValueError(f"{len(known)} codes at once, expected 1 to {window}: a block and its look-ahead")
        made.held = max(made.held, len(known))
        made.spoken.extend(int(code) for code in known[:block])
        return sound([int(code) for code in known], len(made.pulled))

    made = Codec(arriving(), block, ahead, render)
    return made


def toy_codec(codes: Sequence[int], block: int, ahead: int, fade: int = 3) -> Codec:
    """Sound that gives away how it was made: 4 samples a code, all shifted by what lies ahead and by how many codes
    had been asked for by then. Beyond the end lie `fade` samples of the next code, if it is known."""

    def sound(known: list[int], pulled: int) -> tuple[Tensor, Tensor]:
        place = torch.arange(4)
        draft = sum(known[block:]) / 100 + pulled / 10
        waves = [torch.sin(1.0 + code + 0.7 * place) + draft for code in known[: block + 1]]
        spoken = min(block, len(known))
        return torch.cat(waves[:spoken]), torch.cat([*waves[spoken:], torch.empty(0)])[:fade]

    return new_codec(codes, block, ahead, sound)


def mel_codec(mel: Tensor, vocoder: Any, block: int = 12, ahead: int = 1, margin: int = 16, fade: int = 240) -> Codec:
    """A recording's own mel (frames, bands), as if a perfect DiT had made it: code i stands for frames 2i and 2i + 1.

    What is left to hear are the seams of the vocoder. margin: mel frames of context on each side; fade: samples."""

    def sound(known: list[int], pulled: int) -> tuple[Tensor, Tensor]:
        start, end = 2 * known[0], 2 * (known[min(block, len(known)) - 1] + 1)
        before, after = max(0, start - margin), min(2 * (known[-1] + 1), end + margin)
        wave = vocoder(mel[None, before:after])[0]
        first, last = (start - before) * vocoder.hop, (end - before) * vocoder.hop
        return wave[first:last], wave[last : last + fade]

    return new_codec(range(len(mel) // 2), block, ahead, sound)


def real_codec(codes: Sequence[int], dit: Any, voice: Tensor, vocoder: Any, seed: int = 0, **how: Any) -> Codec:
    """The package's DiT (its past kept as keys and values) and vocoder; `how` goes to `MelStream`."""
    from ..streaming.mel import MelStream
    from ..streaming.speech import WaveStream

    mel, wave = MelStream(dit, voice, seed=seed, **how), WaveStream(vocoder)

    def sound(known: list[int], pulled: int) -> tuple[Tensor, Tensor]:
        mel.codes = list(known)
        made, ahead = mel.advance(1, ended=True)
        wave.beyond = torch.empty(0)  # nothing to fade from: the streamer fades, not the package
        samples = wave.add(made, ahead)
        return samples, wave.beyond

    return new_codec(codes, mel.codes_a_block, mel.ahead, sound)


def packaged(codec: Codec) -> Iterator[Tensor]:
    """The package's way of streaming (`streaming.speech.Speech`) over the same codec: for comparison, and to go on
    with while the exercise is unsolved."""
    from ..streaming.account import Account
    from ..streaming.speech import Speech

    speech = Speech(_Blocks(codec), _Fader(), Account(), most_blocks=1)
    for code in codec.codes:
        samples = speech.add(code)
        if samples is not None:
            yield samples
    yield from speech.finish()


class _Blocks:
    """A codec in the shape of the package's MelStream, whose "mel" already is sound."""

    def __init__(self, codec: Codec) -> None:
        self.codec, self.blocks = codec, 0
        self.codes: list[int] = []

    def add(self, codes: Sequence[int]) -> None:
        self.codes.extend(codes)

    def ready(self, blocks: int) -> bool:
        return len(self.codes) >= (blocks + self.codec.ahead) * self.codec.block

    def sketchable(self) -> bool:
        return False  # nobody hurries here

    def sketch(self) -> Tensor:
        return self.codec.render(self.codes[: self.codec.block])[0]

    def advance(self, blocks: int, ended: bool = False) -> tuple[Tensor, Tensor]:
        made = self.codec.render(self.codes[: (1 + self.codec.ahead) * self.codec.block])
        del self.codes[: self.codec.block]
        self.blocks += 1
        return made


class _Fader:
    """The seam of the package's WaveStream, over sound that is already there."""

    def __init__(self) -> None:
        self.beyond: Tensor | None = None

    def add(self, samples: Tensor, beyond: Tensor) -> Tensor:
        from ..streaming import speech

        faded = samples if self.beyond is None else speech.crossfade(self.beyond, samples)
        self.beyond = beyond
        return faded


@dataclass(frozen=True)
class Findings:
    """What a streamer did."""

    codes: bool  # every code was spoken once, in order
    first: int  # codes that had been asked for when the first sound came
    expected: int  # a block and its look-ahead
    held: int  # the most codes handed over at once
    samples: bool  # as many samples as the whole
    seams: float  # the largest jump at a seam, as a multiple of the largest within chunks

    @property
    def passed(self) -> bool:
        """Whether a streamer passes all tests."""
        return self.codes and self.samples and self.first == self.expected == self.held and self.seams <= 1.0


def examine(stream: Stream, block: int = 4, ahead: int = 1, blocks: int = 6) -> Findings:
    """The tests of a streamer: same codes, first sound in time, bounded state, no seams.

    The sound is a slow sine whose phase every chunk gets a little wrong, as vocoders do: a streamer that joins chunks
    without a fade jumps."""
    hop, fade, count = 480, 240, blocks * block + 1

    def sound(known: list[int], pulled: int) -> tuple[Tensor, Tensor]:
        start, spoken = known[0] * hop, min(block, len(known)) * hop
        reach = min(spoken + fade, len(known) * hop)
        place = torch.arange(start, start + reach)
        wave = torch.sin(2 * torch.pi * 100 * place / 24_000 + 0.8 * (known[0] // block % 2))
        return wave[:spoken], wave[spoken:]

    codec = new_codec(range(count), block, ahead, sound)
    chunks, first = [], 0
    for chunk in stream(codec):
        if len(chunk):  # an empty one is no sound, early or late
            first = first or len(codec.pulled)
            chunks.append(chunk)
    if not chunks:
        return Findings(False, 0, (1 + ahead) * block, 0, False, float("inf"))
    jumps = torch.cat(chunks).diff().abs()
    ends = torch.tensor([len(chunk) for chunk in chunks]).cumsum(0)[:-1] - 1
    inside = torch.ones_like(jumps, dtype=torch.bool)
    inside[ends] = False
    seams = float(jumps[ends].max() / jumps[inside].max()) if len(ends) else 0.0
    return Findings(
        codec.spoken == list(range(count)), first, (1 + ahead) * block, codec.held,
        sum(len(chunk) for chunk in chunks) == count * hop, seams,
    )  # fmt: skip
