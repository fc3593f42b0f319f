"""Words that the recorded person never said, put together from pieces of what they did say (Hunt and Black 1996).

216 prompts hold 59 of 100 words of the others. Every word is a chain of phonemes, though, and where each of those lies
in a recording is known (`word_cuts.aligned`): pieces that begin and end in the middle of a phoneme, as long as can be
had, make any chain. It sounds glued, but it is that person's sounds that are heard. Only training's ears hear them: no
voice of the model is that person's.
"""

import functools
from collections import defaultdict
from itertools import groupby

import numpy as np

from . import recordings, speech
from .splits import pick
from .word_cuts import FADE, HOP, Cut, of_prompt

CANDIDATES = 12  # places of a pair of phonemes that are compared, drawn anew for every word
SILENCE = 6  # frames of 10 ms that are kept of a silence beside a word
PAUSE = 9  # frames: pauses between words are shorter

Run = tuple[int, int, int]  # a phoneme, its first frame in a recording, the frame behind its last
Place = tuple[int, int]  # a prompt, and the number of a run in it
Join = tuple[Place, Place]  # where one phoneme is heard, and the next


@functools.cache
def runs(prompt: int) -> tuple[Run, ...]:
    """The phonemes of training's prompt number `prompt`, silence among them (0), and where they lie."""
    found, first = [], 0
    for phoneme, group in groupby(of_prompt(prompt)[0].tolist()):
        last = first + len(list(group))
        found.append((phoneme, first, last))
        first = last
    return tuple(found)


@functools.cache
def places() -> tuple[dict[tuple[int, int], list[Place]], dict[int, list[Place]]]:
    """Where in training's prompts one phoneme follows another, and where each of them is."""
    pairs, single = defaultdict(list), defaultdict(list)
    for prompt in range(len(recordings.prompts("train"))):
        spoken = runs(prompt)
        for number, (phoneme, *_) in enumerate(spoken):
            single[phoneme].append((prompt, number))
            if number + 1 < len(spoken):
                pairs[phoneme, spoken[number + 1][0]].append((prompt, number))
    return dict(pairs), dict(single)


def chain(text: str) -> list[int]:
    """A word's phonemes as ids, between two silences."""
    signs = [sign for part in speech.phonemes(text) for sign in part if sign in speech.PHONEMES]
    return [0, *(speech.PHONEMES.index(sign) + 1 for sign, _ in groupby(signs)), 0]


def candidates(pair: tuple[int, int], before: list[Join], rng: np.random.Generator) -> list[Join]:
    """Places where two phonemes are heard one after the other, or, if nowhere, of each by itself; those that go on from
    the last phoneme of one `before` are among them."""
    pairs, single = places()
    known, ends = pairs.get(pair, []), [end for _, end in before]
    if known:
        some = [known[i] for i in rng.permutation(len(known))[:CANDIDATES]]
        some += [place for place in ends if place in known and place not in some]
        return [((prompt, number), (prompt, number + 1)) for prompt, number in some]
    if not all(phoneme in single for phoneme in pair):
        return []
    firsts = ends or [pick(rng, single[pair[0]]) for _ in range(CANDIDATES)]
    return [(first, pick(rng, single[pair[1]])) for first in firsts]


def chosen(wanted: list[int], rng: np.random.Generator) -> list[Join]:
    """For each two neighbours in `wanted` a place where they are heard, so that few pieces are needed (Viterbi); none
    if a phoneme is in no prompt."""
    options: list[list[Join]] = []
    for pair in zip(wanted, wanted[1:], strict=False):
        options.append(candidates(pair, options[-1] if options else [], rng))
        if not options[-1]:
            return []
    cost = rng.uniform(0, 0.5, len(options[0]))
    back: list[np.ndarray] = []
    for before, here in zip(options, options[1:], strict=False):
        joins = np.array([[float(end != first) for _, end in before] for first, _ in here]) + cost
        back.append(joins.argmin(1))
        cost = joins.min(1) + rng.uniform(0, 0.5, len(here))
    best = [int(cost.argmin())]
    for step in reversed(back):
        best.append(int(step[best[-1]]))
    return [option[i] for option, i in zip(options, reversed(best), strict=True)]


def stretches(joins: list[Join]) -> list[tuple[int, int, int]]:
    """What to play: prompts, each with a first frame and the frame behind the last, from middle to middle."""
    found: list[tuple[int, int, int]] = []

    def play(prompt: int, first: int, last: int) -> None:
        if found and found[-1][0] == prompt and found[-1][2] == first:
            first = found.pop()[1]
        if last > first:
            found.append((prompt, first, last))

    for (prompt, number), (other, following) in joins:
        phoneme, first, last = runs(prompt)[number]
        play(prompt, max((first + last) // 2, last - SILENCE if phoneme == 0 else 0), last)
        phoneme, first, last = runs(other)[following]
        play(other, first, min((first + last) // 2, first + SILENCE if phoneme == 0 else last))
    return found


def said(text: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """A word in the recorded person's sounds: (samples,) at 16 kHz and the phoneme of each 10 ms; None for one with a
    phoneme that training's prompts lack, or with none at all."""
    wanted = chain(text)
    joins = chosen(wanted, rng) if len(wanted) > 2 else []
    wave, tail, track = np.zeros(0, np.float32), np.zeros(0, np.float32), []
    fading = np.linspace(0, 1, FADE, dtype=np.float32)
    for prompt, first, last in stretches(joins):
        whole = recordings.prompts("train")[prompt].wave
        last = min(last, len(whole) // HOP)
        piece = whole[first * HOP : last * HOP].copy()
        if len(piece) < 2 * FADE:
            continue
        piece[:FADE] *= fading
        ahead = whole[last * HOP : last * HOP + FADE]  # what came next fades under what comes instead
        piece[: len(tail)] += tail * fading[::-1][: len(tail)]
        wave, tail = np.concatenate((wave, piece)), ahead
        track.append(of_prompt(prompt)[0][first:last])
    return (wave, np.concatenate(track)) if track else None


def phrase(text: str, rng: np.random.Generator) -> Cut | None:
    """A text word by word in the recorded person's sounds, with hardly a pause: text, wave and phonemes. None if
    training's prompts lack a phoneme of it."""
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    for word in text.split():
        if not any(character.isalnum() for character in word):
            continue
        made = said(word.strip(",.;!?"), rng)
        if made is None:
            return None
        pause = int(rng.integers(PAUSE))
        pieces += [made, (np.zeros(pause * HOP, np.float32), np.zeros(pause, np.uint8))]
    if not pieces:
        return None
    waves, tracks = zip(*pieces, strict=True)
    return text, np.concatenate(waves), np.concatenate(tracks)
