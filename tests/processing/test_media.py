"""Files of every kind that we promise to read, where they come from, and what is said of those that cannot be."""

import base64
import http.server
import io
import threading
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from omni_lab.errors import InputError, MediaError
from omni_lab.processing.audio import load_audio, resample
from omni_lab.processing.image import PixelConfig, load_image, resize
from omni_lab.processing.video import load_video, sample_times

VIDEO = PixelConfig()


def test_pictures_of_all_formats_agree_with_pillow(files):
    lossless = torch.from_numpy(np.array(Image.open(files["picture.png"]))).permute(2, 0, 1)
    for name, tolerance in (("picture.png", 0), ("picture.webp", 40), ("picture.jpg", 40), ("cmyk.jpg", 60)):
        got = load_image(files[name])
        assert got.shape == (3, 90, 130) and got.dtype == torch.uint8
        assert (got.int() - lossless.int()).abs().float().mean() <= tolerance / 10
    assert load_image(files["grey.png"]).shape == load_image(files["palette.png"]).shape == (3, 90, 130)


def test_a_phone_s_picture_stands_upright(files):
    assert load_image(files["turned.jpg"]).shape == (3, 130, 90)


def test_transparency_is_laid_on_white(files):
    got = load_image(files["alpha.png"])
    assert (got[:, :, 0] == 255).all()  # fully transparent at the left edge
    rgba = np.array(Image.open(files["alpha.png"]))
    assert (load_image(rgba).int() - got.int()).abs().max() <= 1  # as an array: the same up to rounding


def test_sixteen_bits_keep_their_greys(files):
    got = load_image(files["deep.png"])
    assert got.min() == 0 and 170 < got.max() < 185  # 178 * 256 of 65535, not clipped to white


