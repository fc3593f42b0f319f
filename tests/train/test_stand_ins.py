"""Every batch holds every medium of its mixture, however full its rows are."""

import pytest
import torch

from omni_lab.config import preset
from omni_lab.train.nano import processor
from omni_lab.train.packing import IGNORED, pack
from omni_lab.train.stand_ins import TENSORS, complete, stand_in, tokens

CONFIG = preset("nano").thinker_config


def text(length: int) -> dict:
    """A sample of words alone."""
    ids = torch.arange(length)[None]
    return {"input_ids": ids, "labels": ids, "position_ids": ids.expand(3, 1, -1)}


@pytest.mark.parametrize("size", [50, 60, 64])
def test_full_rows_make_room_and_no_medium_is_lost_by_it(size: int) -> None:
    heard = dict(stand_in("audio", processor(), CONFIG))  # the batch's only sound, and the first to give way
    filled = [[text(64)], [text(size - tokens(heard)), heard]]
    complete(filled, ("asr", "picture_qa", "av_synchrony"), 64, processor(), CONFIG)
    for tensor in TENSORS.values():
        assert any(tensor in sample for row in filled for sample in row), tensor
    assert all(sum(map(tokens, row)) <= 64 for row in filled)
    packed = pack(filled, 64, 0)
    media = packed["input_ids"] > 2015  # the first row's words are below
    assert packed["labels"][media].eq(IGNORED).all() and packed["pixel_values"].shape == (16, 1176)


def test_a_batch_that_has_all_or_needs_none_is_left_as_it_is() -> None:
    filled = [[text(64)]]
    complete(filled, ("text_qa", "repeat"), 64, processor(), CONFIG)
    assert [len(row) for row in filled] == [1]
