"""The thinker against the reference: every modality and mixture, padding on both sides, greedy text."""

import pytest
import torch

from omni_lab.thinker import Thinker
from tests.test_tmrope import lay_out, padded
from tests.thinker_reference import CONFIGS, reference, relative, released_names

torch.set_num_threads(1)
LAYOUTS = {
    "text": [[("text", 9)]],
    "sound": [[("text", 3), ("sound", 37), ("text", 2), ("sound", 16), ("text", 4)]],
    "picture": [[("text", 3), ("picture", (1, 5, 3)), ("text", 2), ("picture", (1, 1, 4)), ("text", 1)]],
    "video": [[("clip", (3, 2, 3, 0.5)), ("text", 5)]],
    "mixture, padded": [
        [("text", 4), ("picture", (1, 2, 3)), ("sound", 50), ("text", 2), ("clip", (2, 2, 2, 1.0)), ("text", 3)],
        [("text", 7)],
        [("sound", 8), ("text", 1), ("picture", (1, 4, 1)), ("text", 1)],
    ],
    "video with sound, padded": [
        [("text", 2), ("talking clip", (5, 2, 1, 1.0), 420), ("text", 3)],
        [("talking clip", (2, 1, 3, 0.5), 33), ("picture", (1, 2, 2)), ("text", 3)],
    ],
}


def make_inputs(config, rows, left=True, seed=0):
    """Tensors of a batch laid out like `rows`, as a processor gives them, with random contents."""
    generator = torch.Generator().manual_seed(seed)
    tokens, images, videos, seconds, frames = lay_out(rows, config.vision_config.spatial_merge_size)
    ids, mask = padded(tokens, left)
    text = (ids < 90) & (mask == 1)
    ids[text] = torch.randint(0, 90, (int(text.sum()),), generator=generator)
    inputs = dict(input_ids=ids, attention_mask=mask)
    vision, sound = config.vision_config, config.audio_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    for grids, pixels, grid in (
        (images, "pixel_values", "image_grid_thw"),
        (videos, "pixel_values_videos", "video_grid_thw"),
    ):
        if grids:
            inputs[grid] = torch.tensor(grids)
            inputs[pixels] = torch.randn(int(inputs[grid].prod(1).sum()), width, generator=generator)
    if videos:
        inputs["video_second_per_grid"] = torch.tensor(seconds)
    if frames:
        inputs["input_features"] = torch.randn(len(frames), sound.num_mel_bins, max(frames), generator=generator)
        inputs["feature_attention_mask"] = (torch.arange(max(frames)) < torch.tensor(frames)[:, None]).long()
    inputs["use_audio_in_video"] = any(kind[0] == "talking clip" for row in rows for kind in row)
    return inputs


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    theirs = reference(CONFIGS[request.param])
    ours = Thinker(CONFIGS[request.param]).eval()
    ours.load_state_dict(released_names(theirs.state_dict()))
    return ours, theirs


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_logits_loss_and_states(pair, layout, left):
    ours, theirs = pair
    inputs = make_inputs(ours.config, LAYOUTS[layout], left)
    real = inputs["attention_mask"].bool()
    labels = inputs["input_ids"].masked_fill(~real, -100)
    labels[:, :2] = -100
    a = ours(**inputs, labels=labels, output_hidden_states=True)
    b = theirs(**inputs, labels=labels, output_hidden_states=True)
    assert relative(a.logits[real], b.logits[real]) < 1e-4
    assert relative(a.loss, b.loss) < 1e-5
    assert len(a.hidden_states) == len(b.hidden_states)
    for mine, other in zip(a.hidden_states, b.hidden_states, strict=True):
        assert relative(mine[real], other[real]) < 1e-4
    assert torch.equal(a.rope_deltas, theirs.model.rope_deltas)
    lean = ours(**inputs, labels=labels, logits_to_keep=0)
    assert lean.logits is None and relative(lean.loss, a.loss) < 1e-6
