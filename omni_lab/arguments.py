"""What a reply can be asked for besides its question, checked before anything is computed."""

import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from .codec import flow_matching
from .errors import InputError

TOKEN2WAV = ("num_steps", "guidance_scale", "sway_coefficient", "solver")  # of a reply that is not streamed
DRAWING = ("temperature", "top_k", "top_p", "repetition_penalty", "suppress", "do_sample")  # what Sampling is for
SEEDS = range(-(2**63), 2**64)  # what a torch.Generator takes


def check_names(given: Iterable[str], known: Iterable[str] = TOKEN2WAV) -> None:
    """Raise InputError for the first name that is not among `known`."""
    for name in given:
        if name not in known:
            hint = "; how words are drawn: sampling=Sampling(temperature=0.7, top_k=40)" if name in DRAWING else ""
            raise InputError(f"unknown argument {name!r}: besides its own a reply takes {', '.join(known)}{hint}")


def check_token2wav(given: Mapping[str, Any], known: Iterable[str] = TOKEN2WAV) -> None:
    """Raise InputError for a setting of the sound that is not among `known`, or a value that no reply can have."""
    check_names(given, known)
    need_whole(2, num_steps=given.get("num_steps", 2))
    need_whole(0, **{name: given[name] for name in ("ahead", "first_ahead") if given.get(name) is not None})
    need_numbers(guidance_scale=given.get("guidance_scale", 0.0), sway_coefficient=given.get("sway_coefficient") or 0.0)
    if "solver" in given:
        flow_matching.solver_step(given["solver"])


def need_whole(least: int, **given: Any) -> None:
    """Raise InputError unless all of these are whole numbers of at least `least`."""
    for name, value in given.items():
        if not hasattr(value, "__index__") or operator.index(value) < least:
            raise InputError(f"{name} is {value!r}, expected a whole number, at least {least}")


def need_numbers(least: float = -math.inf, **given: Any) -> None:
    """Raise InputError unless all of these are finite numbers of at least `least`."""
    for name, value in given.items():
        if not isinstance(value, numbers.Real) or not math.isfinite(value) or value < least:
            bound = f", at least {least:g}" if least > -math.inf else ""
            raise InputError(f"{name} is {value!r}, expected a number{bound}")


def seed_of(given: Any) -> int:
    """The seed itself; for None a fresh one. Raises InputError for what no generator takes."""
    if given is None:
        return torch.Generator().seed()
    try:
        seed = operator.index(given)
    except TypeError:
        raise InputError(f"seed is {given!r}, expected a whole number or None") from None
    if seed not in SEEDS:
        raise InputError(f"seed is {seed}, expected at most 64 bits")
    return seed


def token_ids(given: Any) -> tuple[int, ...]:
    """One token id or several. Raises InputError for anything else."""
    try:
        return (operator.index(given),)
    except TypeError:
        pass
    try:
        return tuple(map(operator.index, given))
    except TypeError:
        raise InputError(f"stop_token_ids are {given!r}, expected token ids") from None


def listed(media: Any) -> list[Any]:
    """Media as a list. Raises InputError for a bare picture, sound or path, of which a list is expected."""
    if media is None:
        return []
    if not isinstance(media, (list, tuple)):
        raise InputError(f"media must come as lists, got {type(media).__name__}: write [...] around it")
    return list(media)
