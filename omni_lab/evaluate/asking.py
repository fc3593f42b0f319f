"""Putting test items to a model, in batches: for replies in text, and for replies aloud."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import tmrope
from ..data import world
from ..data.sample import Sample

BATCH = 16
LONGEST_REPLY = 64  # tokens
LONGEST_SPEECH = 600  # codes: 12 seconds, twice the longest sentence
POINTS = 3  # of the DiT's solver: as many as the chat speaks with (streaming.mel.MelStream)


def items(task: str, count: int, seed: int) -> list[Sample]:
    """The first `count` test items of a task: the same ones for every model."""
    return [world.sample(task, "test", seed, index) for index in range(count)]


def has_sound(samples: Sequence[Sample]) -> bool:
    """Whether a video of these comes with its sound."""
    parts = [part for s in samples for message in s.messages for part in message["content"]]
    return any(part["type"] == "video" and part["video"]["audio"] is not None for part in parts)


@torch.inference_mode()
def ask(model: Any, samples: Sequence[Sample], longest: int = LONGEST_REPLY, progress: str = "") -> list[str]:
    """The model's greedy replies in text to all samples; they must agree in whether their videos have sound.

    model: an OmniModel with a processor, or a backend (backends.py)."""
    if hasattr(model, "replies"):
        return model.replies([s.messages for s in samples], longest)
    replies: list[str] = []
    with tqdm(total=len(samples), desc=progress, disable=not progress, leave=False) as bar:
        for begin in range(0, len(samples), BATCH):
            part = samples[begin : begin + BATCH]
            messages = [s.messages for s in part]
            inputs = model.processor(messages=messages, use_audio_in_video=has_sound(part), longest_audio=True)
            ids = model.thinker.generate(
                max_new_tokens=longest, stop_token_ids=model.stop_ids(), **placed(inputs, model.thinker.lm_head.weight)
            )
            replies += [model.processor.decode(before_stop(row, model.stop_ids())) for row in ids]
            bar.update(len(part))
    return replies


def before_stop(row: Tensor, stops: Sequence[int]) -> Tensor:
    """The tokens of a row (n,) before its first stop token: behind it stands padding, while longer rows go on."""
    ended = torch.isin(row, torch.tensor(list(stops), dtype=row.dtype, device=row.device)).nonzero()[:, 0]
    return row[: ended[0]] if len(ended) else row


@torch.inference_mode()
def ask_aloud(
    model: Any, samples: Sequence[Sample], seed: int, speaker: str | None = None, progress: str = ""
) -> list[np.ndarray]:
    """What the model says to all samples: float32 (samples,) at 24 kHz each, empty where it is silent.

    Thinker and talker work on BATCH samples together; from codes to sound each goes alone, for on a CPU a batch of
    those gains nothing. The same seed and samples give the same sound. speaker: a name (default: the first voice)."""
    voice = model.voice(speaker)
    waves: list[np.ndarray] = []
    with tqdm(total=len(samples), desc=progress, disable=not progress, leave=False) as bar:
        for begin in range(0, len(samples), BATCH):
            for codes in spoken_codes(model, samples[begin : begin + BATCH], voice, seed + begin):
                wave = model.say(codes, voice, seed=seed + len(waves), num_steps=POINTS)
                waves.append(wave.numpy().astype(np.float32).reshape(-1))
                bar.update()
    return waves


def spoken_codes(model: Any, samples: Sequence[Sample], voice: Any, seed: int, sampling: Any = None) -> list[Tensor]:
    """Codec tokens of the replies to a batch of samples, (n,) each; sampling: the talker's (default: the release's)."""
    inputs = model.processor(
        messages=[s.messages for s in samples], use_audio_in_video=has_sound(samples), longest_audio=True
    )
    inputs = placed(inputs, model.thinker.lm_head.weight)
    start = model.thinker.prefill(**inputs)
    tokens = list(model.thinker.decode(start, LONGEST_REPLY, stop_token_ids=model.stop_ids()))
    vectors = [token.hidden + token.embeds for token in tokens if token.hidden is not None]
    if not vectors:  # every reply is the stop token alone: nothing to say
        return [torch.empty(0, dtype=torch.long) for _ in samples]
    ids = torch.stack([token.ids for token in tokens], dim=1)  # (batch, tokens)
    stopped = torch.isin(ids, torch.tensor(model.stop_ids(), dtype=ids.dtype, device=ids.device))
    lengths = (stopped.cumsum(1) == 0).sum(1).clamp(max=len(vectors))  # words before the first stop
    return model.talker.generate(
        model.talker_context(start, inputs, voice),
        torch.stack(vectors, dim=1),
        lengths,
        max_new_tokens=LONGEST_SPEECH,
        sampling=sampling,
        generator=torch.Generator(model.device).manual_seed(seed),
    )


def placed(inputs: Mapping[str, Any], weight: Tensor) -> dict[str, Any]:
    """The thinker's arguments where its weights are, and in their type; seconds and counts keep theirs."""
    moved = {}
    for name, value in inputs.items():
        if torch.is_tensor(value):
            exact = not value.is_floating_point() or name == "video_second_per_grid"
            value = value.to(weight.device) if exact else value.to(weight)
        moved[name] = value
    return moved


@contextmanager
def no_time_axis() -> Iterator[None]:
    """Within the block, sound and video carry no time: the temporal ids of a video, and all ids of sound, stay at the
    first of their run. What TMRoPE adds is what is lost (report, section 2.2)."""
    complete = tmrope.position_ids

    def timeless(input_ids: Tensor, *args: Any, **named: Any) -> tuple[Tensor, Tensor]:
        ids, delta = complete(input_ids, *args, **named)
        return without_time(ids, input_ids, named["config"]), delta

    tmrope.position_ids = timeless
    try:
        yield
    finally:
        tmrope.position_ids = complete


def without_time(ids: Tensor, input_ids: Tensor, config: Any) -> Tensor:
    """Positions (3, batch, length) whose runs of sound and video tokens do not move on in time."""
    ids = ids.clone()
    sound, video = input_ids == config.audio_token_index, input_ids == config.video_token_index
    for row in range(input_ids.shape[0]):
        for begin, end in runs((sound | video)[row]):
            first = ids[0, row, begin:end].min()
            ids[0, row, begin:end] = first
            ids[:, row, begin:end][:, sound[row, begin:end]] = first
    return ids


def runs(mask: Tensor) -> list[tuple[int, int]]:
    """Stretches [begin, end) where a mask (length,) holds."""
    edges = torch.diff(mask.int(), prepend=mask.new_zeros(1).int(), append=mask.new_zeros(1).int())
    return list(zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist(), strict=True))
