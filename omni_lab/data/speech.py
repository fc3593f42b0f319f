"""Voices: sentences spoken by the neural voice of `hibari-tts` (Apache-2.0, 24 kHz), and by speakers made from it.

The voice's network predicts, per frame of 12.5 ms, a pitch and the spectra of its harmonics and its noise. A speaker is
a change of those before they become a wave: pitch times a factor, intonation wider or flatter, the spectra stretched
along frequency (a longer or shorter vocal tract), more or less breath, a brighter or darker tilt. So every speaker
says every sentence with the same words and without the artefacts of a vocoder run twice.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio

from ..errors import DataError
from .sample import HEARING_RATE, SPEAKING_RATE


@dataclass(frozen=True)
class Speaker:
    """How one speaker differs from the source voice."""

    name: str
    pitch: float = 1.0  # factor on the fundamental frequency
    formants: float = 1.0  # factor on the resonances: above 1 a shorter vocal tract
    speed: float = 1.0  # factor on the pace
    range: float = 1.0  # factor on the excursions of the pitch (in log frequency)
    breath: float = 0.0  # added to the log spectrum of the noise
    tilt: float = 0.0  # nepers from 0 to 12 kHz added to all log spectra


# The first eight answer (`<spk_0>` to `<spk_7>` of the tokenizer, in this order), and are heard in training as well.
_TRAINED = (
    Speaker("heart"),
    Speaker("hugo", 0.58, 0.86, 1.0, 0.9, 0.1, -0.4),
    Speaker("mina", 1.28, 1.13, 1.05, 1.1),
    Speaker("otto", 0.48, 0.82, 0.92, 0.8, 0.0, -0.6),
    Speaker("pia", 1.5, 1.22, 1.1, 1.15, 0.0, 0.3),
    Speaker("rolf", 0.68, 0.9, 1.12, 1.2, 0.3, 0.2),
    Speaker("selma", 0.86, 0.97, 0.9, 0.7, 0.6, -0.3),
    Speaker("theo", 0.76, 1.04, 1.0, 0.6, -0.3, 0.5),
)
# Heard in training only (never answering), and never heard before the test.
_HEARD = (
    Speaker("alma", 1.12, 1.05, 1.0, 1.3, 0.2), Speaker("bruno", 0.54, 0.93, 1.05, 1.1, 0.2),
    Speaker("cleo", 1.38, 1.08, 0.95, 0.9, 0.5, 0.2), Speaker("dirk", 0.62, 0.8, 0.98, 1.0, -0.2),
    Speaker("elin", 0.94, 1.1, 1.08, 1.0, 0.0, 0.4), Speaker("fynn", 0.72, 0.95, 0.94, 0.8, 0.4, -0.5),
    Speaker("gwen", 1.2, 0.98, 1.0, 0.8, 0.3, -0.2), Speaker("hank", 0.5, 0.88, 1.1, 1.3, 0.1, 0.3),
)  # fmt: skip
_UNHEARD = (
    Speaker("ines", 1.06, 1.16, 0.97, 1.2, 0.1, 0.1), Speaker("jost", 0.56, 0.78, 1.03, 1.0, 0.3, -0.2),
    Speaker("kaja", 1.42, 1.18, 0.98, 0.8, 0.2, -0.3), Speaker("lars", 0.65, 1.0, 0.96, 0.9, -0.1, -0.3),
    Speaker("maud", 0.9, 0.92, 1.04, 1.1, 0.4, 0.3), Speaker("nils", 0.45, 0.9, 1.0, 0.7, 0.2, 0.1),
    Speaker("oona", 1.3, 1.02, 1.06, 1.3, -0.2, 0.4), Speaker("piet", 0.8, 0.84, 1.0, 1.2, 0.0, -0.1),
)  # fmt: skip
SPEAKERS = {speaker.name: speaker for speaker in _TRAINED + _HEARD + _UNHEARD}

# The source voice's phonemes (Misaki's alphabet: capitals are diphthongs), as ids from 1 on; 0: between words, silence.
PHONEMES = "əɹntðlkɪszdɛæimpɑbɐʌfɡAIvhɔOᵊuWwɜʧʃŋʤTjᵻʊθYʒɾʔ"
PHONEME_RATE = 100  # phoneme ids a second, one a frame of a log-mel
STRESS = "ˈˌː"  # marks that last some frames, which belong to the vowel beside them
_ENDS = "/CumSum_output_0"  # of the voice's network: where each phoneme ends, in frames of 25 ms
REPLY_SPEAKERS = tuple(speaker.name for speaker in _TRAINED)
HELD_OUT_SPEAKERS = tuple(speaker.name for speaker in _UNHEARD)


def speakers(split: str) -> tuple[str, ...]:
    """Names of the speakers who may be heard in that split: the test's are never heard in training."""
    if split == "test":
        return HELD_OUT_SPEAKERS
    return tuple(name for name in SPEAKERS if name not in HELD_OUT_SPEAKERS)


