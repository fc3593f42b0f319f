"""MP4 files: what is written comes back, as our reader and as the model's processor see it."""

import numpy as np
import pytest

from omni_lab.data import video_files, world
from omni_lab.data.splits import generator
from omni_lab.data.videos import av_synchrony
from omni_lab.errors import MediaError


def clip(fps: float):
    made = av_synchrony(generator("av_synchrony", "train", 0, 3), "train", fps)
    return made.messages[0]["content"][0]["video"]


def test_round_trip_keeps_pictures_and_the_bell_in_time(tmp_path):
    video = clip(8.0)
    video_files.write(tmp_path / "clip.mp4", video["frames"], video["fps"], video["audio"])
    back = video_files.read(tmp_path / "clip.mp4")
    assert back["frames"].shape == video["frames"].shape and back["fps"] == 8.0
    difference = np.abs(back["frames"].astype(int) - video["frames"].astype(int)).mean()
    assert difference < 4  # grey levels: H.264 at quality 20 with halved colour resolution
    onset = [int(np.argmax(np.abs(v["audio"]) > 0.2 * np.abs(v["audio"]).max())) for v in (video, back)]
    assert abs(onset[0] - onset[1]) < 16_000 * 0.05


def test_two_pictures_a_second_are_every_fourth_of_eight():
    assert np.array_equal(clip(2.0)["frames"], clip(8.0)["frames"][::4])


def test_broken_files_give_one_line(tmp_path):
    video = clip(2.0)
    path = tmp_path / "clip.mp4"
    video_files.write(path, video["frames"], 2.0, None)
    path.write_bytes(path.read_bytes()[:600])
    for broken in (path, tmp_path / "none.mp4"):
        with pytest.raises(MediaError, match=broken.name) as caught:
            video_files.read(broken)
        assert "\n" not in str(caught.value)


def test_a_silent_video_has_no_sound(tmp_path):
    sample = world.sample("video_order", "train", 0, 0)
    video = sample.messages[0]["content"][0]["video"]
    video_files.write(tmp_path / "clip.mp4", video["frames"], 2.0, None)
    assert video_files.read(tmp_path / "clip.mp4")["audio"] is None
