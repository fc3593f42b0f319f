"""From logits to the next token: repetition penalty, temperature, top-k, top-p, in that order (as in the field).

Thinker and talker share it. Each step is a function of its own over (batch, vocab) logits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigError, InputError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The defaults are greedy."""

    temperature: float = 0.0  # 0, or below GREEDY_BELOW: take the most likely token
    top_k: int = 0  # keep the k most likely; 0: all
    top_p: float = 1.0  # keep the most likely whose probabilities sum to p
    repetition_penalty: float = 1.0  # > 1: tokens seen before become less likely
    suppress: tuple[int, ...] = ()  # tokens never chosen

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise InputError(f"temperature is {self.temperature}, expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}, expected a number above 0 and at most 1")
        if self.top_k < 0 or not self.repetition_penalty > 0:
            raise InputError(
                f"top_k {self.top_k} and repetition_penalty {self.repetition_penalty} must not be negative"
            )


GREEDY = Sampling()
GREEDY_BELOW = 1e-6  # temperatures that leave the most likely token alone; logits over still smaller ones overflow
CONFIGURED = ("temperature", "top_k", "top_p", "repetition_penalty")  # what a generation_config.json may set


def from_config(raw: Any, part: str, default: Sampling) -> Sampling:
    """`default` with what a generation_config.json sets for a part: `talker_temperature` and the like, the names of
    the reference's arguments of `generate`. Raises ConfigError for a value that is no number or beyond its range."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"generation_config.json holds a {type(raw).__name__}, expected names and values")
    given = {name: raw[f"{part}_{name}"] for name in CONFIGURED if f"{part}_{name}" in raw}
    for name, value in given.items():
        kinds = (int,) if name == "top_k" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ConfigError(f"generation_config.json: {part}_{name} is {value!r}, expected a number")
    try:
        return replace(default, **given)
    except InputError as error:
        raise ConfigError(f"generation_config.json, {part}: {error}") from None


def to_config(sampling: Sampling, part: str) -> dict[str, float]:
    """What `from_config` reads."""
    return {f"{part}_{name}": getattr(sampling, name) for name in CONFIGURED}


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens seen before less likely (Keskar et al. 2019, section 4.1): divide positive logits, multiply negative.

    logits: (batch, vocab). seen: (batch, vocab), True for tokens of the prompt or the reply so far.
    """
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalised, logits)


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest of each row of (batch, vocab), and what equals the k-th; the rest becomes -inf."""
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest, -math.inf)


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of most likely tokens whose probabilities reach p (Holtzman et al. 2020, section 3.1)."""
    ascending, places = logits.sort(dim=-1)
    below = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    below[:, -1] = False  # the most likely token always stays
    return logits.masked_fill(below.scatter(1, places, below), -math.inf)


@lru_cache(maxsize=16)
def token_table(tokens: tuple[int, ...], vocab: int, device: torch.device) -> Tensor:
    """Where `tokens` stand: (vocab,) bool."""
    with torch.inference_mode(False):
        table = torch.zeros(vocab, dtype=torch.bool)
        table[list(tokens)] = True
        return table.to(device)


def next_token(
    logits: Tensor, sampling: Sampling, seen: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Choose one token per row: (batch, vocab) -> (batch,) int64. `seen` as in `repetition_penalty`."""
    logits = logits.float()
    if sampling.repetition_penalty != 1.0 and seen is not None:
        logits = repetition_penalty(logits, seen, sampling.repetition_penalty)
    if sampling.suppress:
        logits = logits.masked_fill(token_table(tuple(sampling.suppress), logits.shape[-1], logits.device), -math.inf)
    if sampling.temperature < GREEDY_BELOW:
        return logits.argmax(dim=-1)
    logits = logits / sampling.temperature
    ids = None
    if sampling.top_k:
        logits = top_k_filter(logits, sampling.top_k)
        # What is left fits in a short row, and to sort and to draw from a short row costs a tenth.
        logits, ids = logits.topk(int((logits > -math.inf).sum(-1).max()), dim=-1)
    if sampling.top_p < 1:
        logits = top_p_filter(logits, sampling.top_p)
    drawn = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
    return (drawn if ids is None else ids.gather(1, drawn)).squeeze(1)


def seen_tokens(vocab: int, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Which tokens a prompt holds: ids (batch, length), mask of the real ones -> (batch, vocab) bool."""
    seen = torch.zeros(ids.shape[0], vocab + 1, dtype=torch.bool, device=ids.device)  # the last column takes padding
    seen.scatter_(1, ids if mask is None else ids.where(mask.bool(), vocab), True)
    return seen[:, :vocab]


def stop_table(stop_token_ids: Sequence[int], device: torch.device | str | None = None) -> Tensor:
    """Stop tokens as a tensor to compare with: (n,)."""
    return torch.tensor(list(stop_token_ids), dtype=torch.long, device=device)
