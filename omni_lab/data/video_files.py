"""Real video files: MP4 with H.264 pictures and AAC sound, written and read through PyAV."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MediaError
from .bank import package
from .sample import HEARING_RATE
from .speech import resample

AAC_RATE = 48_000  # Hz


def write(path: str | Path, frames: np.ndarray, fps: float, sound: np.ndarray | None = None, quality: int = 20) -> None:
    """Write an MP4 atomically: frames uint8 (T, H, W, 3) with even sides, sound float32 (samples,) at 16 kHz or None.

    quality: H.264's constant rate factor (0 lossless, 51 worst)."""
    av, path = package("av"), Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    with av.open(str(temporary), "w") as container:
        pictures = container.add_stream("libx264", rate=round(fps), options={"crf": str(quality)})
        pictures.height, pictures.width, pictures.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        track = None if sound is None else container.add_stream("aac", rate=AAC_RATE, layout="mono", bit_rate=64_000)
        for frame in frames:
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(pictures.encode(None))
        if track is not None and sound is not None:
            wave = resample(sound, HEARING_RATE, AAC_RATE)
            for begin in range(0, len(wave), 1024):
                block = av.AudioFrame.from_ndarray(wave[None, begin : begin + 1024], format="fltp", layout="mono")
                block.sample_rate, block.pts = AAC_RATE, begin
                container.mux(track.encode(block))
            container.mux(track.encode(None))
    os.replace(temporary, path)


def read(path: str | Path) -> dict[str, Any]:
    """A video file as a message part holds it: {"frames" uint8 (T, H, W, 3), "fps", "audio" float32 at 16 kHz or None,
    "sample_rate"}. Raises MediaError when the file is missing or damaged, or has no pictures."""
    av = package("av")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError(f"{path}: no pictures in it")
            fps = float(container.streams.video[0].average_rate or 25)
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        with av.open(str(path)) as container:
            sound = decode_sound(container) if container.streams.audio else None
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{path}: missing, or not a video file that can be read (MP4 with H.264)") from error
    if not frames:
        raise MediaError(f"{path}: no pictures in it")
    return {"frames": np.stack(frames), "fps": fps, "audio": sound, "sample_rate": HEARING_RATE}


def decode_sound(container: Any) -> np.ndarray:
    """The sound track of PyAV's open `container` as one channel, float32 (samples,) at 16 kHz."""
    resampler = package("av").AudioResampler(format="flt", layout="mono", rate=HEARING_RATE)
    blocks = [b.to_ndarray() for frame in container.decode(audio=0) for b in resampler.resample(frame)]
    blocks += [b.to_ndarray() for b in resampler.resample(None)]
    return np.concatenate(blocks, axis=1)[0].astype(np.float32)