@pytest.mark.parametrize("shape", [(90, 130, 3), (3, 90, 130), (90, 130), (1, 90, 130), (90, 130, 1)])
def test_arrays_and_tensors_of_every_layout(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    got = load_image(pixels)
    assert got.shape == (3, 90, 130)
    assert torch.equal(got, load_image(torch.from_numpy(pixels)))
    assert torch.equal(got, load_image(pixels.astype(np.int64)))
    assert torch.equal(got, load_image((pixels / 255.0).astype(np.float32)))


def test_sound_of_all_formats_is_one_channel_at_the_rate_asked_for(files, tone):
    expected = resample(tone.mean(axis=1), 22050, 16000)
    for name in ("tone.wav", "tone.flac", "tone.ogg", "tone.mp3"):
        wave = load_audio(files[name], 16000)
        assert wave.dtype == np.float32 and wave.ndim == 1
        length = min(len(wave), len(expected))
        assert abs(len(wave) - len(expected)) <= 2 * 1152
        lag = best_lag(wave[:length], expected[:length])
        assert lag[1] > 0.98, (name, lag)
    assert np.abs(load_audio(files["tone.flac"], 16000) - expected).max() < 1e-3


def best_lag(a, b):
    """The shift at which two waves agree best, and their correlation there."""
    product = np.fft.irfft(np.fft.rfft(a, 2 * len(a)) * np.conj(np.fft.rfft(b, 2 * len(b))))
    return int(product.argmax()), float(product.max() / np.linalg.norm(a) / np.linalg.norm(b))


def test_sound_arrays_of_every_layout(tone):
    left = tone[:, 0]
    assert np.array_equal(load_audio(left, 16000), left)
    assert np.allclose(load_audio(torch.from_numpy(tone), 16000), tone.mean(axis=1))
    assert np.allclose(load_audio(tone.T, 16000), tone.mean(axis=1))
    assert np.allclose(load_audio((left * 32767).astype(np.int16), 16000), left, atol=1e-4)
    assert len(load_audio((left, 22050), 16000)) == pytest.approx(len(left) * 16000 / 22050, abs=1)


def test_an_odd_rate_needs_no_gigabytes(tone):
    wave = load_audio((tone[:, 0], 44101), 16000)
    expected = load_audio((tone[:, 0], 44100), 16000)
    assert abs(len(wave) - len(expected)) <= 1 and np.abs(wave[:1000] - expected[:1000]).max() < 0.01


def test_resampling_is_torchaudio_s(tone):
    import torchaudio

    wave = torch.from_numpy(tone[:, 0])
    for rate in (8000, 22050, 44100, 48000, 24000):
        expected = torchaudio.functional.resample(wave, rate, 16000).numpy()
        assert np.allclose(resample(tone[:, 0], rate, 16000), expected, atol=3e-5)  # its tables are float32


def test_a_video_is_sampled_by_time_and_brings_its_sound(files):
    video = load_video(files["film.mp4"], VIDEO, 16000)
    assert video.frames.shape == (6, 3, 84, 112) and video.fps == pytest.approx(2.0)
    greys = video.frames.float().mean(dim=(1, 2, 3))
    assert torch.allclose(greys, torch.arange(0, 36, 6) * 5.0, atol=3.0)  # the frames at 0, 0.5, 1, ... s
    assert abs(len(video.audio) / 16000 - 3.0) < 0.1
    assert load_video(files["silent.mp4"], VIDEO, 16000).audio is None
    assert np.allclose(load_audio(files["film.mp4"], 16000)[:16000], video.audio[:16000], atol=1e-2)


def test_frames_are_resized_as_they_are_decoded_and_all_the_same(files):
    config = PixelConfig(max_pixels=56 * 56)
    small, whole = load_video(files["film.mp4"], config, None), load_video(files["film.mp4"], VIDEO, None)
    assert small.audio is whole.audio is None, "without a rate no sound is read"
    assert small.frames.shape[1:] == (3, 28, 56) and torch.equal(small.frames, resize(whole.frames, config))
    table = {"frames": whole.frames, "fps": 2.0}
    assert torch.equal(load_video(table, config, None).frames, small.frames)
    assert torch.equal(load_video(whole.frames, config, None).frames, small.frames)


def test_many_channels_of_silence_are_decoded_piece_by_piece(tmp_path):
    path = tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", 48000, 8, format="FLAC") as file:
        for _ in range(120):
            file.write(np.zeros((48000, 8), np.int16))
    tracemalloc.start()
    wave = load_audio(path, 48000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(wave) == 120 * 48000 and not wave.any()
    assert peak < 3.5 * wave.nbytes, "all channels at once would be 8 times the wave"
    with pytest.raises(MediaError, match="silence.flac: longer than the 60 s"):
        load_audio(path, 48000, most=60)


def test_a_film_s_sound_has_its_limit_too(files):
    with pytest.raises(MediaError, match="film.mp4: the sound is longer than the 2 s"):
        load_video(files["film.mp4"], VIDEO, 16000, most=2)
    with pytest.raises(MediaError, match="film.mp4: the sound is longer than the 2 s"):
        load_audio(files["film.mp4"], 16000, most=2)


def test_sampling_by_time_is_the_reference_s_at_a_constant_rate():
    from transformers import Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    rng, reference = np.random.default_rng(0), Qwen2VLVideoProcessor()
    for _ in range(300):
        total, rate = int(rng.integers(2, 400)), float(rng.choice([2, 5, 10, 12, 24, 25, 29.97, 30, 60]))
        fps, most = float(rng.choice([1, 2, 4])), int(rng.choice([8, 32, 768]))
        config = PixelConfig(max_frames=most)
        metadata = VideoMetadata(total_num_frames=total, fps=rate)
        expected = reference.sample_frames(metadata, fps=fps, max_frames=most).numpy()
        chosen, sampled = sample_times(np.arange(total) / rate, total / rate, fps, config)
        expected = expected[: len(chosen)]  # its arange now and then yields one index too many
        assert len(chosen) % 2 == 0 and len(chosen) == len(expected) and np.abs(chosen - expected).max() <= 1
        assert (chosen == expected).mean() > 0.8
        assert sampled == pytest.approx(len(chosen) * rate / total)


def test_a_varying_rate_is_sampled_by_its_clock():
    times = np.array([0.0, 0.1, 0.2, 0.3, 2.0, 2.1, 2.2, 3.0])
    chosen, fps = sample_times(times, 4.0, 2.0, PixelConfig())
    assert chosen.tolist() == [0, 3, 3, 3, 4, 6, 7, 7] and fps == 2.0


def test_a_still_of_one_frame_is_a_video_too():
    video = load_video({"frames": np.zeros((1, 56, 56, 3), np.uint8), "fps": 25.0}, VIDEO, 16000)
    assert len(video.frames) == 1


def test_addresses_only_where_allowed(files):
    folder = files["picture.png"].parent

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/picture.png"
        assert torch.equal(load_image(address, allow_urls=True), load_image(files["picture.png"]))
        with pytest.raises(MediaError, match="not allowed"):
            load_image(address)
        with pytest.raises(MediaError, match="cannot be fetched"):
            load_image(address + "x", allow_urls=True)
        server.shutdown()


def test_inline_content_bytes_and_open_pictures(files):
    content = files["picture.png"].read_bytes()
    expected = load_image(str(files["picture.png"]))
    inline = "data:image/png;base64," + base64.b64encode(content).decode()
    for source in (content, inline, Image.open(io.BytesIO(content)), f"file://{files['picture.png']}"):
        assert torch.equal(load_image(source), expected)


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "tone.flac", "tone.wav", "film.mp4"])
def test_truncated_and_wrong_files_are_named(files, tmp_path, name):
    loader = {"p": load_image, "t": lambda s: load_audio(s, 16000), "f": lambda s: load_video(s, VIDEO, 16000)}[name[0]]
    content = files[name].read_bytes()
    broken = tmp_path / name
    for kept in (b"", content[:20], content[: len(content) // 2][:600], b"not a medium" * 9):
        broken.write_bytes(kept)
        with pytest.raises(MediaError) as caught:
            loader(broken)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(MediaError, match="no such file"):
        loader(tmp_path / "absent")


def test_arrays_that_cannot_be_media_say_why():
    wrong = [
        (load_image, np.zeros((5, 5, 7)), "channels"),
        (load_image, np.zeros((0, 5, 3), np.uint8), "must be"),
        (load_image, np.full((5, 5, 3), np.nan), "from 0 to 1"),
        (load_image, np.full((5, 5, 3), -1), "from 0 to 1"),
        (lambda a: load_audio(a, 16000), np.zeros(0), "empty"),
        (lambda a: load_audio(a, 16000), np.full(99, np.nan), "NaN"),
        (lambda a: load_audio(a, 16000), (np.zeros(9), -5), "rate"),
        (lambda a: load_audio(a, 16000), np.zeros((99, 99)), "shape"),
        (lambda a: load_video(a, VIDEO, 16000), np.zeros((0, 8, 8, 3)), "shape"),
        (lambda a: load_video(a, VIDEO, 16000), [], "at least one frame"),
        (lambda a: load_video(a, VIDEO, 16000), {"fps": 2}, "frames"),
    ]
    for loader, given, message in wrong:
        with pytest.raises(InputError, match=message):
            loader(given)
