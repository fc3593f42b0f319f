"""One command over all GPU benchmarks: it ends in time, keeps what it has after each part, and goes on."""

import json
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks import gpu_session as benchmark
from benchmarks.gpu_session import Part
from tests.pretend_card import L4, T4, pretend_card

QUICK = """
import sys, pathlib
folder = pathlib.Path(sys.argv[1])
(folder / "quick.md").write_text("# Quick\\n")
print("it ran")
"""
# Keeps a line a call, needs two; hangs in a child process of its own the first time.
SLOW = """
import os, subprocess, sys, pathlib, tempfile
folder = pathlib.Path(sys.argv[1])
if (folder / "begun.txt").exists():
    (folder / "slow.md").write_text("# Slow\\n")
else:
    tempfile.mkdtemp()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / "begun.txt").write_text(f"{child.pid} {tempfile.gettempdir()}")
    child.wait()
"""


@pytest.fixture()
def session(monkeypatch, tmp_path: Path) -> Callable:
    """Run the command with two parts of the test's own; returns how it ended."""
    for name, text in (("quick_part", QUICK), ("slow_part", SLOW)):
        (tmp_path / f"{name}.py").write_text(text)
    parts = {
        "published": Part("quick_part OUT", ("quick.md",), 1),
        "memory": Part("slow_part OUT", ("slow.md",), 1),
    }
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(benchmark, "PARTS", parts)

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["gpu_session", "--out", str(tmp_path / "gpu"), *words])
        try:
            benchmark.main()
        except SystemExit as end:
            return str(end.code)
        return ""

    return run


@pytest.fixture()
def left(monkeypatch) -> list[float]:
    """Seconds that each next part has, whatever the test run has taken so far: at first two minutes."""
    seconds: list[float] = []
    monkeypatch.setattr(benchmark, "seconds_left", lambda minutes: seconds.pop(0) if seconds else 120)
    return seconds


def test_the_clock_runs_since_the_process_was_started() -> None:
    """Imports take part of the ten minutes after which a command may be killed, and so does writing."""
    old = time.time() - psutil.Process().create_time()
    assert old > 1  # torch was imported
    assert benchmark.seconds_left(9) == pytest.approx(9 * 60 - 30 - old, abs=2)


def test_by_default_it_leaves_a_minute_of_ten(session, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(benchmark, "seconds_left", lambda minutes: asked.append(minutes) or 0)
    with pretend_card(T4):
        assert "not yet measured: published, memory" in session()
    assert asked == [9, 9]


def test_a_part_that_was_cut_short_leaves_all_else_and_is_gone_on_with(session, left, capfd, tmp_path) -> None:
    left += [120, 5]
    with pretend_card(T4):
        assert "not yet measured: memory" in session()
    record = json.loads((tmp_path / "gpu" / "gpu_session.json").read_text())
    assert {name: part["state"] for name, part in record.items()} == {"published": "done", "memory": "cut short"}
    child, scratch = (tmp_path / "gpu" / "begun.txt").read_text().split()
    assert not psutil.pid_exists(int(child)) or psutil.Process(int(child)).status() == psutil.STATUS_ZOMBIE
    assert not Path(scratch).exists()  # checkpoints of what was stopped would fill the disk
    with pretend_card(T4):
        assert session() == ""
    assert "published: done before" in capfd.readouterr().out
    record = json.loads((tmp_path / "gpu" / "gpu_session.json").read_text())
    assert {part["state"] for part in record.values()} == {"done"}


def test_the_archive_has_everything_after_each_part(session, left, monkeypatch, tmp_path) -> None:
    packed: list[set[str]] = []
    before = benchmark.pack

    def pack(files: object, folder: str, archive: Path) -> None:
        before(files, folder, archive)
        with tarfile.open(archive) as made:
            packed.append(set(made.getnames()))

    monkeypatch.setattr(benchmark, "pack", pack)
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "begun.txt").write_text("")  # the slow part ends at once
    with pretend_card(T4):
        assert session() == ""
    first = {"gpu/gpu_session.json", "gpu/gpu_session.md", "gpu/quick.md", "gpu/published.log"}
    assert packed[0] == first and packed[-1] == first | {"gpu/slow.md", "gpu/memory.log"}
    with tarfile.open(tmp_path / "gpu_session.tar.gz") as made:
        assert made.extractfile("gpu/published.log").read() == b"it ran\n"
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]  # nothing half written


def test_what_was_done_is_done_for_one_card(session, left, capfd, tmp_path) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "begun.txt").write_text("")
    with pretend_card(T4):
        assert session() == ""
        capfd.readouterr()
        assert session() == ""
        assert capfd.readouterr().out.count("done before") == 2
    with pretend_card(L4):
        assert session() == ""
        assert "done before" not in capfd.readouterr().out
