"""Real files to read: pictures, sounds and videos made once, and the processors of both libraries."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from omni_lab import OmniProcessor

NANO = Path(__file__).parents[2] / "data_samples" / "checkpoints" / "nano"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def processor():
    return OmniProcessor.from_pretrained(NANO)


@pytest.fixture(scope="session")
def reference():
    from transformers import Qwen2_5OmniProcessor

    return Qwen2_5OmniProcessor.from_pretrained(NANO)


@pytest.fixture(scope="session")
def tone():
    """0.8 s at 22,050 Hz, in stereo: a tone on the left, a lower one on the right. (samples, 2), float32."""
    time = np.arange(int(0.8 * 22050)) / 22050
    return np.stack([0.5 * np.sin(2 * np.pi * f * time) for f in (440, 220)], axis=1).astype(np.float32)


@pytest.fixture(scope="session")
def files(tmp_path_factory, tone):
    """Paths by name: smooth pictures in several formats and modes, the tone in four sound formats, two videos."""
    folder = tmp_path_factory.mktemp("media")
    rows, columns = np.mgrid[0:90, 0:130]
    pixels = np.stack([rows * 2, columns, 255 - rows - columns], axis=-1).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    for kind in ("png", "webp", "jpg"):
        picture.save(folder / f"picture.{kind}")
    seen_through = Image.fromarray(np.dstack([pixels, (columns * 2).clip(0, 255).astype(np.uint8)]))
    seen_through.save(folder / "alpha.png")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels[..., 0].astype(np.int32) * 256).convert("I;16").save(folder / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown after a quarter turn
    picture.save(folder / "turned.jpg", exif=turned)
    for kind in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(folder / f"tone.{kind}", tone, 22050)
    write_video(folder / "film.mp4", frames=36, fps=12, tone=tone.repeat(4, axis=0)[: 3 * 22050])
    write_video(folder / "silent.mp4", frames=30, fps=10, tone=None)
    return {path.name: path for path in folder.iterdir()}


def write_video(path, frames, fps, tone):
    """H.264 (and AAC): frame i is a grey of 5 i, with a white bar that moves one column a frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 112, 84, "yuv420p"
        audio = container.add_stream("aac", rate=22050, layout="stereo") if tone is not None else None
        for i in range(frames):
            pixels = np.full((84, 112, 3), 5 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
        if audio is not None:
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone.T), format="fltp", layout="stereo")
            sound.rate = 22050
            container.mux(audio.encode(sound))
            container.mux(audio.encode())
