"""The account as a picture: which part worked when, and when sound came."""

from typing import Any

from .account import STAGES, Account

COLOURS = ("#999999", "#0072B2", "#56B4E9", "#F0E442", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito: for all eyes


def draw(account: Account, axis: Any, until: float | None = None) -> str:
    """Draw the timeline on a matplotlib axis, in milliseconds up to `until` (seconds; default: the end).

    Returns alt text: what the picture shows, in words."""
    end = max((stop for _, _, stop in account.spans), default=0.0)
    until = end if until is None else min(until, end)
    present = [stage for stage in STAGES if account.spent(stage)]
    for row, stage in enumerate(present):
        bars = [(1000 * a, 1000 * (b - a)) for name, a, b in account.spans if name == stage and a < until]
        axis.broken_barh(bars, (row - 0.4, 0.8), color=COLOURS[STAGES.index(stage)])
    for ready, _ in account.chunks:
        if ready <= until:
            axis.axvline(1000 * ready, color="black", linewidth=0.8, linestyle=":")
    axis.set_yticks(range(len(present)), present)
    axis.invert_yaxis()
    axis.set_xlim(0, 1000 * until)
    axis.set_xlabel("ms since the end of the question; dotted: a chunk of sound is ready")
    parts = ", ".join(f"{stage} {1000 * account.spent(stage):.0f} ms" for stage in present)
    first = account.marks.get("first sound")
    sound = f"; the first sound comes after {1000 * first:.0f} ms" if first is not None else ""
    return f"Timeline of a reply, one row a part: {parts}{sound}."
