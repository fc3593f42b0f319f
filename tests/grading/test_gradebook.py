"""Gradebooks for people and platforms, from records alone."""

import contextlib
import csv
import json
from pathlib import Path

import pytest

from omni_lab.errors import InputError
from omni_lab.grading.gradebook import book_of, read_manual, write_gradebook
from omni_lab.grading.report import write_report
from omni_lab.grading.store import Store


def record(name: str, points: float | None, **more: object) -> dict:
    status = "ok" if points == 10.0 else "infrastructure" if points is None else "wrong"
    entry = {"points": points, "max_points": 10.0, "status": status, "message": "2 of 5 <b>cases</b>"}
    return {"submission": name, "exercises": {"toy.double": entry}, "late": False, "platform_id": "", "student_id": "",
            "email": "", "notes": [], "sources": {}, **more}  # fmt: skip


RECORDS = {
    "Ada": record("Ada", 10.0, platform_id="12", student_id="s7", email="ada@example.org"),
    "=Bob": record("=Bob", 4.0, late=True),
    "Cy": record("Cy", None),
}


def rows(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_canvas_and_moodle_formats(tmp_path: Path) -> None:
    write_gradebook(tmp_path, {"lab": "90_toy"}, RECORDS)
    canvas = rows(tmp_path / "canvas.csv")
    assert canvas[0] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "90_toy"]
    assert canvas[1] == ["    Points Possible", "", "", "", "", "10"]
    assert ["Ada", "12", "s7", "ada@example.org", "", "10"] in canvas
    assert ["'=Bob", "", "", "", "", "4"] in canvas  # never a formula
    assert ["Cy", "", "", "", "", ""] in canvas  # not graded is not zero
    moodle = rows(tmp_path / "moodle.csv")
    assert moodle[0][:5] == ["Identifier", "Full name", "ID number", "Email address", "Grade"]
    assert ["Participant 12", "Ada", "s7", "ada@example.org", "10", "10", ""] in moodle
    (bob,) = [row for row in moodle if row[1] == "'=Bob"]
    assert bob[4:] == ["4", "10", "toy.double: 2 of 5 &lt;b&gt;cases&lt;/b&gt;"]


def test_late_policy(tmp_path: Path) -> None:
    """A platform's LATE mark is one day unless the instructor says otherwise; never below zero, never without rate."""
    assert book_of(RECORDS)["=Bob"]["points"] == 4.0
    late = book_of(RECORDS, per_day=0.25)
    assert (late["Ada"]["points"], late["=Bob"]["points"], late["Cy"]["points"]) == (10.0, 3.0, None)
    assert late["=Bob"]["late"] == "1 days late: 4 points before the deduction"
    manual = tmp_path / "manual.csv"
    manual.write_text("submission,days_late\n=Bob,0\nAda,9\n")
    excused = book_of(RECORDS, read_manual(manual), per_day=0.25)
    assert (excused["=Bob"]["points"], excused["Ada"]["points"]) == (4.0, 0.0)


def test_manual_points_and_comments(tmp_path: Path) -> None:
    manual = tmp_path / "manual.csv"
    manual.write_text(
        "submission,exercise,points,comment\nCy,toy.double,7.5,by hand\nAda,,2,extra <i>idea</i>\nAda,,1,\n"
    )
    book = write_gradebook(tmp_path, {"lab": "90_toy"}, RECORDS, read_manual(manual))
    assert (book["Cy"]["points"], book["Ada"]["points"]) == (7.5, 13.0)
    assert book["Cy"]["exercises"]["toy.double"]["comment"] == "by hand"
    page = next((tmp_path / "feedback").glob("Ada-*.html")).read_text()
    assert "extra &lt;i&gt;idea&lt;/i&gt;" in page
    assert json.loads((tmp_path / "gradebook.json").read_text()) == book
    manual.write_text("submission,exercise,points\nAda,toy.absent,1\n")
    with pytest.raises(InputError, match="no exercise 'toy.absent'"):
        book_of(RECORDS, read_manual(manual))
    manual.write_text("name,points\nAda,1\n")
    with pytest.raises(InputError, match="column `submission`"):
        read_manual(manual)


COPY = """def mean_square(values):
    total = 0.0
    for value in values:
        total += value ** 2
    return float(total / max(len(values), 1))"""


def test_the_class_page_shows_mistakes_and_who_is_alike(course: Path, tmp_path: Path) -> None:
    renamed = COPY.replace("total", "s").replace("value ", "x ").replace("value in values", "x in values")
    sources = {"ann": COPY, "bob": renamed, "dee": "def mean_square(values):\n    return 0.5"}
    with contextlib.closing(Store(tmp_path / "store.jsonl", {"lab": "90_toy", "seed": 1})) as store:
        for name, source in sources.items():
            message = '3 of 5 cases. "4 numbers": got 2.31, expected 0.94. Square before you average.'
            entry = {"points": 6.0, "max_points": 10.0, "status": "wrong", "message": message}
            store.add(record(name, 4.0, exercises={"toy.mean_square": entry}, sources={"toy.mean_square": source}))
    book, page = write_report(tmp_path, course)
    text = page.read_text()
    assert len(book) == 3 and "<script" not in text and text.count("<svg") == 2
    assert "<td>3</td><td>got #, expected #. Square before you average.</td>" in text
    rows = [line for line in text.splitlines() if "<td>toy.mean_square</td><td>" in line]
    assert any("<td>ann</td><td>bob</td>" in row for row in rows)
    assert not any("dee" in row for row in rows)
