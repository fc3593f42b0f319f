"""The CLIP recipe: what is in a batch, that it repeats, and that it trains."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from omni_lab import clip
from omni_lab.errors import ConfigError, DataError
from omni_lab.train.loop import train
from omni_lab.train.recipes.clip import ClipRecipe, caption, choose_concepts

TINY = replace(ClipRecipe.scales["smoke"], batch_size=16, steps=6, styles=("noto",), tests=())


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def recipe():
    made = ClipRecipe(replace(TINY, styles=("noto", "fxemoji", "openmoji"), tests=("openmoji",)))
    assert made.styles == ("noto", "fxemoji")  # what is tested on is never trained on, whoever asks for it
    return made


def test_batches_are_functions_of_their_index(recipe):
    first, again, other = recipe.batch(3), recipe.batch(3), recipe.batch(4)
    assert torch.equal(first["pictures"], again["pictures"]) and torch.equal(first["tokens"], again["tokens"])
    assert not torch.equal(first["pictures"], other["pictures"])
    assert first["pictures"].shape == (32, 3, 32, 32) and len(first["tokens"]) == 16


def test_no_scale_trains_on_the_test_style():
    for settings in ClipRecipe.scales.values():
        assert "openmoji" not in ClipRecipe(settings).styles


def test_batches_hold_neighbours_once_each():
    chosen = choose_concepts(np.random.default_rng(0), 844, 64)
    assert len(set(chosen)) == 64 and chosen.min() >= 0 and chosen.max() < 844
    assert (np.diff(chosen[:32]) == 1).sum() >= 26


def test_pictures_that_say_left_or_right_are_not_mirrored(recipe):
    named = dict(zip(recipe.emoji.names, recipe.flips.tolist(), strict=True))
    assert not named["left speech bubble"] and named["strawberry"]


def test_captions_name_the_thing_or_what_people_call_it(recipe):
    names = recipe.emoji
    rng = np.random.default_rng(0)
    concept = names.index("strawberry")
    told = [caption(names, concept, rng) for _ in range(50)]
    assert sum("strawberry" in c for c in told) >= 45 and len(set(told)) > 5


def test_it_learns_and_leaves_a_checkpoint(tmp_path):
    settings = replace(TINY, steps=30, batch_size=24, restyled=False, learning_rate=3e-3)
    recipe = ClipRecipe(settings, 0, tmp_path / "parts")
    trained = train(recipe, tmp_path / "run", device="cpu", progress=False)
    rows = [line.split(",") for line in (tmp_path / "run" / "log.csv").read_text().splitlines()]
    losses = [float(value) for _, _, name, value in rows if name == "caption loss"]
    assert losses[-1] < losses[0] - 0.1
    model = clip.CLIP.load(tmp_path / "parts" / "clip")
    x = recipe.batch(0)["pictures"]
    with torch.no_grad():  # weights were rounded to 16 bits
        alike = clip.similarity(model.encode_image(x), trained.model.encode_image(x)).diagonal()
    assert alike.min() > 0.999


def test_going_on_from_a_checkpoint_of_another_size(tmp_path):
    model = ClipRecipe(TINY).build()
    model.save(tmp_path)
    assert ClipRecipe(replace(TINY, start=str(tmp_path))).build().config == model.config
    with pytest.raises(ConfigError, match="preset"):
        ClipRecipe(replace(TINY, start=str(tmp_path), preset="nano")).build()


def coco_folder(root, count=6):
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 90, "height": 60} for i in range(count)]
    for entry in images:
        Image.new("RGB", (90, 60), (40 * entry["id"], 90, 120)).save(root / "val" / entry["file_name"])
    told = [{"id": i, "image_id": i % count, "caption": f"a plain picture {i}"} for i in range(2 * count)]
    (root / "annotations" / "captions_val.json").write_text(json.dumps({"images": images, "annotations": told}))
    return root


def parquet_folder(root, count=6):
    import io

    import pyarrow
    import pyarrow.parquet

    rows = []
    for i in range(count):
        data = io.BytesIO()
        Image.new("RGB", (80, 64), (30 * i, 200, 9)).save(data, "PNG")
        rows.append(
            {"image": {"bytes": data.getvalue(), "path": None}, "caption_0": f"one {i}", "caption_1": f"two {i}"}
        )
    root.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "test-00000.parquet")
    return root


@pytest.mark.parametrize("make", [coco_folder, parquet_folder])
def test_trains_on_the_fields_own_pictures(tmp_path, make):
    folder = make(tmp_path / "set")
    recipe = ClipRecipe(replace(TINY, captioned=str(folder), batch_size=4, steps=2))
    assert len(recipe.pairs[1]) == 6 and all(len(told) == 2 for told in recipe.pairs[1])
    result = train(recipe, tmp_path / "run", device="cpu", progress=False)
    assert result.finished


def test_captioned_pictures_that_are_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither"):
        _ = ClipRecipe(replace(TINY, captioned=str(tmp_path / "empty"))).pairs
    folder = coco_folder(tmp_path / "set")
    (folder / "val" / "2.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="2.jpg"):
        _ = ClipRecipe(replace(TINY, captioned=str(folder))).pairs
