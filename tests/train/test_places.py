"""The place beside the answer: right places, right value, words told apart, and the recipe that uses it."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from omni_lab.data import world
from omni_lab.thinker import Thinker
from omni_lab.train import packing, places
from omni_lab.train.nano import processor
from omni_lab.train.recipes import find

ENDS = torch.tensor([[[0, 1], [2, 1]], [[3, 4], [5, 6]]])  # of an alphabet of seven


def saying(logits):
    """A thinker whose states are its logits already."""
    return SimpleNamespace(model=SimpleNamespace(norm=nn.Identity()), lm_head=nn.Identity()), logits.requires_grad_()


def far(place):
    """Logits of ENDS that say exactly `place`, (tokens, 2)."""
    down, across = place.logit().unbind(-1)
    nought = torch.zeros_like(down)
    return torch.stack([nought, down, nought, nought, across, -across / 2, across / 2], dim=-1)


def test_places_run_row_by_row_through_every_frame():
    place = places.of_grid(torch.tensor([[1, 4, 6], [2, 2, 2]]))
    rows = [(y, x) for y in (0.25, 0.75) for x in (1 / 6, 0.5, 5 / 6)] + [(0.5, 0.5)] * 2
    assert torch.allclose(place, torch.tensor(rows))


def test_nothing_is_lost_on_what_says_its_place_and_something_on_all_else():
    place = places.of_grid(torch.tensor([[1, 8, 12]]))
    thinker, right = saying(far(place))
    assert places.place_loss(thinker, right, place, ENDS).item() == pytest.approx(0, abs=1e-6)
    for wrong in (place.flip(0), place.flip(1), 1 - place, torch.full_like(place, 0.5)):
        assert places.place_loss(thinker, saying(far(wrong))[1], place, ENDS).item() > 0.02


def test_the_gradient_pulls_towards_the_place():
    place = torch.tensor([[0.9, 0.2]])
    thinker, states = saying(torch.zeros(1, 7))
    places.place_loss(thinker, states, place, ENDS).backward()
    pull = -states.grad[0]
    assert pull[1] > 0 > pull[0] and pull[1] > 0 > pull[2]  # down: far rather than near
    assert pull[3] > 0 > pull[4] and pull[5] > 0 > pull[6]  # across: near rather than far


def test_words_of_opposite_ends_begin_with_different_tokens():
    for axis in places.words():
        for near, distant in axis:
            assert near != distant


def test_the_recipe_tells_pictures_and_films_alike():
    recipe = find("thinker_2").at("smoke")
    made = [recipe.encode(world.sample(task, "train", 0, 0)) for task in ("picture_qa", "video_order")]
    batch = packing.pack([made], sum(s["input_ids"].shape[1] for s in made), processor().tokenizer.pad_token_id or 0)
    counts = [int((batch["input_ids"] == token).sum()) for token, _ in recipe.pictures(batch)]
    assert counts == [len(places.of_grid(grid)) for _, grid in recipe.pictures(batch)]
    model = Thinker(recipe.config.thinker_config)
    loss, figures = recipe.loss(model, batch, "main")
    expected = figures["answers"] + recipe.settings.places * figures["places"]
    assert figures["places"] > 0 and torch.allclose(loss, expected + recipe.settings.loudness * figures["loudness"])
    loss.backward()
    below = [p for n, p in model.model.layers[:2].named_parameters() if n.endswith("q_proj.weight")]
    assert all(p.grad.abs().sum() > 0 for p in below)
