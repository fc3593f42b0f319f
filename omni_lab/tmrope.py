"""TMRoPE: positions in time, height and width for text, sound, pictures and video (report, section 2.2).

Every token has three ids. Text and sound move along the diagonal, t = h = w; a sound takes one id per 40 ms. A picture
stands still in time and spreads over height and width. A video does both, its frames timed in the same 40 ms ids, so
that what is seen and heard at one moment has one temporal id; in the sequence they alternate in chunks of 2 s.

`position_ids` reproduces the reference's `get_rope_index` integer for integer, oddities included (each is marked),
because released weights were trained with them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .config import TalkerConfig, ThinkerConfig
from .encoders import audio, vision
from .errors import InputError


def text_ids(start: int, count: int) -> Tensor:
    """`count` text tokens from position `start`: (3, count), t = h = w, one step a token."""
    return torch.arange(start, start + count).expand(3, count)


def audio_ids(start: int, count: int) -> Tensor:
    """`count` audio tokens from `start`: (3, count). One token is 40 ms and takes one id: sound counts as text does."""
    return torch.arange(start, start + count).expand(3, count)


def grid_ids(start: int, times: Tensor, height: int, width: int) -> Tensor:
    """Tokens of `len(times)` frames of height x width tokens, row by row: (3, frames * height * width).

    times: (frames,) temporal ids relative to `start`. Height and width count from `start` as well.
    """
    shape = (len(times), height, width)
    t = times.view(-1, 1, 1).expand(shape)
    h = torch.arange(height).view(1, -1, 1).expand(shape)
    w = torch.arange(width).view(1, 1, -1).expand(shape)
    return torch.stack((t, h, w)).reshape(3, -1) + start  # (3, frames * height * width)


def image_ids(start: int, frames: int, height: int, width: int, ids_per_second: int = 25) -> Tensor:
    """A picture of height x width tokens: (3, frames * height * width). `frames` is 1 for all real pictures."""
    return grid_ids(start, torch.arange(frames) * ids_per_second, height, width)


def video_ids(
    start: int, frames: int, height: int, width: int, second_per_grid: float, ids_per_second: int = 25
) -> Tensor:
    """A video of `frames` temporal patches, `second_per_grid` seconds apart: (3, frames * height * width).

    t = int(i * second_per_grid * 25): dynamic frame rates keep their time. In float32, as the reference computes it.
    """
    seconds = torch.arange(frames) * torch.tensor(second_per_grid, dtype=torch.float32)
    return grid_ids(start, (seconds * ids_per_second).long(), height, width)


def chunk_spans(times: Tensor, ids_per_chunk: int) -> list[tuple[int, int]]:
    """Cut ascending temporal ids, counted from the segment's start, into chunks: list of (first, end) places.

    A new chunk begins at the first token with times >= k * ids_per_chunk, for k = 1, 2, ...; but each token begins at
    most one (a slow video, whose time leaps over several chunks, gets chunks of a single token: as in the reference).
    """
    total = len(times)
    if total == 0:
        return []
    limits = torch.tensor(range(ids_per_chunk, int(times[-1]) + 1, ids_per_chunk), dtype=times.dtype)
    cuts, last = [0], -1
    for found in torch.searchsorted(times.contiguous(), limits).tolist():
        last = max(found, last + 1)
        if last >= total:
            break
        cuts.append(last)
    return list(zip(cuts, [*cuts[1:], total], strict=True))


def interleave(video: Tensor, sound: Tensor, start: int, ids_per_chunk: int = 50) -> list[Tensor]:
    """Video and its sound, alternating by chunks of 2 s, video first: (3, n), (3, m) -> chunks, n + m ids in all.

    Both hold TMRoPE ids from the same `start`. Where one has run out, the other goes on alone (report, section 2.2).
    """
    by_video = chunk_spans(video[0] - start, ids_per_chunk)
    by_sound = chunk_spans(sound[0] - start, ids_per_chunk)
    chunks = []
    for i in range(max(len(by_video), len(by_sound))):
        chunks += [video[:, slice(*span)] for span in by_video[i : i + 1]]
        chunks += [sound[:, slice(*span)] for span in by_sound[i : i + 1]]
    return chunks


@dataclass
class Media:
    """What is still to be placed: one iterator per kind, shared by the rows of a batch, which consume it in order."""

    images: Iterator[tuple[int, int, int]]  # (t, h, w) in patches
    videos: Iterator[tuple[tuple[int, int, int], float]]  # (t, h, w) in patches, seconds per temporal patch
    sounds: Iterator[int]  # tokens; sounds too short for a single token have no place in the sequence and are left out

    def take(self, kind: str) -> Any:
        """The next of `kind`. Raises InputError when there are more placeholders than media."""
        entry = next(getattr(self, kind), None)
        if entry is None:
            raise InputError(f"input_ids hold more {kind} than were given: check the grids and feature lengths")
        return entry

    def finish(self) -> None:
        """Raise InputError when there are fewer placeholders than media: something of any kind is left."""
        for kind in ("images", "videos", "sounds"):
            left = sum(1 for _ in getattr(self, kind))
            if left:
                raise InputError(f"input_ids hold fewer {kind} than were given: {left} are left over")


def position_ids(
    input_ids: Tensor,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    attention_mask: Tensor | None = None,
    use_audio_in_video: bool = False,
    audio_seqlens: Tensor | None = None,
    second_per_grids: Tensor | Sequence[float] | None = None,
    config: ThinkerConfig | TalkerConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """TMRoPE ids of a batch and the step from lengths to positions: (3, batch, length) and (batch, 1), both int64.

    input_ids, attention_mask: (batch, length); padding, on either side, gets id 1. image_grid_thw, video_grid_thw:
    (n, 3) in patches, in the order in which they stand in the batch. audio_seqlens: (n,) mel frames. second_per_grids:
    (n,) seconds per temporal patch of each video (default 1.0: two frames at 2 fps). use_audio_in_video: videos that
    begin with the start token of sound share their time with the next sound (the reference: all videos). The next
    token of row i stands at position (its number of tokens) + delta[i]. Raises InputError where placeholders and media
    do not match.
    """
    config = config if config is not None else ThinkerConfig()
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if mask.shape != input_ids.shape:
        raise InputError(f"attention_mask is {tuple(mask.shape)}, input_ids are {tuple(input_ids.shape)}")
    if image_grid_thw is None and video_grid_thw is None:
        return plain_positions(mask)
    media = media_of(image_grid_thw, video_grid_thw, audio_seqlens, second_per_grids)
    ids = torch.ones(3, *input_ids.shape, dtype=torch.long)  # on the CPU: rows are walked in Python
    deltas = []
    for row, (tokens, real) in enumerate(zip(input_ids.cpu(), mask.cpu().bool(), strict=True)):
        tokens = tokens[real].tolist()
        walked = row_positions(tokens, media, use_audio_in_video, config)
        ids[:, row, real] = walked
        deltas.append(int(walked.max()) + 1 - len(tokens) if tokens else 0)
    media.finish()
    return ids.to(input_ids.device), torch.tensor(deltas, device=input_ids.device).unsqueeze(1)


def plain_positions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Positions without pictures or video: each row counts its real tokens. (3, batch, length) and (batch, 1)."""
    mask = mask.long()
    ids = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    # The maximum runs over the padding's 1 as well: one token beside padding gets delta 1, as in the reference.
    delta = ids.amax(-1, keepdim=True) + 1 - mask.sum(-1, keepdim=True)
    return ids.expand(3, -1, -1), delta


