"""Sound -> samples -> log-mel frames for the audio encoder.

Decoding is libsndfile's (WAV, FLAC, MP3, Ogg, ...; PyAV for the rest), resampling torchaudio's, and the log-mel
spectrogram is the reference's own WhisperFeatureExtractor.
"""

import io
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor

from ..errors import InputError, MediaError
from .media import Source, name_of, read_bytes, reason

MAX_SECONDS = 3 * 3600  # of a file; longer ones are refused rather than filling the memory
BLOCK = 2**20  # samples of all channels that are decoded at a time


def load_audio(source: Source, rate: int, allow_urls: bool = False, most: float = MAX_SECONDS) -> np.ndarray:
    """Sound as one channel at `rate` Hz: (samples,), float32.

    source: path, address or bytes of a sound file, or of a video with a sound track; an array at `rate`; or
    (array, its rate in Hz). Arrays are (samples,) or two-dimensional with the fewer channels averaged; integers are
    scaled to [-1, 1]. most: seconds that a file may last. Raises MediaError (file) or InputError (array)."""
    if isinstance(source, (tuple, list)) and len(source) == 2 and np.ndim(source[0]) > 0 and np.ndim(source[1]) == 0:
        return resample(audio_array(source[0]), source[1], rate)
    if isinstance(source, (np.ndarray, Tensor, list, tuple)):
        return audio_array(source)
    wave, given = decode_audio(source, allow_urls, most)
    try:
        return resample(audio_array(wave), given, rate)
    except InputError as error:
        raise MediaError(f"{name_of(source)}: {error}") from None


