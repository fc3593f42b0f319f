"""Video files and arrays -> frames sampled by time, with the sound that belongs to them. Decoding is PyAV's."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, MediaError
from .audio import MAX_SECONDS, audio_array, resample, too_long
from .image import PixelConfig, eight_bits, load_image, numbers, resize
from .media import Source, name_of, read_bytes, reason

FPS = 2.0  # frames a second that the reference samples by default


@dataclass(frozen=True)
class Video:
    """Sampled frames of the size that the encoder takes and, where there is one, the whole sound track."""

    frames: Tensor  # (frames, 3, height, width), uint8; sides as `image.smart_resize` says
    fps: float  # frames a second after sampling: what positions are counted by
    audio: np.ndarray | None = None  # (samples,), float32, from the first frame on, at the rate that was asked for


def load_video(
    source: Source,
    config: PixelConfig,
    rate: int | None,
    fps: float | None = None,
    allow_urls: bool = False,
    most: float = MAX_SECONDS,
) -> Video:
    """A video, its frames sampled by time, and resized.

    source: path, address or bytes of a file that PyAV reads; {"frames": ..., "fps": frames a second, "audio": samples
    or None, "sample_rate": Hz}; or bare frames: (frames, height, width, 3), (frames, 3, height, width) or a list of
    pictures, taken as already sampled at `fps`. rate: Hz of the sound that comes back (None: none
    does); fps: frames a second (default 2); most: seconds that a file's sound may last. Raises MediaError (file) or
    InputError (array)."""
    target = FPS if fps is None else fps
    if not (isinstance(target, (int, float)) and 0 < target <= 1000):
        raise InputError(f"fps must lie between 0 and 1000, got {target!r}")
    if isinstance(source, Mapping):
        return from_table(source, config, rate, target)
    if isinstance(source, (np.ndarray, Tensor, list, tuple)):
        return Video(resize(frame_array(source), config), target)
    return decode(source, config, rate, target, allow_urls, most)


def from_table(table: Mapping[str, Any], config: PixelConfig, rate: int | None, target: float) -> Video:
    """A video given as {"frames", "fps", "audio", "sample_rate"}. Raises InputError."""
    if table.get("frames") is None:
        raise InputError(f"a video given as a table needs 'frames'; it has {sorted(map(str, table)) or 'nothing'}")
    frames, given = frame_array(table["frames"]), table.get("fps", target)
    if isinstance(given, bool) or not isinstance(given, (int, float, np.number)) or not 0 < given <= 10000:
        raise InputError(f"a video's fps must be a positive number, got {given!r}")
    times = np.arange(len(frames)) / float(given)
    chosen, sampled = sample_times(times, len(frames) / float(given), target, config)
    sound = table.get("audio")
    if sound is not None:
        sound = None if rate is None else resample(audio_array(sound), table.get("sample_rate") or rate, rate)
    return Video(resize(frames[torch.from_numpy(chosen)], config), sampled, sound)


def frame_array(source: Any) -> Tensor:
    """Frames of any kind as (frames, 3, height, width), uint8. Raises InputError."""
    if isinstance(source, (list, tuple)):
        pictures = [load_image(frame) for frame in source]
        if not pictures or any(picture.shape != pictures[0].shape for picture in pictures):
            raise InputError("a video needs at least one frame, and frames of one size")
        return torch.stack(pictures)
    frames = numbers(source, "a video")
    if frames.ndim != 4 or frames.numel() == 0 or 3 not in (frames.shape[1], frames.shape[3]):
        raise InputError(f"a video must be (frames, height, width, 3), got shape {tuple(frames.shape)}")
    frames = frames.permute(0, 3, 1, 2) if frames.shape[3] == 3 else frames  # -> (frames, 3, height, width)
    return eight_bits(frames).contiguous()


def sample_times(times: np.ndarray, duration: float, fps: float, config: PixelConfig) -> tuple[np.ndarray, float]:
    """Choose frames by time: indices (chosen,) and the rate that results, in frames a second.

    times: (frames,), ascending, seconds from the first frame; duration: seconds. A long video is sampled more sparsely,
    so that max_frames suffice, a short one more densely, for min_frames; their number fills temporal patches. With a
    constant frame rate these are the reference's indices (Qwen2VLVideoProcessor.sample_frames)."""
    patch, total = config.temporal_patch_size, len(times)
    limit = min(config.max_frames, total) // patch * patch
    count = min(max(duration * fps, config.min_frames), limit)
    count = max(math.floor(count / patch) * patch, 1)
    # a hair is added because i * duration / count may fall just short of the frame that begins at that very time
    wanted = np.arange(count) * (duration / count) + 1e-6
    chosen = np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, total - 1)
    return chosen, count / duration


