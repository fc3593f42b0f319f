"""Something to look at and listen to for batches that bring none, so that every process runs every encoder.

FSDP gathers a block's weights when the block is called, and all processes must call for them. If one process's batch
holds a film and another's does not, the first asks for weights that the second never sends, and the run dies or hangs.
So a batch that lacks one of its mixture's media gets the least there is of it, without any label: at most six tokens.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..config import ThinkerConfig
from ..data import world
from ..data.sample import audio, image, user, video
from ..processing.processor import OmniProcessor
from .packing import IGNORED, Encoded, with_positions

SIDE = 28  # pixels of a picture that is one token
BLANKS: dict[str, Callable[[], dict[str, Any]]] = {
    "image": lambda: image(Image.new("RGB", (SIDE, SIDE))),
    "audio": lambda: audio(np.zeros(1600, np.float32)),
    "video": lambda: video(np.zeros((2, SIDE, SIDE, 3), np.uint8), 2.0),
}
TENSORS = {"image": "pixel_values", "audio": "input_features", "video": "pixel_values_videos"}


def complete(
    filled: list[list[Encoded]], tasks: Sequence[str], length: int, processor: OmniProcessor, config: ThinkerConfig
) -> None:
    """Put a stand-in for each medium of `tasks` that no sample of the batch has into a row with room, in place.

    filled: rows of at most `length` tokens. Where no row has room, the last row's last samples give way, and what they
    alone had is stood in for too: stand-ins go first in a row, so that they never give way themselves."""
    kinds = sorted({kind for task in tasks for kind in world.TASKS[task].gives})
    while missing := [k for k in kinds if not any(TENSORS[k] in sample for row in filled for sample in row)]:
        blank = stand_in(missing[0], processor, config)
        room = [length - sum(tokens(sample) for sample in row) for row in filled]
        place = next((i for i, left in enumerate(room) if left >= tokens(blank)), len(filled) - 1)
        filled[place].insert(0, blank)
        while sum(tokens(sample) for sample in filled[place]) > length:
            filled[place].pop()


def tokens(sample: Encoded) -> int:
    """Tokens of one sample."""
    return sample["input_ids"].shape[1]


@lru_cache(maxsize=8)
def stand_in(kind: str, processor: OmniProcessor, config: ThinkerConfig) -> Encoded:
    """The least of a medium between its begin and end tokens, no label anywhere."""
    encoded = dict(processor(messages=[user("", BLANKS[kind]())], longest_audio=True))
    ids = encoded["input_ids"][0]
    placed = {config.image_token_index, config.audio_token_index, config.video_token_index}
    at = torch.isin(ids, torch.tensor(sorted(placed))).nonzero()[:, 0]
    part = slice(int(at[0]) - 1, int(at[-1]) + 2)
    for name in ("input_ids", "attention_mask"):
        encoded[name] = encoded[name][:, part]
    encoded["labels"] = torch.full_like(encoded["input_ids"], IGNORED)
    if kind == "audio":
        encoded["transcripts"] = [[]]
    return with_positions(encoded, config)
