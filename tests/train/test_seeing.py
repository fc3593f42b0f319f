"""The seeing recipe: each token's labels against the picture's own boxes and letters, and a run that only sees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_lab.data import rendered, scenes
from omni_lab.train import naming
from omni_lab.train.loop import train
from omni_lab.train.nano import processor
from omni_lab.train.recipes import find


def word(text: str) -> int:
    return processor().tokenizer(f" {text}")["input_ids"][0]


def scene(*things: scenes.Thing) -> scenes.Scene:
    return scenes.Scene(112, "noto", (255, 255, 255), things)


def test_every_name_is_one_token() -> None:
    everything = naming.concept_ids() + naming.colour_ids()
    assert len(set(everything)) == len(everything)
    for concept in naming.CONCEPTS:
        assert len(processor().tokenizer(f" {concept.word}")["input_ids"]) == 1


def test_words_are_tokenised_once_and_what_comes_back_is_nobodys_to_change(monkeypatch) -> None:
    naming.first_id.cache_clear()
    asked = (naming.concept_ids, naming.colour_ids, naming.sign_ids, naming.empty_id)
    first = [ids() for ids in asked]
    assert first[0] == tuple(word(concept.word) for concept in naming.CONCEPTS) and first[3] == word("no")
    monkeypatch.setattr(naming, "processor", lambda: pytest.fail("tokenised again"))
    assert [ids() for ids in asked] == first and all(isinstance(ids, tuple) for ids in first[:3])


def test_a_token_names_what_lies_under_it() -> None:
    dog = scenes.Thing("dog", scenes.index_of("dog"), (0, 0, 56, 56), "red")
    cat = scenes.Thing("cat", scenes.index_of("cat"), (90, 90, 106, 106), None)  # smaller than a token, in its middle
    labels = naming.named_at(scene(dog, cat))
    words = labels["words"].reshape(4, 4, naming.SLICES)
    assert (words[..., 3:] == naming.NOTHING).all()
    assert (words[..., 2] == word("one")).nonzero().tolist() == [[1, 1], [3, 3]]
    assert (words[:2, :2, :2] == torch.tensor([word("dog"), word("red")])).all()
    assert words[3, 3, :2].tolist() == [word("cat"), naming.NOTHING]
    assert labels["things"].sum() == 5
    assert (words == naming.NOTHING).all(-1).sum() == 11
    # From the middle (14, 14) of the first token the dog ends 42 pixels away: three quarters of half a picture.
    assert labels["edges"][0].tolist() == [-0.25, -0.25, 0.75, 0.75]
    assert (labels["letters"] == naming.NOTHING).all()


@pytest.mark.parametrize("seed", range(20))
def test_letters_stand_where_the_ink_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    page, glyphs = rendered.write(["Wig", "X = 7"], rendered.SHEET, rng, "test")
    assert "".join(letter for letter, _, _ in glyphs) == "WigX=7"
    pixels = np.asarray(page, np.float32).mean(-1)
    inked = np.abs(pixels - pixels[0, -1]) > 40
    for letter, x, _ in glyphs:
        assert inked[:, round(x) - 2 : round(x) + 3].any(), letter
    read = naming.read_at(glyphs, page.size)["letters"]
    found = sorted(naming.SIGNS[i - 1] for i in read[read > 0].tolist())
    assert found == sorted("wigx=7") and read.shape == (60, naming.SLICES)
    words = naming.read_at(glyphs, page.size)["words"]
    assert ((words == naming.NOTHING) == (read == 0)).all()
    assert sorted(processor().tokenizer.decode([i]) for i in words[read > 0].tolist()) == found


def test_it_learns_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    for name in ("language", "hearing"):
        settings = find(name).at("smoke", parts=tmp_path / "parts")
        settings.settings = replace(settings.settings, steps=1, shards=0 if name == "language" else 1)
        train(settings, tmp_path / name, device="cpu", progress=False)
    losses = []
    for steps, rate in ((1, 0.0), (20, 2e-3)):
        recipe = find("seeing").at("smoke", parts=tmp_path / "parts")
        recipe.settings = replace(recipe.settings, steps=steps, learning_rate=rate, ema=0.0, batch_size=6)
        before = {name: p.clone() for name, p in recipe.build()["thinker"].named_parameters()}
        model = train(recipe, tmp_path / f"seeing{steps}", device="cpu", progress=False).model
        with torch.no_grad():
            losses.append(recipe.loss(model, recipe.batch(99), "main")[0].item())
        for name, p in model["thinker"].named_parameters():
            assert name.startswith("visual.") or torch.equal(p, before[name]), name
    assert losses[1] < 0.8 * losses[0]


def test_pages_and_scenes_alone_have_finite_losses() -> None:
    for writing in (0.0, 1.0):
        recipe = find("seeing").at("smoke")
        recipe.settings = replace(recipe.settings, writing=writing)
        batch = recipe.batch(3)
        assert bool(batch["things"].any()) == (writing == 0.0)
        assert bool((batch["letters"] > 0).any()) == (writing == 1.0)
        empty = naming.naming_loss(torch.randn(5, 2048), torch.full((5, 2), naming.NOTHING))
        assert empty.item() == 0.0


def test_the_thinker_goes_on_naming_while_it_learns() -> None:
    recipe = find("thinker_2").at("smoke")
    recipe.settings, recipe.reads = replace(recipe.settings, naming=1.0, named=2), ()
    model, batch = recipe.build(), recipe.batch(0)
    assert batch["named"]["image_grid_thw"].shape == (2, 3)
    assert all(torch.equal(batch["named"][k], v) for k, v in recipe.batch(0)["named"].items()), "of the index alone"
    batch = {k: v for k, v in batch.items() if k not in ("samples", "skipped", "weight")}
    loss, figures = recipe.loss(model, batch, "main")
    without = recipe.loss(model, {k: v for k, v in batch.items() if k != "named"}, "main")[0]
    assert loss.item() == pytest.approx(without.item() + figures["naming"].item(), rel=1e-5)
    naming.loss(model, batch["named"]).backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"visual"}, "the words stay where they are: pictures come to them"
