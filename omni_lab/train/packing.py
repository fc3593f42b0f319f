"""Samples of any length in rows of one length, several to a row, none seeing another: no padding is paid for.

Each sample brings its own TMRoPE positions; `segment_ids` tell the attention where one ends. Media follow the order of
the rows, because the thinker fills placeholders from left to right, row by row.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import tmrope
from ..config import ThinkerConfig
from ..errors import ConfigError
from .nano import processor

IGNORED = -100
MOST_PASSED = 200  # samples in a row that no row of the batch could hold
MEDIA = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "input_features")
Encoded = dict[str, Any]  # one sample: what OmniProcessor returns, and "position_ids" (3, 1, length)


def with_positions(sample: Encoded, config: ThinkerConfig) -> Encoded:
    """Add TMRoPE positions to the processor's output for one sample."""
    mask = sample.get("feature_attention_mask")
    sample["position_ids"], _ = tmrope.position_ids(
        sample["input_ids"],
        sample.get("image_grid_thw"),
        sample.get("video_grid_thw"),
        sample["attention_mask"],
        bool(sample.get("use_audio_in_video", False)),
        None if mask is None else mask.sum(1),
        sample.get("video_second_per_grid"),
        config=config,
    )
    return sample


def fill(samples: Iterable[Encoded], rows: int, length: int) -> list[list[Encoded]]:
    """Put samples into `rows` rows of at most `length` tokens, each into the first row with room, until one finds none.

    A sample longer than a row is passed over, for no row will ever hold it. Takes from `samples` only what it needs.
    Raises ConfigError when it meets nothing but such samples: they may have no end.
    """
    filled: list[list[Encoded]] = [[] for _ in range(rows)]
    room, passed = [length] * rows, 0
    for sample in samples:
        size = sample["input_ids"].shape[1]
        passed = passed + 1 if size > length else 0
        if passed == MOST_PASSED:
            raise ConfigError(f"{passed} samples in a row are longer than a row of {length} tokens: --set length=N")
        if passed:
            continue
        row = next((i for i in range(rows) if room[i] >= size), None)
        if row is None:
            break
        filled[row].append(sample)
        room[row] -= size
    return filled


def end_to_end(filled: list[list[Encoded]]) -> tuple[list[list[Encoded]], int]:
    """All rows one after another in one row, and its length in tokens: nothing is left to pad.

    For where segments are attended to apart (layers.apart), so that a longer row costs nothing."""
    row = [sample for samples in filled for sample in samples]
    return [row], sum(sample["input_ids"].shape[1] for sample in row)


def pack(filled: list[list[Encoded]], length: int, pad_id: int) -> dict[str, Tensor]:
    """Rows of samples -> the thinker's arguments: input_ids, labels, segment_ids (rows, length), position_ids
    (3, rows, length), and the media of all samples in row order. Padding has segment 0 and no label."""
    batch: dict[str, Tensor] = {}
    for name, value in (("input_ids", pad_id), ("labels", IGNORED), ("position_ids", 0)):
        batch[name] = torch.cat([joined_row([s[name] for s in row], length, value, name) for row in filled], dim=-2)
    segments = []
    for row in filled:
        numbers = [torch.full((1, s["input_ids"].shape[1]), i + 1) for i, s in enumerate(row)]
        segments.append(joined_row(numbers, length, 0, "segment_ids"))
    batch["segment_ids"] = torch.cat(segments)
    return batch | join_media([sample for row in filled for sample in row])


def join_media(samples: list[Encoded]) -> dict[str, Tensor]:
    """The media of several samples, in their order, under the thinker's argument names."""
    media: dict[str, Tensor] = {}
    for name in MEDIA:
        found = [sample[name] for sample in samples if name in sample]
        if not found:
            continue
        if name == "input_features":
            media |= join_sounds(found, [s["feature_attention_mask"] for s in samples if name in s])
        else:
            media[name] = torch.cat(found)
    return media


def joined_row(pieces: list[Tensor], length: int, value: int, name: str) -> Tensor:
    """Pieces (..., 1, size) side by side, padded to (..., 1, length)."""
    if not pieces:
        shape = (3, 1, length) if name == "position_ids" else (1, length)
        return torch.full(shape, value)
    row = torch.cat(pieces, dim=-1)
    return F.pad(row, (0, length - row.shape[-1]), value=value)


def join_sounds(features: list[Tensor], masks: list[Tensor]) -> dict[str, Tensor]:
    """Log-mels (clips, 128, frames) of several samples, padded to the longest, with their masks (clips, frames)."""
    longest = max(mask.shape[1] for mask in masks)
    return {
        "input_features": torch.cat([F.pad(f, (0, longest - f.shape[2])) for f in features]),
        "feature_attention_mask": torch.cat([F.pad(m, (0, longest - m.shape[1])) for m in masks]),
    }


def reply_length(encoded: Encoded) -> int:
    """Tokens of the last reply, thought and end included."""
    labelled = encoded["labels"][0] != IGNORED
    return int(labelled.flip(0).long().cumprod(0).sum())


def thought_length(encoded: Encoded) -> int:
    """Tokens of the last reply up to the end of its thought; 0 without one."""
    reply = encoded["input_ids"][0, -reply_length(encoded) :]
    ends = (reply == processor().tokenizer.convert_tokens_to_ids("</think>")).nonzero()
    return int(ends[-1]) + 1 if len(ends) else 0


def answer_length(encoded: Encoded) -> int:
    """Tokens of the last answer, which is what is said of a reply, its end included."""
    return reply_length(encoded) - thought_length(encoded)
