"""Redrawing: repeatable, in range, and still the thing."""

import pytest
import torch

from omni_lab.data import emoji, restyle


@pytest.fixture(scope="module")
def prepared():
    return restyle.prepare(torch.from_numpy(emoji.load().pixels("noto")[:40].copy()))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_edges_are_morphological_gradients(prepared):
    x = prepared[:4, :4].float()
    for channel, k in ((4, 3), (5, 5)):
        pool = torch.nn.functional.max_pool2d
        gradient = (pool(x, k, 1, k // 2) + pool(-x, k, 1, k // 2)).amax(dim=1)
        assert torch.equal(prepared[:4, channel].float(), gradient)


def test_plain_is_the_picture_on_white(prepared):
    expected = emoji.over_background(emoji.load().pixels("noto")[:40])
    got = restyle.plain(prepared, 72).permute(0, 2, 3, 1) * 255
    assert (got - torch.from_numpy(expected).float()).abs().max() <= 2


def test_redrawn_pictures_differ_repeat_and_stay_in_range(prepared):
    flip = torch.ones(40, dtype=torch.bool)
    one, again, other = (restyle.restyle(prepared, 48, flip, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (40, 3, 48, 48) and one.min() >= 0 and one.max() <= 1 and torch.isfinite(one).all()
    assert (one.flatten(1).std(dim=1) > 0.02).all()  # something is drawn in each


def test_only_what_may_be_mirrored_is(prepared):
    """An arrow drawn at the left stays at the left, however it is bent, unless it may be mirrored."""
    picture = torch.zeros(1, 6, 72, 72, dtype=torch.uint8)
    picture[:, 3, 20:52, 4:24] = 255
    many = picture.expand(64, -1, -1, -1).float() / 255
    for allowed in (False, True):
        bent = restyle.bend(many, 48, torch.full((64,), allowed), rng())[:, 3]
        left = bent[:, :, :24].sum(dim=(1, 2)) > bent[:, :, 24:].sum(dim=(1, 2))
        assert left.all() if not allowed else 10 < left.sum() < 54


def test_hue_rotations_keep_grey():
    turn = restyle.hue_rotation(torch.tensor([0.0, 1.0, -2.5]))
    torch.testing.assert_close(turn[0], torch.eye(3))
    torch.testing.assert_close(turn @ torch.ones(3), torch.ones(3, 3))
    torch.testing.assert_close(turn @ turn.transpose(1, 2), torch.eye(3).expand(3, 3, 3))