def media_of(
    image_grid_thw: Tensor | None,
    video_grid_thw: Tensor | None,
    audio_seqlens: Tensor | None,
    second_per_grids: Tensor | Sequence[float] | None,
) -> Media:
    """The media of a batch as iterators. Raises InputError for grids of another shape than (n, 3), and if the videos'
    times are not one a video."""
    pictures = () if image_grid_thw is None else vision.grid_rows(image_grid_thw, "image_grid_thw")
    videos = () if video_grid_thw is None else vision.grid_rows(video_grid_thw, "video_grid_thw")
    seconds = [1.0] * len(videos) if second_per_grids is None else torch.as_tensor(second_per_grids).flatten().tolist()
    if len(seconds) != len(videos):
        raise InputError(f"second_per_grids holds {len(seconds)} numbers for {len(videos)} videos")
    frames = [] if audio_seqlens is None else audio_seqlens.tolist()
    sounds = [audio.token_count(int(n)) for n in frames]
    return Media(iter(pictures), iter(zip(videos, seconds, strict=True)), iter([n for n in sounds if n > 0]))


def row_positions(
    tokens: list[int], media: Media, use_audio_in_video: bool, config: ThinkerConfig | TalkerConfig
) -> Tensor:
    """TMRoPE ids of one row without padding: (3, len(tokens)). A segment starts at the last one's maximum + 1."""
    kinds = {config.audio_token_index: "sounds", config.image_token_index: "images", config.video_token_index: "videos"}
    pieces: list[Tensor] = []
    start, place, twins = 0, 0, 0  # next position; next token; how many of the coming tokens share one position
    while place < len(tokens):
        end = next((i for i in range(place, len(tokens)) if tokens[i] in kinds), len(tokens))
        kind = kinds[tokens[end]] if end < len(tokens) else None
        # Silent videos may stand beside those with sound; the start token of sound tells them apart.
        heard = tokens[place:end][-1:] == [config.audio_start_token_id]
        paired = kind == "videos" and use_audio_in_video and heard
        text = text_ids(start, end - place)
        if twins and text.shape[1] > 1:  # the two EOS of a video with sound share one position
            text = torch.cat((text[:, :1], text[:, :-1]), dim=1)
        if paired and text.shape[1] > 1:  # and so do its two BOS
            text = torch.cat((text[:, :-1], text[:, -2:-1]), dim=1)
        if text.shape[1]:
            pieces.append(text)
            start = int(text.max()) + 1
        if kind is not None:
            body = media_ids(kind, start, media, paired, config)
            check_run(tokens[end:], body, kind, paired, config)
            pieces += body
            # The last chunk alone counts: of a wide frame before it, height or width may reach further (reference).
            start = int(body[-1].max()) + 1
            end += sum(piece.shape[1] for piece in body)
        place, twins = end, paired
    return torch.cat(pieces, dim=1) if pieces else torch.empty(3, 0, dtype=torch.long)