def decode(source: Source, config: PixelConfig, rate: int | None, fps: float, allow_urls: bool, most: float) -> Video:
    """Decode a video file: only the frames that are sampled become pixels, each at once of the encoder's size.

    Raises MediaError."""
    import av

    data = read_bytes(source, allow_urls)
    try:
        start, times = frame_times(data)
        step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0 / fps
        chosen, sampled = sample_times(times, float(times[-1]) + step, fps, config)
        frames = decode_frames(data, times[chosen] + start, config)
        track = None if rate is None else sound_track(data, start, most)
    except InputError as error:
        raise MediaError(f"{name_of(source)}: {error}") from None
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError, OverflowError, TypeError) as error:
        raise MediaError(f"{name_of(source)}: not a video that can be read ({reason(error)})") from None
    sound = resample(audio_array(track[0]), track[1], rate) if track is not None and rate is not None else None
    return Video(frames, sampled, sound)


def frame_times(data: bytes) -> tuple[float, np.ndarray]:
    """Presentation times of all frames without decoding any: the first, and (frames,) seconds after it.

    Raises MediaError when there is no video stream, or no frame in it."""
    import av

    with av.open(io.BytesIO(data), "r") as container:
        if not container.streams.video:
            raise MediaError("the file has no video stream")
        stream = container.streams.video[0]
        shown = [float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None and not p.is_discard]
    if not shown:
        raise MediaError("the video has no frames")
    times = np.sort(np.asarray(shown))
    if times[-1] - times[0] > MAX_SECONDS:
        raise MediaError(f"the video is longer than {MAX_SECONDS // 3600} hours")
    return float(times[0]), times - times[0]


def decode_frames(data: bytes, wanted: np.ndarray, config: PixelConfig) -> Tensor:
    """Decode in order and keep, for each wanted time (ascending, seconds), the last frame that is shown by then.

    Returns (wanted, 3, height, width), uint8, upright (phones store a rotation), resized: minutes of a phone's film
    in its own size would fill the memory. Raises InputError."""
    import av

    kept: list[Tensor] = []
    last = None
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            time = frame.time
            while len(kept) < len(wanted) and last is not None and time > wanted[len(kept)] + 1e-6:
                kept.append(resize(upright(last), config))
            last = frame
            if len(kept) == len(wanted):
                break
    if last is None:
        raise MediaError("no frame of the video could be decoded")
    while len(kept) < len(wanted):
        kept.append(resize(upright(last), config))
    return torch.cat(kept)


def upright(frame: Any) -> Tensor:
    """A decoded frame as (1, 3, height, width), uint8, turned as its display matrix says."""
    pixels = frame.to_ndarray(format="rgb24")
    pixels = np.rot90(pixels, k=round(frame.rotation / 90) % 4) if frame.rotation else pixels
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]  # (height, width, 3) -> channels first


def sound_track(data: bytes, start: float | None = None, most: float = MAX_SECONDS) -> tuple[np.ndarray, int] | None:
    """The first sound track: (samples,), float32, channels averaged, and its rate in Hz; None if none can be read.

    start: seconds at which the video begins; the sound is cut or preceded by silence to begin there too. Raises
    MediaError for one of more than `most` seconds."""
    import av

    try:
        with av.open(io.BytesIO(data), "r") as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            convert = av.AudioResampler(format="fltp", layout=None, rate=None)
            parts, begins, rate, total = [], None, int(stream.rate), 0
            for frame in container.decode(stream):
                begins = frame.time if begins is None else begins
                parts += [part.to_ndarray().mean(axis=0) for part in convert.resample(frame)]  # (channels, n) -> (n,)
                total += len(parts[-1]) if parts else 0
                if total > most * rate:
                    raise MediaError(f"the sound is {too_long(most)}")
    except MediaError:
        raise
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError):
        return None
    if not parts:
        return None
    wave = np.concatenate(parts).astype(np.float32)
    late = round(((begins or 0.0) - start) * rate) if start is not None else 0
    wave = np.concatenate([np.zeros(late, np.float32), wave]) if late > 0 else wave[-late:]
    return (wave, rate) if wave.size else None
