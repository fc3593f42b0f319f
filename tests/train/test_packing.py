"""Packed rows give each sample the loss it has alone."""

import itertools

import pytest
import torch

from omni_lab.config import preset
from omni_lab.data.sample import Sample, image, user
from omni_lab.errors import ConfigError
from omni_lab.thinker import Thinker
from omni_lab.train import packing
from omni_lab.train.recipes.thinker import Thinker2, conversation, has_talking_film


def recipe() -> Thinker2:
    return Thinker2.at("smoke")


def encoded() -> list[packing.Encoded]:
    from PIL import Image

    picture = Image.new("RGB", (84, 112), (200, 30, 30))
    samples = [
        Sample([user("How many?")], "text_qa", "seven"),
        Sample([user("What colour?", image(picture))], "picture_qa", "red"),
        Sample([user("Say: A dog.")], "say_this", "A dog."),
    ]
    return [recipe().encode(sample) for sample in samples]


def test_packing_changes_no_loss() -> None:
    torch.manual_seed(0)
    model, samples = Thinker(preset("nano").thinker_config).eval(), encoded()
    filled = packing.fill(iter(samples), 2, 96)
    assert sorted(len(row) for row in filled) in ([1, 2], [0, 3])
    packed = packing.pack(filled, 96, 2016)
    assert packed["input_ids"].shape == (2, 96) and packed["position_ids"].shape == (3, 2, 96)
    together = model(**packed, logits_to_keep=0).loss
    filled, length = packing.end_to_end(filled)
    in_a_row = packing.pack(filled, length, 2016)
    assert in_a_row["input_ids"].shape == (1, length) and in_a_row["segment_ids"].all(), "nothing is padded"
    assert torch.allclose(model(**in_a_row, logits_to_keep=0).loss, together, rtol=1e-5)
    losses, counts = [], []
    for sample in samples:
        alone = {k: v for k, v in sample.items() if k not in ("use_audio_in_video",)}
        losses.append(model(**alone).loss)
        counts.append(int((sample["labels"][:, 1:] != packing.IGNORED).sum()))
    expected = sum(loss * n for loss, n in zip(losses, counts, strict=True)) / sum(counts)
    assert torch.allclose(together, expected, rtol=1e-4)


def test_samples_longer_than_a_row_are_passed_over() -> None:
    samples = encoded()
    shortest = min(s["input_ids"].shape[1] for s in samples)
    filled = packing.fill(iter(samples), 1, shortest)
    assert [s["input_ids"].shape[1] for s in filled[0]] == [shortest]
    with pytest.raises(ConfigError, match="longer than a row of 3 tokens"):
        packing.fill(itertools.cycle(samples), 1, 3)
    empty = packing.pack([[]], 8, 0)
    assert empty["input_ids"].shape == (1, 8) and not empty["segment_ids"].any()


def test_turns_of_a_conversation() -> None:
    one, two = Sample([user("a")], "text_qa", "b"), Sample([user("c")], "text_qa", "d")
    joined = conversation([one, two])
    assert [m["role"] for m in joined.messages] == ["user", "assistant", "user"] and joined.answer == "d"
    film = {"type": "video", "video": {"frames": None, "fps": 2.0, "audio": [0.0]}}
    talking = Sample([user("e", film)], "who_said_what", "f")
    page, other = Sample([user("g")], "ocr", "h"), Sample([user("i")], "ocr", "j")
    read = conversation([page, one, other])
    assert read.task == "ocr" and read.answer == "h" and len(read.messages) == 3, "one page, at the end"
    assert has_talking_film(talking) and not has_talking_film(one) and conversation([one, talking]) is talking
