"""Vision encoder: agreement with the reference over odd sizes, and frame by frame = whole."""

import pytest
import torch

from omni_lab.encoders import vision
from omni_lab.encoders.vision import VisionEncoder
from omni_lab.encoders.windows import plan_windows, window_attention
from omni_lab.errors import InputError
from tests.comparison import relative
from tests.thinker_reference import CONFIGS, reference, released_names


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    theirs = reference(CONFIGS[request.param]).model.visual
    ours = VisionEncoder(CONFIGS[request.param].vision_config)
    ours.load_state_dict(released_names(theirs.state_dict()))
    return ours.eval(), theirs


def patches(config, grid):
    width = config.in_channels * config.temporal_patch_size * config.patch_size**2
    return torch.randn(int(grid.prod(1).sum()), width)


SIZES = {
    "one picture": [(1, 2, 3)],
    "full windows": [(1, 4, 4)],
    "a single token": [(1, 1, 1)],
    "several": [(1, 5, 3), (1, 1, 4), (3, 2, 2), (1, 7, 6)],
    "video": [(4, 3, 5)],
}


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_equals_the_reference(pair, name):
    ours, theirs = pair
    grid = torch.tensor(SIZES[name]) * torch.tensor([1, ours.config.spatial_merge_size, ours.config.spatial_merge_size])
    pixels = patches(ours.config, grid)
    wanted = theirs(pixels, grid_thw=grid).pooler_output
    assert relative(ours(pixels, grid), wanted) < 1e-5


@torch.no_grad()
def test_frame_by_frame_equals_the_whole(pair):
    ours, _ = pair
    merge = ours.config.spatial_merge_size
    grid = torch.tensor([[4, 3 * merge, 5 * merge]])
    pixels = patches(ours.config, grid)
    frame = torch.tensor([[1, 3 * merge, 5 * merge]])
    pieces = [ours(piece, frame) for piece in pixels.split(15 * merge**2)]
    assert relative(torch.cat(pieces), ours(pixels, grid)) < 1e-6


def test_patches_come_in_blocks():
    assert vision.patch_positions(2, 4).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]


def test_windows_at_the_edge_are_smaller():
    order, sizes = vision.window_order(3, 3, 2)
    assert order.tolist() == [0, 1, 3, 4, 2, 5, 6, 7, 8] and sizes == [4, 2, 2, 1]


@pytest.mark.parametrize("lengths", [[4, 4, 4], [5, 3, 1, 0, 17, 4], [1], [7, 6]])
def test_window_attention_equals_a_loop(lengths):
    q, k, v = torch.randn(3, sum(lengths), 2, 8)
    looped = [
        torch.nn.functional.scaled_dot_product_attention(*(x.transpose(0, 1) for x in part)).transpose(0, 1).flatten(1)
        for part in zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    ]
    assert torch.allclose(window_attention(q, k, v, plan_windows(lengths)), torch.cat(looped), atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ([[1, 3, 4]], "multiples of"),
        ([[0, 4, 4]], "multiples of"),
        ([[1, 4, 8]], "asks for"),
        ([], "empty grid_thw"),
        (torch.tensor([1, 4, 4]), r"grid_thw is of shape \(3,\), expected \(n, 3\)"),
        ([1, 4, 4], r"grid_thw is \[1, 4, 4\], expected \(n, 3\)"),
        (torch.tensor([[4, 4]]), r"of shape \(1, 2\), expected \(n, 3\)"),
        (torch.ones(1, 1, 3), r"of shape \(1, 1, 3\)"),
        (torch.tensor([[1, float("nan"), 4]]), r"expected \(n, 3\)"),
        (torch.tensor(16), r"of shape \(\), expected"),
    ],
)
def test_wrong_sizes_are_named(grid, says):
    ours = VisionEncoder(CONFIGS["odd heads, 3:1, untied"].vision_config)
    with pytest.raises(InputError, match=says):
        ours(torch.zeros(16, 96), grid)