def audio_array(array: Any) -> np.ndarray:
    """An array of samples as one channel: (samples,), float32, finite. Raises InputError."""
    try:
        wave = to_unit(array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array))
    except (TypeError, ValueError, RuntimeError) as error:
        raise (
            error
            if isinstance(error, InputError)
            else InputError(f"sound must be an array of samples ({reason(error)})")
        ) from None
    if wave.ndim == 2 and 0 < min(wave.shape) <= 32:  # (channels, samples) or (samples, channels)
        wave = wave.mean(axis=int(np.argmin(wave.shape)))
    if wave.ndim != 1:
        raise InputError(f"sound must be (samples,) or (channels, samples), got shape {wave.shape}")
    if wave.size == 0:
        raise InputError("the sound is empty: it has no samples")
    wave = np.ascontiguousarray(wave, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise InputError("the sound holds samples that are not finite (NaN or infinity)")
    return wave


def to_unit(wave: np.ndarray) -> np.ndarray:
    """Integer samples scaled to [-1, 1]; floats as they are. Raises InputError for anything else."""
    if wave.dtype.kind == "f":
        return wave
    if wave.dtype == np.uint8:
        return (wave.astype(np.float32) - 128.0) / 128.0
    if wave.dtype.kind == "i":
        return wave / -float(np.iinfo(wave.dtype).min)
    raise InputError(f"samples must be floats or integers, got {wave.dtype}")


def resample(wave: np.ndarray, given: Any, rate: int) -> np.ndarray:
    """(samples,) at `given` Hz -> (samples * rate / given,) at `rate` Hz, by windowed sinc. Raises InputError."""
    ratio = rate_ratio(given, rate)
    if ratio == 1:
        return wave
    out = resampler(ratio.numerator, ratio.denominator)(torch.from_numpy(wave)).numpy()
    if not out.size:
        raise InputError(f"the sound is too short: {wave.size} samples at {given} Hz")
    return out


def rate_ratio(given: Any, rate: int) -> Fraction:
    """`given` Hz / `rate` Hz, as near as filters of bearable size allow. Raises InputError for no usable rate."""
    if isinstance(given, bool) or not isinstance(given, (int, float, np.number)) or not 1000 <= given <= 768000:
        raise InputError(f"a sample rate of {given!r} Hz cannot be used: expected 1000 to 768000")
    # The filter bank has one phase per step of the reduced ratio: an odd rate (44101 Hz) would need gigabytes, so
    # such a ratio is taken to within 1e-5, far less than anyone can hear.
    ratio = Fraction(float(given)).limit_denominator(1) / rate
    if ratio.numerator > 1000 or ratio.denominator > 1000:
        ratio = ratio.limit_denominator(320)
    return ratio


@lru_cache(maxsize=16)
def resampler(given: int, rate: int) -> torchaudio.transforms.Resample:
    """torchaudio's filters for given -> rate (reduced), kept: making them costs more than using them."""
    return torchaudio.transforms.Resample(given, rate)


def decode_audio(source: Source, allow_urls: bool, most: float) -> tuple[np.ndarray, int]:
    """A sound file of at most `most` seconds -> (samples,), float32, channels averaged, and its rate in Hz.

    Decoded block by block: a small file may hold many channels of silence. Raises MediaError."""
    import soundfile

    data = read_bytes(source, allow_urls)
    check_whole(data, name_of(source))
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.frames > most * file.samplerate:
                raise MediaError(f"{name_of(source)}: {too_long(most)}")
            blocks = file.blocks(max(1, BLOCK // file.channels), dtype="float32", always_2d=True)
            parts = [block.mean(axis=1) for block in blocks]  # (samples, channels) -> (samples,)
            wave = np.concatenate([np.zeros(0, np.float32), *parts])
            if len(wave) < file.frames and file.format in ("WAV", "FLAC", "AIFF"):  # others only guess their length
                raise MediaError(f"{name_of(source)}: truncated, it holds {len(wave)} of {file.frames} samples")
            return wave, file.samplerate
    except MediaError:
        raise
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        from .video import sound_track  # a video, or AAC: not libsndfile's

        try:
            track = sound_track(data, most=most)
        except MediaError as refused:
            raise MediaError(f"{name_of(source)}: {refused}") from None
        if track is None:
            raise MediaError(f"{name_of(source)}: not a sound file that can be read ({reason(error)})") from None
        return track


def too_long(most: float) -> str:
    """What is said of a file that lasts more than `most` seconds."""
    return f"longer than the {most:g} s that are taken"


def check_whole(data: bytes, name: str) -> None:
    """Raise MediaError for a WAV file that is shorter than it says; libsndfile would read what is left of it."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        said = int.from_bytes(data[4:8], "little") + 8
        if len(data) < said < 0xFFFFFF00:  # above stands what a live stream writes: no length
            raise MediaError(f"{name}: truncated, it holds {len(data)} of {said} bytes")


def audio_token_count(frames: int) -> int:
    """Tokens that the audio encoder makes of `frames` mel frames of 10 ms (FACTS: audio encoder)."""
    return max(0, ((frames - 1) // 2 + 1 - 2) // 2 + 1)


def check_clip(wave: np.ndarray, extractor: Any) -> int:
    """Mel frames of a wave (samples,). Raises InputError if longer than the extractor's window, or tokenless."""
    count = -(-len(wave) // extractor.hop_length)
    if len(wave) > extractor.n_samples:
        window, seconds = extractor.n_samples // extractor.sampling_rate, len(wave) / extractor.sampling_rate
        raise InputError(f"a sound of {seconds:.1f} s is longer than the {window} s that this processor takes")
    if audio_token_count(count) < 1:
        raise InputError(f"a sound of {len(wave)} samples at {extractor.sampling_rate} Hz is too short for one token")
    return count


def log_mel(waves: list[np.ndarray], extractor: Any, width: int | None) -> tuple[Tensor, Tensor]:
    """Waves at 16 kHz -> log-mel frames of 10 ms, as the reference's extractor makes them.

    waves: each (samples,); extractor: a WhisperFeatureExtractor; width: frames to which all are padded (None: to the
    longest). Returns (waves, mels, frames) and the mask (waves, frames), 1 where there is sound.
    Raises InputError for a wave that is longer than the extractor's window or too short for one token."""
    hop = extractor.hop_length
    counts = [check_clip(wave, extractor) for wave in waves]
    features = torch.zeros(len(waves), extractor.feature_size, width or max(counts))
    mask = torch.zeros(len(waves), width or max(counts), dtype=torch.int32)
    for i, (wave, count) in enumerate(zip(waves, counts, strict=True)):
        # The reference pads every clip to 300 s before the transform. Two hops of silence are enough: the last window
        # reaches n_fft / 2 beyond the clip, and frames of pure silence all have the value of the floor.
        padded = min(count + 1 + -(-extractor.n_fft // hop), extractor.nb_max_frames)
        mel = extractor(
            wave, padding="max_length", max_length=padded * hop, sampling_rate=extractor.sampling_rate,
            return_tensors="pt",
        )["input_features"][0]  # (mels, padded)  # fmt: skip
        features[i] = mel.max().sub(2.0).clamp(min=-1.5)  # (log10(1e-10) + 4) / 4, or 8 decades under the loudest
        features[i, :, : min(padded, features.shape[-1])] = mel[:, : features.shape[-1]]
        mask[i, :count] = 1
    return features, mask
