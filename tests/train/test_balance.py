"""Words as loud as thoughts: the same logits, another share of the sum that the talker is given."""

import math
from dataclasses import replace

import pytest
import torch

from omni_lab.config import preset
from omni_lab.thinker import Thinker
from omni_lab.train.balance import balance, beyond
from omni_lab.train.recipes import find


def thinker(tied: bool) -> Thinker:
    torch.manual_seed(0)
    config = replace(preset("nano").thinker_config, tie_word_embeddings=tied)
    return Thinker(config).double().eval()


def media(model: Thinker) -> dict[str, torch.Tensor]:
    """A row with a picture of 2 x 2 tokens and a second of sound, both between words."""
    config, pixels = model.config, torch.randn(16, 1176, dtype=torch.float64)
    ids = torch.randint(3, 200, (1, 50))
    ids[0, 4:8], ids[0, 12:37] = config.image_token_index, config.audio_token_index
    return {
        "input_ids": ids,
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "input_features": torch.randn(1, 128, 100, dtype=torch.float64),
        "feature_attention_mask": torch.ones(1, 100, dtype=torch.long),
    }


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_the_logits_stay_and_the_words_become_as_loud_as_the_thoughts(tied: bool) -> None:
    model = thinker(tied)
    given = media(model)
    before = model(**given)
    factor = balance(model)
    after = model(**given)
    # RMSNorm's epsilon of 1e-6 is all that sees the scale.
    assert (after.logits - before.logits).abs().max() < 2e-3 * before.logits.abs().max()
    assert torch.allclose(after.inputs_embeds, before.inputs_embeds * factor, rtol=1e-3, atol=1e-6)
    assert (after.last_hidden_state * factor - before.last_hidden_state).abs().max() < 5e-3
    words, thoughts = (x.square().mean().sqrt().item() for x in (after.inputs_embeds[:, :4], after.last_hidden_state))
    assert factor > 2 and 0.8 < words / thoughts < 1.25
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert balance(model) == pytest.approx(1.0)


def test_pictures_that_shout_are_told_to_be_quiet_and_others_are_left_alone() -> None:
    words = torch.randn(50, 256) * 0.06
    assert beyond(words * 3, words).mean() == pytest.approx(math.log(3), abs=0.05)
    recipe = find("thinker_2").at("smoke")
    torch.manual_seed(0)
    model = Thinker(recipe.config.thinker_config)
    recipe.settings = replace(recipe.settings, loudness=1.0, ctc=0.0, places=0.0, naming=0.0, looking=0.0)
    batch = recipe.batch(3)
    batch = {name: value for name, value in batch.items() if name not in ("samples", "skipped", "weight")}
    last = model.visual.merger.mlp[-1]
    for factor, punished in ((0.1, False), (1000.0, True)):
        with torch.no_grad():
            for p in last.parameters():
                p.mul_(factor)
        loss, figures = recipe.loss(model, batch, "main")
        assert figures["loudness"] > 1 if punished else figures["loudness"] < 0.01
        assert torch.equal(loss, figures["answers"] + figures["loudness"])
    model.zero_grad()
    figures["loudness"].backward()
    assert (last.weight.grad * last.weight).sum() > 0  # a step against the gradient makes it quieter
