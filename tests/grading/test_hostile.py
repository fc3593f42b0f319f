"""The hostile set: the right points each, nothing left behind, and the run ends."""

import json
import os
from pathlib import Path

import pytest

from tests.grading.conftest import EXERCISES, HOSTILE, HostileRun

pytestmark = pytest.mark.timeout(1800)  # the first to ask waits for the whole set


def test_the_set_is_large_enough() -> None:
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("name", HOSTILE)
def test_right_points(name: str, hostile_run: HostileRun) -> None:
    """No unearned point, no lost earned one."""
    expected = HOSTILE[name]
    exercises = hostile_run.book[name]["exercises"]
    told = {identifier: (e["status"], e["message"]) for identifier, e in exercises.items()}
    assert tuple(exercises[identifier]["points"] for identifier in EXERCISES) == expected.points, told
    assert hostile_run.book[name]["points"] == sum(expected.points)
    if expected.statuses:
        assert tuple(exercises[identifier]["status"] for identifier in EXERCISES) == expected.statuses, told


def test_everybody_is_in_the_gradebook(hostile_run: HostileRun) -> None:
    assert set(hostile_run.book) == set(HOSTILE)
    assert (hostile_run.out / "gradebook.csv").read_text().count("\n") == len(HOSTILE) + 1


def test_nothing_left_running(hostile_run: HostileRun) -> None:
    assert hostile_run.left_running == []


def test_nobody_reached_the_network(hostile_run: HostileRun) -> None:
    assert hostile_run.connections == []


def test_nothing_leaked(hostile_run: HostileRun) -> None:
    """An attack that reaches a file, a variable or a socket which is not its own says LEAK; nothing did."""
    texts = [path.read_text() for path in (hostile_run.out / "answers").iterdir()]
    assert len(texts) == len(HOSTILE)
    ours = [text for text in texts if "LEAK" in text or "CANARY" in text]
    assert ours == []


def test_nothing_written_outside(hostile_run: HostileRun, course: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for place in (
        root,
        course,
        course.parent,
        course / "solutions",
        Path("/"),
        Path("/tmp"),
        Path("/var"),
        Path("/etc"),
    ):
        assert not [name for name in os.listdir(place) if name.startswith(("escaped", "fill0", "pickled"))], place
    assert sorted(os.listdir(course.parent)) == ["course", "grades", "submissions"]


def test_feedback_is_escaped(hostile_run: HostileRun) -> None:
    pages = list((hostile_run.out / "feedback").iterdir())
    assert len(pages) == len(HOSTILE)
    for page in pages:
        text = page.read_text()
        assert "<script" not in text and "onerror=alert" not in text.replace("&lt;img src=x onerror=alert", "")
        assert "\x1b" not in text and page.name.isascii()
    assert "\n'=cmd()" in (hostile_run.out / "gradebook.csv").read_text()


def test_messages_name_the_mistake(hostile_run: HostileRun) -> None:
    assert "Square before you average" in hostile_run.book["partial"]["exercises"]["toy.mean_square"]["message"]
    table = json.loads((hostile_run.out / "gradebook.json").read_text())
    assert table == hostile_run.book
