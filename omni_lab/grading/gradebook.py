"""From the store to what people read: CSV, JSON, one page of feedback each, and imports for Canvas and Moodle.

Names, messages and sources come from submissions: in HTML all of it is escaped and nothing else is allowed to load,
in CSV a cell that a spreadsheet would take for a formula is quoted.
"""

import csv
import hashlib
import html
import io
import json
import math
import re
from pathlib import Path

from ..errors import InputError
from .store import write_whole

BY_HAND = "by_hand.json"  # beside the gradebook: what the last report was told
PAGE_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;width:100%}}td,th{{border:1px solid #bbb;padding:.3rem .6rem;text-align:left;
vertical-align:top}}pre{{background:#f4f4f4;padding:.6rem;overflow-x:auto;white-space:pre-wrap}}</style></head><body>
"""


def book_of(records: dict[str, dict], manual: dict[str, dict] | None = None, per_day: float = 0.0) -> dict:
    """{submission: {"points", "max_points", "exercises", ...}}, by name.

    manual: what `read_manual` gives. per_day: share of the points lost for each day of lateness (0.1: ten per cent)."""
    book = {}
    for name in sorted(records):
        record, changes = records[name], (manual or {}).get(name, {})
        exercises = {identifier: dict(entry) for identifier, entry in record["exercises"].items()}
        for identifier, (points, comment) in changes.get("exercises", {}).items():
            if identifier not in exercises:
                raise InputError(f"manual points for {name}: there is no exercise {identifier!r}")
            if points is not None:
                exercises[identifier]["points"] = points
            exercises[identifier]["comment"] = comment
        given = [entry["points"] for entry in exercises.values()]
        points = None if None in given else round(sum(given) + changes.get("extra", 0.0), 2)
        days = changes.get("days_late", 1.0 if record["late"] else 0.0)
        entry = {
            "points": points,
            "max_points": sum(e["max_points"] for e in exercises.values()),
            "exercises": exercises,
        }
        if days and per_day and points is not None:
            entry["points"] = round(points * max(0.0, 1.0 - per_day * days), 2)
            entry["late"] = f"{days:g} days late: {points:g} points before the deduction"
        if changes.get("comment"):
            entry["comment"] = changes["comment"]
        book[name] = entry
    return book


def write_gradebook(
    out: Path, run: dict, records: dict[str, dict], manual: dict[str, dict] | None = None, per_day: float = 0.0
) -> dict:
    """Write gradebook.json, gradebook.csv, canvas.csv, moodle.csv and feedback/*.html under `out`; return the book."""
    book = book_of(records, manual, per_day)
    text = json.dumps(book, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
    write_whole(out / "gradebook.json", text.encode())
    write_whole(out / "gradebook.csv", gradebook_csv(book))
    write_whole(out / "canvas.csv", canvas_csv(book, records, run["lab"]))
    write_whole(out / "moodle.csv", moodle_csv(book, records))
    for name, entry in book.items():
        page = feedback_page(name, entry, records[name], run["lab"])
        write_whole(out / "feedback" / feedback_name(name), page.encode("utf-8", "replace"))
    return book


def keep_by_hand(out: Path, manual: dict[str, dict], per_day: float) -> None:
    """Keep what a report was told, so that the next grading does not forget it."""
    text = json.dumps({"manual": manual, "late_per_day": per_day}, indent=1, sort_keys=True) + "\n"
    write_whole(out / BY_HAND, text.encode())


def kept_by_hand(out: Path) -> tuple[dict[str, dict], float]:
    """(points and comments given by hand, share lost a day) of the last report; nothing where there was none."""
    if not (out / BY_HAND).is_file():
        return {}, 0.0
    kept = json.loads((out / BY_HAND).read_bytes())
    return kept["manual"], kept["late_per_day"]


def gradebook_csv(book: dict) -> bytes:
    """One line a submission: total, then points and status of each exercise."""
    identifiers = list(dict.fromkeys(identifier for entry in book.values() for identifier in entry["exercises"]))
    columns = [column for identifier in identifiers for column in (identifier, f"{identifier} status")]
    rows: list[list[object]] = [["submission", "points", "max_points", *columns]]
    for name, entry in book.items():
        row: list[object] = [name, _number(entry["points"]), _number(entry["max_points"])]
        for identifier in identifiers:
            exercise = entry["exercises"].get(identifier, {"points": None, "status": ""})
            row += [_number(exercise["points"]), exercise["status"]]
        rows.append(row)
    return _csv(rows)


def canvas_csv(book: dict, records: dict[str, dict], lab: str) -> bytes:
    """What Canvas's gradebook imports: students by id, SIS id or login, then the assignment with its possible points.
    An ungraded line is left empty, which changes nothing there."""
    most = _number(max((entry["max_points"] for entry in book.values()), default=0.0))
    rows: list[list[object]] = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", lab]]
    rows.append(["    Points Possible", "", "", "", "", most])
    for name, entry in book.items():
        record = records[name]
        rows.append([name, record["platform_id"], record["student_id"], record["email"], "", _number(entry["points"])])
    return _csv(rows)


def moodle_csv(book: dict, records: dict[str, dict]) -> bytes:
    """What Moodle imports: as an assignment's offline grading worksheet by its Identifier, or into the gradebook by id
    number or address."""
    columns = ["Identifier", "Full name", "ID number", "Email address", "Grade", "Maximum Grade", "Feedback comments"]
    rows: list[list[object]] = [[*columns]]
    for name, entry in book.items():
        record = records[name]
        identifier = f"Participant {record['platform_id']}" if record["platform_id"] else ""
        told = "; ".join(f"{i}: {e['message']}" for i, e in entry["exercises"].items() if e["status"] != "ok")
        rows.append([identifier, name, record["student_id"], record["email"], _number(entry["points"]),
                     _number(entry["max_points"]), html.escape(told)])  # fmt: skip
    return _csv(rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _csv(rows: list[list[object]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([[_harmless(str(cell)) for cell in row] for row in rows])
    return buffer.getvalue().encode("utf-8", "replace")


def _harmless(cell: str) -> str:
    formula = cell[:1] in ("=", "+", "-", "@", "\t") and not re.fullmatch(r"-?\d+(\.\d+)?", cell)
    return f"'{cell}" if formula else cell


def feedback_name(name: str) -> str:
    """A file name for any submission's name: its plain letters, and a hash that keeps equals apart."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60]
    return f"{plain or 'submission'}-{hashlib.sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}.html"


def feedback_page(name: str, entry: dict, record: dict, lab: str) -> str:
    """One student's page: points, what happened in each exercise, remarks, and the code that was graded."""
    safe = html.escape
    rows = ""
    for identifier, exercise in entry["exercises"].items():
        points = f"{_number(exercise['points']) or 'not graded'} of {_number(exercise['max_points'])}"
        comment = f"<p>{safe(exercise['comment'])}</p>" if exercise.get("comment") else ""
        rows += (f"<tr><td>{safe(identifier)}</td><td>{points}</td><td>{safe(exercise['status'])}</td>"
                 f"<td>{safe(exercise['message'])}{comment}</td></tr>\n")  # fmt: skip
    remarks = [*record["notes"], *(entry[key] for key in ("late", "comment") if entry.get(key))]
    listed = "".join(f"<li>{safe(remark)}</li>" for remark in remarks)
    code = "".join(f"<h3>{safe(i)}</h3><pre>{safe(text[:20_000])}</pre>\n" for i, text in record["sources"].items())
    total = f"{_number(entry['points']) or 'not graded'} of {_number(entry['max_points'])} points"
    parts = [
        PAGE_HEAD.format(title=safe(f"{lab}: {name}")),
        f"<h1>{safe(name)}</h1>\n<p>Lab {safe(lab)}: <b>{total}</b></p>\n",
        f"<table><tr><th>exercise</th><th>points</th><th>status</th><th>what happened</th></tr>\n{rows}</table>\n",
        f"<h2>Remarks</h2><ul>{listed}</ul>\n" if listed else "",
        f"<h2>The code that was graded</h2>\n{code}</body></html>\n",
    ]
    return "".join(parts)


def read_manual(path: Path) -> dict[str, dict]:
    """Points and comments given by hand: a CSV with the column `submission` and any of `exercise`, `points`,
    `comment`, `days_late`. A line with an exercise replaces its points, one without adds to the total. Raises
    InputError."""
    changes: dict[str, dict] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            mine = changes.setdefault(row["submission"], {"exercises": {}})
            points = _finite(row["points"]) if row.get("points") else None
            if row.get("exercise"):
                mine["exercises"][row["exercise"]] = (points, row.get("comment") or "")
            else:
                mine["extra"] = mine.get("extra", 0.0) + (points or 0.0)
                mine["comment"] = row.get("comment") or mine.get("comment", "")
            if row.get("days_late"):
                mine["days_late"] = _finite(row["days_late"])
    except KeyError:
        raise InputError(f"{path}: needs a column `submission`") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({error})") from None
    return changes


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no number of points or days")
    return value