@functools.cache
def source_voice():
    """The source voice, loaded once per process (0.5 s, one thread). Raises DataError when not installed."""
    try:
        from hibari import Hibari
    except ImportError as error:
        raise DataError("no voice to speak with: install it with `pip install hibari-tts`") from error
    return Hibari(threads=1)


@functools.cache
def timing_session() -> Any:
    """The source voice's network, which tells also where each phoneme ends: a value within it, made an output.

    Raises DataError for a network that has no such value."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    name = _ENDS.encode()
    # Protocol buffers that stand one after another are one message: this adds a name to the list of outputs.
    output = b"\x0a" + bytes([len(name)]) + name  # ValueInfoProto: name
    graph = b"\x62" + bytes([len(output)]) + output  # GraphProto: output
    model = Path(source_voice().model_path).read_bytes()
    if name not in model:
        raise DataError("this hibari-tts does not tell when its phonemes end: install hibari-tts==0.2.1")
    model += b"\x3a" + bytes([len(graph)]) + graph  # ModelProto: graph
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@functools.lru_cache(maxsize=20_000)
def phonemes(text: str) -> tuple[str, ...]:
    """The phonemes of each sentence of `text`, as the source voice reads them."""
    return tuple(source_voice().phonemize(text))


def say(text: str, speaker: str = "heart", seed: int = 0, speed: float = 1.0) -> np.ndarray:
    """`text` spoken by `speaker`: float32 (samples,) at 24 kHz, the same on every call with the same seed.

    speed multiplies the speaker's own pace. Raises DataError for an unknown speaker or a text without a word in it."""
    if speaker not in SPEAKERS:
        raise DataError(f"unknown speaker {speaker!r}: choose from {', '.join(SPEAKERS)}")
    return utter(text, SPEAKERS[speaker], seed, speed)


def utter(text: str, speaker: Speaker, seed: int = 0, speed: float = 1.0) -> np.ndarray:
    """`say` for any `Speaker`, named or made up on the spot."""
    return _said(text, speaker, seed, speed, source_voice().sess)[0]


