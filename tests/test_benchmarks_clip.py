"""CLIP's benchmarks: they compare like with like, and what is committed is what they wrote."""

import torch

from benchmarks import clip_step, clip_zero_shot
from omni_lab import clip
from omni_lab.clip_config import CLIPConfig, ImageTowerConfig, TextTowerConfig


def test_both_libraries_take_the_same_step():
    torch.set_num_threads(1)
    text = TextTowerConfig(vocab_size=300, context_length=8, width=32, heads=2, layers=1)
    for vision in (ImageTowerConfig(64, 8, (1, 1, 1, 1), 4), ImageTowerConfig(32, 32, (1,), 2, patch_size=16)):
        taken = clip_step.compare(CLIPConfig(16, vision, text), batch=4, steps=2)
        for ours, theirs in zip(taken["omni_lab"], taken["open_clip"], strict=True):
            assert abs(ours[2] - theirs[2]) < 1e-3


def test_committed_tables_agree_and_the_unseen_style_is_above_the_floor():
    committed = clip_zero_shot.OUT.read_text()
    rows = [line for line in committed.splitlines() if line.startswith("|")]
    assert "\n".join(rows) in clip_zero_shot.README.read_text()
    top1, top5 = (float(cell.strip(" %")) for cell in rows[2].split("|")[4:6])
    assert rows[2].startswith("| OpenMoji") and top1 >= 25 and top5 >= 45


def test_shipped_checkpoint_gives_the_committed_accuracy():
    """On every fourth picture of the unseen style, so within sampling error of the table."""
    from omni_lab.data import emoji
    from omni_lab.train.recipes.clip import TEMPLATES

    torch.set_num_threads(1)
    model, names = clip.CLIP.load(clip_zero_shot.CHECKPOINT), emoji.load()
    few = torch.arange(0, len(names), 4)
    white = emoji.over_background(names.pixels(emoji.TEST_STYLE)[few])
    with torch.no_grad():
        classes = model.embed_classes(names.names, TEMPLATES[:2])
        seen = model.encode_image(clip.to_input(white, model.config.vision.image_size))
    assert clip.recall_at_k(clip.similarity(seen, classes), 5, few) > 0.38
    size = sum(path.stat().st_size for path in clip_zero_shot.CHECKPOINT.iterdir())
    assert size < 6e6
