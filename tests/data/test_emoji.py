"""The emoji set as shipped, and what happens when its files are not what they should be."""

import gzip
import json
import shutil
import time

import numpy as np
import pytest

from omni_lab.data import emoji, emoji_build
from omni_lab.errors import DataError


@pytest.fixture(scope="module")
def shipped():
    return emoji.load()


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(emoji.default_root(), tmp_path / "emoji")


def test_shipped_set_is_large_enough_and_captioned(shipped):
    assert len(shipped) >= 600 and len(set(shipped.names)) == len(shipped)
    assert set(shipped.styles) >= {"noto", "twemoji", "fluent", "openmoji"}
    assert "openmoji" not in shipped.training_styles + shipped.extra_styles
    assert len(shipped.languages) >= 4
    for language in shipped.languages:
        assert all(shipped.labels[language]) and len(shipped.keywords[language]) == len(shipped)


def test_folder_is_small_and_loads_in_a_second():
    root = emoji.default_root()
    assert sum(p.stat().st_size for p in root.iterdir()) < 6e6
    start = time.process_time()
    emoji.load().pixels("noto")
    assert time.process_time() - start < 1


def test_pictures_fill_their_cells(shipped):
    for style in shipped.sheets:
        pixels, present = shipped.pixels(style), shipped.present(style)
        assert pixels.shape == (len(shipped), 72, 72, 4) and pixels.dtype == np.uint8
        drawn = (pixels[..., 3] > 8).any(axis=(1, 2))
        assert np.array_equal(drawn, present)
        assert present.all() or style in shipped.extra_styles


def test_one_concept_looks_alike_across_styles(shipped):
    """The sheets agree on which cell is which: the strawberry is red and the frog is green, whoever draws them."""
    for style in shipped.styles:
        for name, channel in (("strawberry", 0), ("frog", 1), ("blue heart", 2)):
            picture = shipped.picture(style, shipped.index(name)).reshape(-1, 4)
            mean = np.average(picture[:, :3], axis=0, weights=picture[:, 3])
            assert mean.argmax() == channel, (style, name)


@pytest.mark.parametrize("file", ["index.json.gz", "noto.avif"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "other bytes"])
def test_a_missing_or_damaged_file_is_named_in_one_line(copy, file, damage):
    path = copy / file
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"\x00" * len(data))
    with pytest.raises(DataError) as caught:
        emoji.load(copy)
    assert file in str(caught.value) and "\n" not in str(caught.value) and "omni-lab data build" in str(caught.value)


def test_index_of_another_shape_is_refused(copy):
    (copy / emoji.INDEX).write_bytes(gzip.compress(json.dumps({"concepts": 3}).encode()))
    with pytest.raises(DataError, match="no index of emoji"):
        emoji.load(copy)


def test_unknown_names_and_missing_concepts(shipped):
    with pytest.raises(DataError, match="choose one of noto"):
        shipped.pixels("comic")
    with pytest.raises(DataError, match="no emoji is named"):
        shipped.index("unicorn riding a bike")
    gap = int(np.flatnonzero(~shipped.present("fxemoji"))[0])
    for index in (gap, -1, len(shipped)):
        with pytest.raises(DataError, match="has no emoji number"):
            shipped.picture("fxemoji", index)


def test_over_background_mixes_by_alpha():
    pixels = np.array([[[[100, 200, 50, 255], [0, 0, 0, 0], [0, 0, 0, 51]]]], dtype=np.uint8)
    assert emoji.over_background(pixels, (250, 250, 250)).tolist() == [[[[100, 200, 50], [250] * 3, [200] * 3]]]


def test_sheets_survive_packing(tmp_path, shipped):
    """A sheet written by the builder comes back nearly as it was (AVIF is lossy)."""
    pictures = [shipped.picture("noto", i) for i in range(31)]  # more than one row
    (tmp_path / "x.avif").write_bytes(emoji_build.sheet_bytes(pictures))
    sheet = emoji.Style("x", "x", "MIT", "train", emoji_build.COLUMNS, tuple(range(31)), tmp_path / "x.avif", "")
    back = emoji.over_background(emoji._decode(sheet, 31)).astype(float)
    assert np.abs(back - emoji.over_background(np.stack(pictures))).mean() < 4


def test_what_is_transparent_beside_a_drawing_takes_its_colour():
    """Only two pixels far, only in colour: otherwise dark dots would show where the codec moves the edge of alpha."""
    picture = np.zeros((72, 72, 4), dtype=np.uint8)
    picture[20:30, 20:30] = (200, 100, 50, 255)
    spread = emoji_build.bleed(picture)
    assert np.array_equal(spread[..., 3], picture[..., 3])
    assert (spread[18:32, 18:32, :3] == (200, 100, 50)).all() and spread[..., :3].any(axis=2).sum() == 14 * 14


def test_the_codec_leaves_no_haze(shipped):
    """Clear pixels are exactly clear and without colour; inside a drawing most are exactly opaque."""
    pixels = shipped.pixels("noto")
    clear = pixels[..., 3] == 0
    assert 0.2 < clear.mean() < 0.6 and not pixels[clear].any()
    assert (pixels[..., 3] == 255).mean() > 0.3


def test_data_md_keeps_other_sections(tmp_path):
    path = tmp_path / "DATA.md"
    path.write_text("# Data\n\n## sounds\n\nbells\n")
    styles = [{"name": s.name, "present": None} for s in emoji_build.SOURCES]
    emoji_build.write_section(path, 700, styles)
    emoji_build.write_section(path, 844, styles)
    text = path.read_text()
    assert "bells" in text and "844 concepts" in text and "700" not in text


def test_build_without_npm_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="the build needs npm"):
        emoji_build.fetch("openmoji@17.0.0", tmp_path / "cache")


def test_they_lie_in_the_chosen_data_folder(copy, monkeypatch):
    monkeypatch.setenv("OMNI_LAB_DATA", str(copy.parent))
    (copy / "noto.avif").unlink()
    assert emoji.default_root() == copy
    with pytest.raises(DataError, match="noto.avif"):
        emoji.load()
    monkeypatch.setenv("OMNI_LAB_DATA", str(copy / "nowhere"))
    with pytest.raises(DataError, match="OMNI_LAB_DATA"):
        emoji.load()