def media_ids(kind: str, start: int, media: Media, paired: bool, config: ThinkerConfig | TalkerConfig) -> list[Tensor]:
    """Ids of the next sound, picture or video (`paired`: with its sound), in pieces (3, n) of which none is empty."""
    rate = config.position_id_per_seconds
    if kind == "sounds":
        return [audio_ids(start, media.take("sounds"))]
    merge = config.vision_config.spatial_merge_size if isinstance(config, ThinkerConfig) else config.spatial_merge_size
    if kind == "images":
        t, h, w = tokens_of(media.take("images"), merge)
        return [image_ids(start, t, h, w, rate)]
    grid, seconds = media.take("videos")
    t, h, w = tokens_of(grid, merge)
    video = video_ids(start, t, h, w, seconds, rate)
    if not paired:
        return [video]
    return interleave(video, audio_ids(start, media.take("sounds")), start, rate * config.seconds_per_chunk)


def tokens_of(grid: tuple[int, int, int], merge: int) -> tuple[int, int, int]:
    """A grid in patches -> in tokens. Raises InputError for one that makes none."""
    tokens = (grid[0], grid[1] // merge, grid[2] // merge)
    if min(tokens) < 1:
        raise InputError(
            f"a picture or video of {grid} patches makes no token: expected (t, h, w) from (1, {merge}, {merge}) on"
        )
    return tokens


def check_run(
    tokens: list[int], body: list[Tensor], kind: str, paired: bool, config: ThinkerConfig | TalkerConfig
) -> None:
    """Raise InputError unless `tokens` begin with as many placeholders as `body` has ids."""
    names = {"sounds": config.audio_token_index, "images": config.image_token_index, "videos": config.video_token_index}
    allowed = {names[kind], config.audio_token_index} if paired else {names[kind]}
    want = sum(piece.shape[1] for piece in body)
    have = next((i for i, token in enumerate(tokens[: want + 1]) if token not in allowed), len(tokens[: want + 1]))
    if have < want:
        raise InputError(f"input_ids hold {have} placeholders where {kind} of {want} tokens stand")