def timed(text: str, speaker: Speaker, seed: int = 0, speed: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """`utter`, and which phoneme is heard when: (samples,) at 24 kHz, and ids at 100 Hz, uint8, one more than that of
    PHONEMES, 0 between words."""
    wave, ends = _said(text, speaker, seed, speed, timing_session())
    hop = SPEAKING_RATE // PHONEME_RATE
    track = np.zeros(-(-len(wave) // hop), np.uint8)
    loud = np.add.reduceat(wave**2, np.arange(len(track)) * hop)
    loud = loud > 1e-4 * loud.max()
    spans: list[tuple[int, int, int, str]] = []  # id, first frame, the frame behind the last, sign
    first = 0
    for sign, end in ends:
        if sign in STRESS:
            continue  # its frames are the next one's
        last = max(round(end * PHONEME_RATE), first)
        number = PHONEMES.find(sign) + 1
        behind_pause = not spans or (not spans[-1][0] and spans[-1][3] != " ")
        if number and behind_pause:  # the voice gives a pause to what follows
            first += int(np.argmax(loud[first : last + 1]))
        elif sign == " " and behind_pause:
            sign = ","
        spans.append((number, first, last, sign))
        first = last
    for (before, *_), (_, first, last, sign), (after, *_) in zip(spans, spans[1:], spans[2:], strict=False):
        if sign == " ":  # words run into each other
            track[first : (first + last) // 2] = before
            track[(first + last) // 2 : last] = after
    for number, first, last, _ in spans:
        if number:
            track[first:last] = number
    return wave, track


def _said(text: str, speaker: Speaker, seed: int, speed: float, session: Any) -> tuple[np.ndarray, list]:
    """A wave, and, if the session tells them, each phoneme's sign and the second at which it ends."""
    if not any(character.isalnum() for character in text):
        raise DataError(f"nothing to say in {text!r}")
    rng = np.random.default_rng(seed)
    voice = source_voice()
    waves: list[np.ndarray] = []
    ends: list[tuple[str, float]] = []
    for sentence in phonemes(text):
        signs = [sign for sign in sentence if sign in voice.vocab]
        feeds = {
            "ids": np.asarray([voice.ids(sentence)], np.int64),
            "speed": np.asarray([speaker.speed * speed], np.float32),
        }
        *spectra, last = session.run(None, feeds)
        if session is voice.sess:
            spectra.append(last)
        else:
            # In steps of two frames of 12.5 ms, and the silence before the first sign counts. What is heard of a sign
            # is over a step before the one before it ends: that shift explains the spectra best, at every pace.
            begun = sum(map(len, waves)) / SPEAKING_RATE
            ends += zip(signs, begun + (last.reshape(-1)[: len(signs)] - 1) / 40, strict=True)
        waves.append(synthesise([part[0] for part in spectra], speaker, rng))
    wave = np.concatenate(waves)
    return (0.7 * wave / max(float(np.abs(wave).max()), 1e-3)).astype(np.float32), ends


def synthesise(spectra: list[np.ndarray], speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """The voice's five spectra (601, frames) and pitch (frames,), changed to `speaker`, as a wave (samples,)."""
    from hibari import dsp

    harmonics, phase, noise, residue, residue_phase, pitch = spectra
    if speaker.name != "heart":
        tilt = np.linspace(0.0, speaker.tilt, harmonics.shape[0], dtype=np.float32)[:, None]
        harmonics = stretch(harmonics, speaker.formants) + tilt
        noise = stretch(noise, speaker.formants) + tilt + np.float32(speaker.breath)
        residue = stretch(residue, speaker.formants) + tilt
        pitch = bend(pitch, speaker.pitch, speaker.range)
    return dsp.synth(harmonics, phase, noise, residue, residue_phase, pitch, rng)


def stretch(spectrum: np.ndarray, factor: float) -> np.ndarray:
    """Move every resonance of a log spectrum (bins, frames) to `factor` times its frequency."""
    bins = spectrum.shape[0]
    source = np.clip(np.arange(bins) / factor, 0, bins - 1.001)
    low = source.astype(int)
    share = (source - low).astype(np.float32)[:, None]
    return spectrum[low] * (1 - share) + spectrum[low + 1] * share


def bend(pitch: np.ndarray, factor: float, excursion: float) -> np.ndarray:
    """Scale a pitch curve (frames,) in Hz, and its excursions from the mean in log frequency."""
    voiced = pitch > 40.0  # Hz: the source voice's own threshold
    if not voiced.any():
        return pitch
    log = np.log(np.maximum(pitch, 41.0))
    mean = log[voiced].mean()
    bent = np.exp(mean + (log - mean) * excursion) * factor
    return np.where(voiced, np.maximum(bent, 45.0), pitch).astype(np.float32)


def random_speaker(rng: np.random.Generator) -> Speaker:
    """A speaker whom nobody has met: for training that shall not learn eight voices by heart."""
    pitch = float(np.exp(rng.uniform(np.log(0.45), np.log(1.55))))
    formants = float(np.clip(pitch**0.35 * np.exp(rng.normal(0, 0.06)), 0.78, 1.25))
    return Speaker(
        "someone", pitch, formants, float(rng.uniform(0.88, 1.15)), float(rng.uniform(0.6, 1.3)),
        float(rng.uniform(-0.3, 0.6)), float(rng.uniform(-0.6, 0.5)),
    )  # fmt: skip


def resample(wave: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """`wave` (samples,) at `rate` Hz, at `new_rate` Hz: float32, band-limited."""
    if rate == new_rate or not len(wave):
        return np.asarray(wave, np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    return torchaudio.functional.resample(tensor, rate, new_rate).numpy()


def heard(wave: np.ndarray) -> np.ndarray:
    """A spoken wave at 24 kHz as the model hears it: 16 kHz."""
    return resample(wave, SPEAKING_RATE, HEARING_RATE)


def in_a_room(wave: np.ndarray, rng: np.random.Generator, before: int | None = None) -> np.ndarray:
    """A recording's accidents on a wave at 16 kHz: loudness, a little noise, silence before and after (up to 0.2 s).

    before: samples of that silence where they must be known."""
    drawn, after = (int(n) for n in rng.integers(0, HEARING_RATE // 5, 2))
    before = drawn if before is None else before
    wave = np.pad(wave * float(rng.uniform(0.4, 1.2)), (before, after))
    level = 10 ** rng.uniform(-4.0, -2.0)
    return (wave + level * rng.standard_normal(len(wave), dtype=np.float32)).astype(np.float32)


def in_any_room(wave: np.ndarray, rng: np.random.Generator, before: int | None = None) -> np.ndarray:
    """`in_a_room`, half the time through some microphone: what training hears, so that a voice is not its colour.

    A microphone's bass and treble, an echo of its room, and a compressor that lifts what is soft."""
    if rng.random() < 0.5:
        return in_a_room(wave, rng, before)
    effects = torchaudio.functional
    sound, loudest = torch.from_numpy(wave), float(np.abs(wave).max())
    sound = effects.bass_biquad(sound, HEARING_RATE, float(rng.uniform(-12, 12)), float(rng.uniform(150, 600)))
    sound = effects.treble_biquad(sound, HEARING_RATE, float(rng.uniform(-12, 12)), float(rng.uniform(1500, 4000)))
    length = int(rng.uniform(0.02, 0.25) * HEARING_RATE)
    fading = torch.exp(-5 * torch.arange(length) / length)
    echo = torch.from_numpy(rng.standard_normal(length, dtype=np.float32)) * fading
    echo[0] = float(rng.uniform(1, 6)) * echo.norm()
    quick = 1 << (len(wave) + length - 1).bit_length()  # samples: a Fourier transform of any other number takes longer
    sound = effects.fftconvolve(F.pad(sound, (0, quick + 1 - length - len(wave))), echo)[: len(wave)]
    power = F.avg_pool1d(sound.square()[None], 800, 160, 400)[None]  # of 50 ms, every 10 ms
    lift = (power + 1e-4 * power.max() + 1e-12).pow(-float(rng.uniform(0, 0.3)))
    sound = sound * F.interpolate(lift, len(wave), mode="linear")[0, 0]
    return in_a_room((sound * (loudest / sound.abs().max().clamp(min=1e-6))).numpy(), rng, before)


@functools.cache
def shipped() -> tuple[Any, ...]:
    """The spoken sentences that ship (`bank.Sound`, about "text" and "speaker"), at 24 kHz."""
    from . import bank
    from .folders import samples_folder

    return tuple(bank.read(samples_folder() / "audio" / "speech.opus"))
