"""Attention within windows: many short stretches of one packed sequence, in a few large calls.

Audio attends within chunks of 2 s, pictures within 8x8 patches or one frame. A loop over windows would leave the
processor idle; here windows of similar length (within a factor of two) are padded and attended together, and windows of
one length, the common case, need neither padding nor mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cpu_kernels import attention


@dataclass(frozen=True)
class Group:
    """Windows of similar length, `count` of them, padded to `longest`."""

    count: int
    longest: int
    rows: Tensor  # (count * longest,) places in the packed sequence; padding repeats the window's first
    real: Tensor | None  # (count * longest,) False at padding; None when there is none


@dataclass(frozen=True)
class WindowPlan:
    """How a packed sequence falls into windows. `order` puts the groups' tokens back in sequence; None: they are."""

    groups: tuple[Group, ...]
    order: Tensor | None


def plan_windows(lengths: Sequence[int], device: torch.device | str = "cpu") -> WindowPlan:
    """Plan for consecutive windows of these lengths in a sequence of sum(lengths) tokens. Zeros are allowed."""
    sizes = torch.tensor([n for n in lengths if n > 0], dtype=torch.long)
    starts = sizes.cumsum(0) - sizes
    by_size: dict[int, list[int]] = {}
    for i, size in enumerate(sizes.tolist()):
        by_size.setdefault((size - 1).bit_length(), []).append(i)
    groups, order = [], []
    for members in by_size.values():
        size, start = sizes[members][:, None], starts[members][:, None]
        longest = int(size.max())
        offset = torch.arange(longest)
        real = offset < size  # (count, longest)
        rows = start + offset * real
        order.append(rows[real])
        padded = None if bool(real.all()) else real.flatten().to(device)
        groups.append(Group(len(members), longest, rows.flatten().to(device), padded))
    if len(groups) <= 1:
        return WindowPlan(tuple(groups), None)
    return WindowPlan(tuple(groups), torch.cat(order).argsort().to(device))


def window_attention(query: Tensor, key: Tensor, value: Tensor, plan: WindowPlan) -> Tensor:
    """Bidirectional attention within each window: three (tokens, heads, head_dim) -> (tokens, heads * head_dim)."""
    tokens, heads, head_dim = query.shape
    done = []
    for group in plan.groups:
        whole = plan.order is None and group.real is None  # already a (count, longest) grid
        shape = (group.count, group.longest, heads, head_dim)
        q, k, v = (
            (x if whole else x.index_select(0, group.rows)).view(shape).transpose(1, 2) for x in (query, key, value)
        )  # (count, heads, longest, head_dim)
        bias = None
        if group.real is not None:
            bias = torch.zeros(group.count, 1, 1, group.longest, dtype=q.dtype, device=q.device)
            bias.masked_fill_(~group.real.view(bias.shape), -math.inf)
        out = attention(q, k, v, bias)
        out = out.transpose(1, 2).reshape(-1, heads * head_dim)  # (count * longest, heads * head_dim)
        done.append(out if group.real is None else out[group.real])
    out = torch.cat(done) if len(done) != 1 else done[0]
    return out if plan.order is None else out.index_select(0, plan.order)
