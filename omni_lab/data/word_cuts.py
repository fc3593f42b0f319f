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


def one_word(word: str) -> np.ndarray:
    """A word by the source voice without the silence around it, (samples,) at 16 kHz."""
    wave = speech.heard(speech.say(word, "heart", 0, PACE))
    sounding = np.flatnonzero(loudness(wave) > 1e-3 * loudness(wave).max())
    return wave[sounding[0] : sounding[-1] + 1]


def loudness(wave: np.ndarray) -> np.ndarray:
    """Mean power of the 20 ms around each sample."""
    return np.convolve(wave**2, np.full(HEARING_RATE // 50, 50 / HEARING_RATE), "same")


@functools.cache
def words_of_prompt(place: int) -> tuple[tuple[str, np.ndarray], ...]:
    """`words_of` training's prompt number `place`."""
    return words_of(recordings.prompts("train")[place])


def words_of(prompt: recordings.Prompt) -> tuple[tuple[str, np.ndarray], ...]:
    """A prompt's words, each with its stretch of the recording: float32 (samples,) at 16 kHz."""
    words = [word.strip(",.;!?") for word in prompt.text.split()]
    words = [word for word in words if any(character.isalnum() for character in word)]
    if not words:
        return ()
    said = [one_word(word) for word in words]
    path = warp(features(np.concatenate(said)), features(prompt.wave))
    ends = np.cumsum([len(wave) for wave in said])[:-1] // HOP
    power, near = loudness(prompt.wave), int(NEAR * HEARING_RATE)
    cuts = [0]
    for end in ends:
        about = int(path[end]) * HOP
        first = max(about - near, cuts[-1])
        cuts.append(first + int(np.argmin(power[first : max(about + near, first + 1)])))
    cuts.append(len(prompt.wave))
    pieces = [prompt.wave[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    return tuple((word, wave) for word, wave in zip(words, pieces, strict=True) if len(wave) > 4 * FADE)


def in_another_order(rng: np.random.Generator, most: int = 6) -> tuple[str, np.ndarray]:
    """One to `most` words of training's prompts by the recorded person, half the time one: their text and their wave,
    (samples,) at 16 kHz."""
    count = int(rng.integers(2, most + 1)) if rng.random() < 0.5 else 1
    words: list[str] = []
    waves: list[np.ndarray] = []
    fading = np.linspace(0, 1, FADE, dtype=np.float32)
    while len(words) < count or key_of(" ".join(words)) in tested():
        cut = words_of_prompt(int(rng.integers(len(recordings.prompts("train")))))
        if not cut:
            continue
        word, piece = pick(rng, cut)
        piece = piece.copy()
        piece[:FADE] *= fading
        piece[-FADE:] *= fading[::-1]
        words.append(word.lower())
        waves += [piece, np.zeros(int(rng.uniform(0, 0.1) * HEARING_RATE), np.float32)]
    return " ".join(words).capitalize(), np.concatenate(waves)


@functools.cache
def tested() -> frozenset[str]:
    """The test's prompts, by their words: training says none of them."""
    return frozenset(prompt.key for prompt in recordings.prompts("test"))
