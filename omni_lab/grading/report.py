"""The class on one page, from the store alone: which exercise, which mistake, and whose answers are alike."""

import ast
import html
import re
from collections import Counter
from pathlib import Path

from ..errors import InputError
from ..lab.authoring import exercise_id
from .gradebook import PAGE_HEAD, keep_by_hand, read_manual, write_gradebook
from .hidden import find_lab
from .similarity import alike
from .store import read_store, write_whole
from .verdicts import STATUSES

# Safe for the colour-blind (Okabe and Ito), one a status.
COLOURS = dict(zip(STATUSES, ("#009E73", "#E69F00", "#D55E00", "#CC79A7", "#882255", "#BBBBBB", "#56B4E9", "#000000"),
                   strict=True))  # fmt: skip


def write_report(out: Path, root: Path, manual: Path | None = None, late_per_day: float = 0.0) -> tuple[dict, Path]:
    """Write the gradebook again, with points given by hand and lateness, and `class.html`; (the book, the page). Later
    gradings go by the same points and lateness, until another report is written."""
    run, records = read_store(out / "store.jsonl")
    changes = read_manual(manual) if manual else {}
    unknown = sorted(set(changes) - set(records))
    if unknown:
        raise InputError(f"{manual}: {unknown[0]!r} is not in the gradebook")
    book = write_gradebook(out, run, records, changes, late_per_day)
    keep_by_hand(out, changes, late_per_day)
    sources = {name: record["sources"] for name, record in records.items()}
    pairs = alike(sources, reference_sources(find_lab(root, run["lab"])))
    write_whole(out / "class.html", class_page(run["lab"], book, pairs).encode("utf-8", "replace"))
    return book, out / "class.html"


def reference_sources(source: Path) -> dict[str, str]:
    """The reference's functions as text, by exercise id."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return {identifier: ast.unparse(node) for node in tree.body if (identifier := exercise_id(node)) is not None}


def statistics(book: dict) -> dict[str, dict]:
    """{exercise: {"mean", "max_points", "statuses": Counter, "mistakes": Counter}}."""
    table: dict[str, dict] = {}
    for entry in book.values():
        for identifier, exercise in entry["exercises"].items():
            row = table.setdefault(identifier, {"points": [], "max_points": exercise["max_points"],
                                                "statuses": Counter(), "mistakes": Counter()})  # fmt: skip
            row["statuses"][exercise["status"]] += 1
            if exercise["points"] is not None:
                row["points"].append(exercise["points"])
            if exercise["status"] not in ("ok", "missing"):
                row["mistakes"][mistake_of(exercise["message"])] += 1
    for row in table.values():
        points = row.pop("points")
        row["mean"] = sum(points) / len(points) if points else 0.0
    return table


def mistake_of(message: str) -> str:
    """A message without what differs from student to student: the count of cases, the case's name and its numbers."""
    known = re.sub(r'^\d+ of \d+ cases\.\s*("[^"]*":\s*)?', "", message)
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "#", known)[:160] or "no message"


def class_page(lab: str, book: dict, pairs: list[tuple]) -> str:
    """One page of HTML without scripts; every text from a submission escaped."""
    safe = html.escape
    totals = [entry["points"] for entry in book.values() if entry["points"] is not None]
    most = max((entry["max_points"] for entry in book.values()), default=0.0)
    parts = [PAGE_HEAD.format(title=safe(f"{lab}: the class")), f"<h1>Lab {safe(lab)}: {len(book)} submissions</h1>\n",
             histogram(totals, most)]  # fmt: skip
    for identifier, row in statistics(book).items():
        parts.append(f"<h2>{safe(identifier)}: mean {row['mean']:.2f} of {row['max_points']:g}</h2>\n")
        parts.append(status_bar(identifier, row["statuses"]))
        listed = "".join(
            f"<tr><td>{n}</td><td>{safe(words)}</td></tr>\n" for words, n in row["mistakes"].most_common(8)
        )
        parts.append(
            f"<table><tr><th>how often</th><th>what went wrong</th></tr>\n{listed}</table>\n" if listed else ""
        )
    rows = "".join(f"<tr><td>{share:.0%}</td><td>{safe(e)}</td><td>{safe(a)}</td><td>{safe(b)}</td></tr>\n"
                   for share, e, a, b in pairs[:200])  # fmt: skip
    parts.append("<h2>Answers that are alike</h2>\n<p>By syntax tree; names and layout do not count.</p>\n")
    parts.append(f"<table><tr><th>alike</th><th>exercise</th><th>one</th><th>other</th></tr>\n{rows}</table>\n")
    return "".join(parts) + "</body></html>\n"


def histogram(totals: list[float], most: float, bins: int = 10) -> str:
    """Distribution of the totals as a picture that needs no script."""
    counts = [0] * bins
    for total in totals:
        counts[min(bins - 1, int(bins * total / most)) if most else 0] += 1
    top = max(counts, default=0) or 1
    bars = "".join(
        f'<rect x="{40 * i + 2}" y="{100 - 100 * n / top:.1f}" width="36" height="{100 * n / top:.1f}" fill="#0072B2"/>'
        f'<text x="{40 * i + 20}" y="114" font-size="9" text-anchor="middle">{most * i / bins:g}</text>'
        for i, n in enumerate(counts)
    )
    words = ", ".join(f"{n} from {most * i / bins:g}" for i, n in enumerate(counts) if n)
    return (f'<svg role="img" viewBox="0 -4 {40 * bins} 124" width="640"><title>Submissions by points: '
            f"{html.escape(words)}</title>{bars}</svg>\n")  # fmt: skip


def status_bar(identifier: str, statuses: Counter) -> str:
    """Shares of the statuses as one bar, with its legend in words."""
    whole, left, bars = sum(statuses.values()) or 1, 0.0, ""
    for status in STATUSES:
        width = 640 * statuses[status] / whole
        bars += (
            f'<rect x="{left:.1f}" y="0" width="{width:.1f}" height="18" fill="{COLOURS[status]}"/>' if width else ""
        )
        left += width
    words = ", ".join(f"{statuses[s]} {s}" for s in STATUSES if statuses[s])
    return (f'<svg role="img" viewBox="0 0 640 18" width="640"><title>{html.escape(identifier)}: {words}</title>{bars}'
            f"</svg><p>{words}</p>\n")  # fmt: skip
