"""One course with a toy lab, and one graded run over the whole hostile set, shared by the tests of this folder."""

import os
import shutil
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from omni_lab.grading.grade import Settings, grade
from omni_lab.grading.processes import process_tree
from omni_lab.grading.sandbox import Limits, user_ids
from tests.grading.hostile import endings, exhausting, files, forging, honest
from tests.grading.hostile.make import Expected

HOSTILE: dict[str, Expected] = {
    **honest.SUBMISSIONS, **endings.SUBMISSIONS, **forging.SUBMISSIONS, **exhausting.SUBMISSIONS, **files.SUBMISSIONS,
}  # fmt: skip
SEED = 20250326
LIMITS = Limits(
    cell_seconds=4.0, case_seconds=1.0, total_seconds=300.0, memory=1280 << 20, processes=96, file_size=32 << 20,
    scratch=64 << 20,
)  # fmt: skip
EXERCISES = ("toy.double", "toy.mean_square", "toy.running_total")


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instructor's course: the real package, and solutions of the toy lab only."""
    root = tmp_path_factory.mktemp("grading") / "course"
    shutil.copytree(Path(__file__).parent / "course", root)
    (root / "omni_lab").symlink_to(Path(__file__).resolve().parents[2] / "omni_lab")
    return root


def write_submission(folder: Path, name: str, expected: Expected) -> None:
    """Put one submission of the set into a folder."""
    path = folder / f"{name}.ipynb"
    if isinstance(expected.make, bytes):
        path.write_bytes(expected.make)
    else:
        expected.make(path)


@dataclass
class HostileRun:
    """The hostile set, graded, and what was seen around it."""

    folder: Path
    out: Path
    book: dict
    connections: list = field(default_factory=list)
    left_running: list = field(default_factory=list)


def owner_of(pid: int) -> int:
    """User id of a process; -1 if it has ended."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def command_lines() -> dict[int, str]:
    """Processes by id, with their command lines."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(name)] = (
                Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            )
        except OSError:
            continue
    return found


@pytest.fixture(scope="session")
def hostile_run(course: Path, tmp_path_factory: pytest.TempPathFactory) -> HostileRun:
    """Grade the whole set, two at a time, with a listener on loopback and a secret in the grader's environment."""
    folder = course.parent / "submissions"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        abstract.bind(f"\0omni-lab-test-{port}")
        abstract.listen()
        seen: list = []
        for listener in (server, abstract):
            threading.Thread(target=_accept, args=(listener, seen), daemon=True).start()
        for name, expected in HOSTILE.items():
            write_submission(folder, name, expected)
        network = folder / "network-and-background-daemons.ipynb"
        network.write_bytes(network.read_bytes().replace(b"@PORT@", str(port).encode()))
        os.environ["OMNI_LAB_TEST_SECRET"] = "CANARY-ENVIRONMENT"
        try:
            out = course.parent / "grades"
            book = grade(folder, Settings(course, "90", out, workers=2, limits=LIMITS, seed=SEED), progress=False)
        finally:
            del os.environ["OMNI_LAB_TEST_SECRET"]
            abstract.close()
    lines, ours = command_lines(), set(process_tree(os.getpid()))
    # Another grader may be at work on this machine: ours are our descendants, our user ids, and the daemons' mark.
    suspects = [
        line
        for pid, line in lines.items()
        if "sleep(7777)" in line or "sleep 7777" in line or (pid in ours and "/grader/" in line)
        or owner_of(pid) in user_ids(os.getpid())
    ]  # fmt: skip
    return HostileRun(folder, out, book, seen, suspects)


def _accept(listener: socket.socket, seen: list) -> None:
    try:
        while True:
            seen.append(listener.accept()[1])
    except OSError:
        return
