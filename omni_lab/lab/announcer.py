"""Lab 06's small world: a telephone announcer, cut from recorded words, and a talker that learned her from bad labels.

Announcements are glued from pieces, as telephone exchanges do it: "Monday, Victor and Delta saved nine." Everything
about them is known, so faults can be put in on purpose. Where labels are sloppy, the voice says a word's twin (nine for
five), leaves out the pause at a comma, or pauses where none is. A talker that imitates such data imitates its faults.

Notable: a code stands for 80 ms here, not for 20, and every 80 ms of every piece is a code of its own. So nothing is
lost in the codes, and an announcement has 60 of them: a talker learns it in minutes.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..config import preset
from ..data import recordings, speech
from ..data.splits import draw, pick
from ..talker import Talker
from ..train.optimise import AdamW
from .codebook import Codebook, pairs_of

# Each place of an announcement has words of its own: which word comes next can be read off the text without counting.
DAYS = ("Monday", "Thursday", "Saturday", "Sunday", "Today", "Tomorrow")
CALLERS = ("Charlie", "Juliet", "Oscar", "Victor")
OTHERS = ("Delta", "India", "Tango", "Sierra")
DEEDS = ("saved", "received")
NUMBERS = ("five", "nine", "seven", "eleven", "twelve", "twenty")
PIECES = (*DAYS, *CALLERS, *OTHERS, *DEEDS, *NUMBERS, "and")
RATE = 24_000  # Hz
PARTS = 4  # pieces of 20 ms in a code
SECONDS = 0.02 * PARTS  # of a code
PAUSE = 3  # codes at a comma: 0.24 s


def announcement(rng: np.random.Generator, split: str) -> str:
    """One of 1,152 announcements; those of "test" are never said in training."""

    def propose(rng: np.random.Generator) -> tuple[str, str]:
        day, caller, other, deed, number = (pick(rng, words) for words in (DAYS, CALLERS, OTHERS, DEEDS, NUMBERS))
        text = f"{day}, {caller} and {other} {deed} {number}."
        return text.lower(), text

    return draw(rng, split, "announcement", propose)[1]


def twin(word: str) -> str:
    """The word that sloppy labels take a word for: the words of a place come in pairs; deeds and "and" have no twin."""
    for group in (DAYS, CALLERS, OTHERS, NUMBERS):
        if word in group:
            return group[group.index(word) ^ 1]
    return word


@dataclass(frozen=True)
class Announcer:
    """The recorded pieces as codes: code c is the pieces of sound PARTS * c ... of `book`, the last code is silence."""

    book: Codebook
    pieces: dict[str, Tensor]  # word -> (n,) codes, each of its own

    @property
    def silence(self) -> int:
        """The code that is silence: the last of the book."""
        return len(self.book.centres) // PARTS - 1

    def codes(
        self, text: str, rng: np.random.Generator | None = None, sloppy: float = 0.0, pause: int = PAUSE
    ) -> Tensor:
        """An announcement as codes (n,). sloppy: the chance of a fault at each word and each gap, drawn from `rng`;
        pause: codes of silence at a comma."""
        made, words = [], text.rstrip(".").split()
        for place, word in enumerate(words):
            name = word.rstrip(",")
            wrong, odd = (rng.random(2) < sloppy).tolist() if rng is not None else (False, False)
            made.append(self.pieces[twin(name) if wrong else name])
            # Away from commas a gap is odd half as often: there are four such gaps to one comma.
            odd = odd if word.endswith(",") else odd and rng is not None and bool(rng.random() < 0.5)
            if word.endswith(",") != odd and place < len(words) - 1:
                made.append(torch.full((pause,), self.silence))
        return torch.cat([*made, torch.tensor([self.silence])])

    def wave(self, codes: Tensor) -> Tensor:
        """Codes (n,) -> 24 kHz (1920 * n,); phases are guessed (`Codebook.wave`). Codes that she lacks are left out."""
        codes = codes[codes <= self.silence]
        return self.book.wave((PARTS * codes[:, None] + torch.arange(PARTS)).flatten())

    def heard(self, codes: Tensor) -> list[tuple[str, float, float]]:
        """(word, begin, end) in seconds as the codes have it: words of which half or more was said, in order.

        For want of independent ears: it knows her pieces, and no other voice."""
        place = {int(code): (word, k) for word, row in self.pieces.items() for k, code in enumerate(row)}
        runs: list[list] = []  # [word, first step, step behind the last, place in the word]
        for step, code in enumerate(codes.tolist()):
            word, k = place.get(code, ("", 0))
            if runs and runs[-1][0] == word and runs[-1][2] == step and runs[-1][3] < k:
                runs[-1][2:] = [step + 1, k]
            elif word:
                runs.append([word, step, step + 1, k])
        kept = [run for run in runs if 2 * (run[2] - run[1]) >= len(self.pieces[run[0]])]
        return [(word, SECONDS * first, SECONDS * behind) for word, first, behind, _ in kept]


@functools.cache
def announcer() -> Announcer:
    """The announcer, cut from the shipped recordings (a person reading telephone prompts): a second of work."""
    pieces, rows, start = {}, [], 0
    for word in PIECES:
        wave = recorded(word)
        count = -(-len(wave) // round(RATE * SECONDS))
        rows.append(pairs_of(torch.from_numpy(np.pad(wave, (0, count * round(RATE * SECONDS) - len(wave))))))
        pieces[word] = torch.arange(start, start + count)
        start += count
    rows.append(pairs_of(torch.zeros(round(RATE * SECONDS))))
    return Announcer(Codebook(torch.cat(rows)), pieces)


def recorded(word: str) -> np.ndarray:
    """A prompt of this one word without the silence around it: float32 (samples,) at 24 kHz."""
    prompt = next(p for p in recordings.everything() if p.text.strip(".!").lower() == word.lower())
    power = np.convolve(prompt.wave**2, np.ones(320) / 320, "same")  # over 20 ms at 16 kHz
    loud = np.nonzero(power > 1e-3 * power.max())[0]
    wave = prompt.wave[max(0, loud[0] - 300) : loud[-1] + 600]
    return speech.resample(0.6 * wave / np.abs(wave).max(), 16_000, RATE)


def small_talker(layers: int = 2) -> Talker:
    """A talker of nano's kind and ids, half as wide."""
    nano = preset("nano").talker_config
    return Talker(
        replace(
            nano, hidden_size=nano.hidden_size // 2, intermediate_size=nano.intermediate_size // 2,
            num_hidden_layers=layers,
        )
    )  # fmt: skip


def texts(count: int, seed: int = 0) -> list[str]:
    """Different announcements to learn from."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}  # a set that keeps its order
    while len(found) < count:
        found.setdefault(announcement(rng, "train"))
    return list(found)


def learn(
    module: nn.Module, loss_of: Callable[[int], Tensor], steps: int, rate: float, warm_up: float = 0.15
) -> list[float]:
    """AdamW with warm-up and decay on what `loss_of(step)` gives; the loss of every step."""
    optimiser = AdamW(module.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(steps, 2), pct_start=warm_up)
    losses = []
    for step in range(steps):
        loss = loss_of(step)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses
