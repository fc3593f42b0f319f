"""Words cut out of the recorded prompts and put in another order: one person's voice is learned from 216 recordings,
and a model that hears those again and again knows them by heart rather than their words.

Where a word ends is found by warping the source voice's reading, whose words are said one by one, onto the recording
(dynamic time warping, Sakoe and Chiba 1978).
"""

import functools

import numpy as np
import torch
import torchaudio

from . import recordings, speech
from .sample import HEARING_RATE
from .sentences import key_of
from .splits import pick

HOP = HEARING_RATE // 100  # samples a frame
PACE = 0.75  # of the source voice: the recorded person takes that much longer
AGAINST = 0.1  # what staying in one frame costs beside its distance
NEAR = 0.06  # seconds within which a cut moves to where it is most quiet
FADE = HEARING_RATE // 200
QUIET = 1e-3  # of the loudest power: silence

Cut = tuple[str, np.ndarray, np.ndarray]  # a word, its wave (samples,) at 16 kHz, and the phoneme of each 10 ms


@functools.cache
def mel() -> torch.nn.Module:
    """Forty mel bands, 25 ms wide, every 10 ms."""
    return torchaudio.transforms.MelSpectrogram(HEARING_RATE, HEARING_RATE // 40, hop_length=HOP, n_mels=40)


def features(wave: np.ndarray) -> np.ndarray:
    """Log-mels less their mean, which is the microphone's, each frame of length one: (frames, 40)."""
    bands = torch.log(mel()(torch.from_numpy(np.ascontiguousarray(wave))) + 1e-4)
    return torch.nn.functional.normalize(bands - bands.mean(1, keepdim=True), dim=0).T.numpy()


def warp(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For each frame of `one` (n, bands) the first frame of `other` (m, bands) that it is laid upon, in order: (n,)."""
    n, m = len(one), len(other)
    distance = 1 - one @ other.T
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for diagonal in range(2, n + m + 1):  # each depends on the two before it, none on its own
        rows = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        columns = diagonal - rows
        stay = np.minimum(total[rows - 1, columns], total[rows, columns - 1]) + AGAINST
        total[rows, columns] = distance[rows - 1, columns - 1] + np.minimum(total[rows - 1, columns - 1], stay)
    found, i, j = np.zeros(n, int), n, m
    while i and j:
        found[i - 1] = j - 1
        step = int(np.argmin((total[i - 1, j - 1], total[i - 1, j] + AGAINST, total[i, j - 1] + AGAINST)))
        i, j = i - (step != 2), j - (step != 1)
    return found


@functools.cache
def one_word(word: str) -> tuple[np.ndarray, np.ndarray]:
    """A word by the source voice without the silence around it: whole frames at 16 kHz, and each one's phoneme."""
    wave, phonemes = speech.timed(word, speech.SPEAKERS["heart"], 0, PACE)
    wave = speech.heard(wave)
    sounding = np.flatnonzero(loudness(wave) > QUIET * loudness(wave).max()) // HOP
    first, last = sounding[0], min(sounding[-1] + 1, len(phonemes), len(wave) // HOP)
    return wave[first * HOP : last * HOP], phonemes[first:last]


def loudness(wave: np.ndarray) -> np.ndarray:
    """Mean power of the 20 ms around each sample."""
    return np.convolve(wave**2, np.full(HEARING_RATE // 50, 50 / HEARING_RATE), "same")


@functools.cache
def of_prompt(place: int) -> tuple[np.ndarray, tuple[Cut, ...]]:
    """`aligned`, of training's prompt number `place`."""
    return aligned(recordings.prompts("train")[place])


def aligned(prompt: recordings.Prompt) -> tuple[np.ndarray, tuple[Cut, ...]]:
    """The phoneme of each 10 ms of a prompt, and its words, each with its stretch of the recording and of those."""
    words = [word.strip(",.;!?") for word in prompt.text.split()]
    words = [word for word in words if any(character.isalnum() for character in word)]
    if not words:
        return np.zeros(-(-len(prompt.wave) // HOP), np.uint8), ()
    waves, phonemes = zip(*(one_word(word) for word in words), strict=True)
    path = warp(features(np.concatenate(waves)), features(prompt.wave))
    ends = np.cumsum([len(wave) for wave in waves])[:-1] // HOP
    power, near = loudness(prompt.wave), int(NEAR * HEARING_RATE)
    cuts = [0]
    for end in ends:
        about = int(path[end]) * HOP
        first = max(about - near, cuts[-1])
        cuts.append(first + int(np.argmin(power[first : max(about + near, first + 1)])))
    cuts.append(len(prompt.wave))
    track = laid_upon(np.concatenate(phonemes), path, power)
    found = []
    for word, first, last in zip(words, cuts, cuts[1:], strict=False):
        if last - first > 4 * FADE:
            found.append((word, prompt.wave[first:last], track[np.arange(first, last, HOP) // HOP]))
    return track, tuple(found)


def laid_upon(phonemes: np.ndarray, path: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Phonemes of a reading's frames, on the frames of a recording of `power` (samples,): 0 where that is silent."""
    frames = np.arange(-(-len(power) // HOP))
    track = phonemes[(np.searchsorted(path, frames, side="right") - 1).clip(0, len(phonemes) - 1)]
    loud = np.add.reduceat(power, frames * HOP) / HOP
    return np.where(loud > QUIET * loud.max(), track, 0).astype(np.uint8)


def in_another_order(rng: np.random.Generator, most: int = 6) -> Cut:
    """One to `most` words of training's prompts by the recorded person, half the time one: their text, wave and
    phonemes."""
    count = int(rng.integers(2, most + 1)) if rng.random() < 0.5 else 1
    words: list[str] = []
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    fading = np.linspace(0, 1, FADE, dtype=np.float32)
    while len(words) < count or key_of(" ".join(words)) in tested():
        cut = of_prompt(int(rng.integers(len(recordings.prompts("train")))))[1]
        if not cut:
            continue
        word, piece, phonemes = pick(rng, cut)
        piece = piece[: len(piece) // HOP * HOP].copy()  # whole frames, each with its phoneme
        piece[:FADE] *= fading
        piece[-FADE:] *= fading[::-1]
        pause = int(rng.uniform(0, 0.1) * HEARING_RATE) // HOP
        words.append(word.lower())
        pieces.append((piece, phonemes[: len(piece) // HOP]))
        pieces.append((np.zeros(pause * HOP, np.float32), np.zeros(pause, np.uint8)))
    waves, tracks = zip(*pieces, strict=True)
    return " ".join(words).capitalize(), np.concatenate(waves), np.concatenate(tracks)


def whole(rng: np.random.Generator) -> Cut:
    """One of training's prompts as it was read."""
    place = int(rng.integers(len(recordings.prompts("train"))))
    prompt = recordings.prompts("train")[place]
    return prompt.text, prompt.wave, of_prompt(place)[0]


@functools.cache
def tested() -> frozenset[str]:
    """The test's prompts, by their words: training says none of them."""
    return frozenset(prompt.key for prompt in recordings.prompts("test"))
