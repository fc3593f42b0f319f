"""Speech of the field's sets: LibriSpeech, LJSpeech and Parquet give the same sentences; what is no set says so."""

import io

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from PIL import Image

from omni_lab.data import shards, spoken_sets
from omni_lab.errors import DataError
from omni_lab.lab import codec_parts

RATE, SECONDS = 22_050, 0.5
TEXTS = ("Four cats sleep.", "A dog runs.", "The bus is red.")


def sound(form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(np.arange(int(SECONDS * RATE)) * 0.1), RATE, format=form)
    return file.getvalue()


def librispeech(folder):
    for speaker in ("84", "174"):
        chapter = folder / "test-clean" / speaker / "121"
        chapter.mkdir(parents=True)
        for i in range(len(TEXTS)):
            (chapter / f"{speaker}-121-{i:04d}.flac").write_bytes(sound("FLAC"))
        lines = (f"{speaker}-121-{i:04d} {text.upper()}\n" for i, text in enumerate(TEXTS))
        (chapter / f"{speaker}-121.trans.txt").write_text("".join(lines))
    return ["174"] * 3 + ["84"] * 3


def ljspeech(folder):
    (folder / "wavs").mkdir(parents=True)
    for i in range(len(TEXTS)):
        (folder / "wavs" / f"LJ001-{i:04d}.wav").write_bytes(sound("WAV"))
    (folder / "metadata.csv").write_text("".join(f"LJ001-{i:04d}|{t}|{t}\n" for i, t in enumerate(TEXTS)))
    return ["ljspeech"] * 3


def parquet(folder):
    folder.mkdir(parents=True)
    rows = {"audio": [{"bytes": sound("FLAC")}] * 3, "text": [t.upper() for t in TEXTS], "speaker_id": [7, 7, 9]}
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "test.parquet")
    return ["7", "7", "9"]


@pytest.mark.parametrize("make", [librispeech, ljspeech, parquet])
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_sets_of_the_field(tmp_path, make, rate):
    speakers = make(tmp_path / "set")
    found = spoken_sets.load(tmp_path / "set", rate)
    assert [clip.about["speaker"] for clip in found] == speakers
    assert [clip.about["text"] for clip in found[:3]] == list(TEXTS)
    assert all(clip.wave.dtype == np.float32 and abs(len(clip.wave) - SECONDS * rate) < 20 for clip in found)
    assert len(spoken_sets.load(tmp_path / "set", rate, limit=2)) == 2


def test_no_set(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither"):
        spoken_sets.load(tmp_path / "empty", 16_000)
    pyarrow.parquet.write_table(pyarrow.table({"audio": [sound("FLAC")], "text": [""]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="answer is empty"):
        spoken_sets.load(tmp_path, 16_000)
    picture = io.BytesIO()
    Image.new("RGB", (60, 40)).save(picture, "PNG")
    rows = {"image": [picture.getvalue()], "caption": ["A square."]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no sound"):
        spoken_sets.load(tmp_path, 16_000)


def test_a_part_of_a_hub_set(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **how: asked.update(how, name=name) or "here")
    assert str(shards.download("openslr/librispeech_asr/clean/test")) == "here"
    assert asked["name"] == "openslr/librispeech_asr" and asked["allow_patterns"] == ["clean/test*.parquet"]
    shards.download("jxie/flickr8k")
    assert asked["name"] == "jxie/flickr8k" and asked["allow_patterns"] == ["*.parquet"]
    shards.download("emotion")
    assert asked["name"] == "emotion" and asked["allow_patterns"] == ["*.parquet"]


def test_of_a_hub_set_only_the_part_that_was_asked_for_is_read(tmp_path, monkeypatch):
    """The hub's client keeps every part that was ever fetched in one folder."""
    for part, text in (("clean/test", "Not this one."), ("clean/train.100", "This one.")):
        (tmp_path / part).mkdir(parents=True)
        rows = [{"audio": {"bytes": sound("WAV"), "path": None}, "text": text}] * 2
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / part / "0000.parquet")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    found = spoken_sets.load("some/set/clean/train.100", 16_000)
    assert {s.about["text"] for s in found} == {"This one."} and len(found) == 2
    assert len(spoken_sets.load("some/set", 16_000)) == 4


def test_lab_07_learns_from_another_set(tmp_path):
    librispeech(tmp_path / "set")
    heard, unheard = codec_parts.clips(str(tmp_path / "set"), held_out=2)
    assert len(heard) == 4 and len(unheard) == 2 and len(heard[0].mel) == 2 * (len(heard[0].wave) // 480)
