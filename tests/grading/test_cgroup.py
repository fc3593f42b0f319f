"""Control groups, on the machine's own hierarchy where this user may write to it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omni_lab.grading import cgroup, sandbox
from omni_lab.grading.execution import Room, run_submission
from omni_lab.grading.grade import Settings, open_room
from omni_lab.grading.hidden import draw, find_lab
from omni_lab.grading.sanitise import sanitise
from tests.grading.conftest import LIMITS, SEED
from tests.grading.hostile.make import ALL, IMPORTS, notebook

V1 = "30 23 0:26 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids"
V2 = "31 23 0:27 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def test_the_hierarchy_is_found_by_its_type() -> None:
    assert cgroup.mounted(f"{V1}\n{V2}\n") == Path("/sys/fs/cgroup/unified")
    assert cgroup.mounted(V1) is None


def test_a_group_counts_and_ends_all_that_joined_it() -> None:
    """A daemon that has left its session and its parent is still a member, and ends with the group."""
    with cgroup.group(1 << 30, 64) as own:
        if own is None:  # no version 2 hierarchy that this user may write to: the grader then says so by None
            assert cgroup.find_parent() is None
            return
        daemon = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(7777)"
        subprocess.run([*own.joining(), sys.executable, "-c", f"sum(range(10**6))\n{daemon}"], check=True)
        (left,) = own.processes()
        assert own.cpu_seconds() > 0.0
        assert not own.out_of_memory()
    assert not own.path.exists()
    assert not Path(f"/proc/{left}").exists() or "zombie" in Path(f"/proc/{left}/status").read_text()


def test_limits_go_to_the_controllers_that_are_there() -> None:
    with cgroup.group(123 << 20, 45) as own:
        if own is None:
            assert cgroup.find_parent() is None
            return
        enabled = (own.path / "cgroup.controllers").read_text().split()
        for controller, name, value in (("memory", "memory.max", 123 << 20), ("pids", "pids.max", 45)):
            assert (own.path / name).exists() == (controller in enabled)
            assert controller not in enabled or int((own.path / name).read_text()) == value


def test_controllers_are_handed_down_where_the_machine_has_them() -> None:
    parent = cgroup.find_parent()
    if parent is None:
        return
    available = (parent / "cgroup.controllers").read_text().split()
    with cgroup.group(1 << 30, 64) as own:
        assert own is not None
        below = (own.path / "cgroup.controllers").read_text().split()
        wanted = tuple(below or ("memory",))
        assert cgroup.hand_down(own.path, wanted) == [name for name in wanted if name in below]
    assert set(below) <= set(available)


def test_groups_of_a_killed_grader_are_swept() -> None:
    parent = cgroup.find_parent()
    if parent is None:
        return
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = parent / f"omni-lab-{ended.pid}-0"
    stale.mkdir()
    with cgroup.group(1 << 30, 64) as mine:
        orphan = subprocess.Popen([*cgroup.Group(stale).joining(), "/bin/sleep", "7777"])
        while not cgroup.Group(stale).processes():
            time.sleep(0.01)
        cgroup.sweep(parent)
        assert orphan.wait(timeout=10) == -9
        assert not stale.exists() and mine is not None and mine.path.exists()


def test_graders_that_sweep_at_once_do_not_disturb_one_another() -> None:
    """Each finds groups of a dead grader that another one is just removing."""
    if cgroup.find_parent() is None:
        return
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    code = (
        "import contextlib; from omni_lab.grading import cgroup\n"
        "parent = cgroup.find_parent()\n"
        "for number in range(300):\n"
        "    with contextlib.suppress(FileExistsError):\n"  # `exist_ok` raises it where a sweep has just removed it
        f"        (parent / f'omni-lab-{dead.pid}-{{number}}').mkdir()\n"
        "    cgroup.sweep(parent)\n"
    )
    graders = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    for grader in graders:
        _, complaint = grader.communicate(timeout=120)
        assert grader.returncode == 0, complaint.decode()


@pytest.mark.timeout(600)
def test_without_groups_rlimits_and_the_watch_do_it(
    course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no group can be made, a fork bomb and a memory bomb still end, and right answers keep their points."""
    monkeypatch.setattr(cgroup, "find_parent", lambda: None)
    source = find_lab(course, "90")
    hidden = draw(source, SEED)
    bombs = "import os\nfor _ in range(1000):\n    if os.fork() == 0:\n        import time; time.sleep(60)"
    submission = sanitise(notebook(IMPORTS, bombs, *ALL), hidden.functions)
    with open_room(Settings(course, "90", tmp_path, limits=LIMITS), source) as room:
        assert isinstance(room, Room)
        ended = run_submission(submission, hidden, room)
    assert {name: len(lines) for name, lines in ended.lines.items()} == {name: 5 for name in hidden.checks}
    assert ended.cpu_seconds == 0.0
    deadline = time.monotonic() + 10  # what is killed is still listed until the system has taken it away
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left()


def test_a_fork_bomb_is_laid_to_the_cell_that_began_it() -> None:
    crowd = sandbox.Crowd(48)
    for look in range(12):  # one cell, from one process to ninety, and on
        crowd.look(min(90, 1 + 30 * look), lines=3)
    assert crowd.looks == 10
    crowd = sandbox.Crowd(48)
    crowd.look(5, lines=3)
    for _ in range(20):  # it has ended, and its children stay: the cells after it are not to blame
        crowd.look(90, lines=5)
    assert crowd.looks == 0
    crowd.look(5, lines=5)
    crowd.look(90, lines=5)
    assert crowd.looks == 1


def left() -> list[str]:
    """Processes of a sandbox's users."""
    return [pid for pid in filter(str.isdigit, os.listdir("/proc")) if owner(pid) in sandbox.user_ids(os.getpid())]


def owner(pid: str) -> int:
    """User id of a process, -1 if it has ended."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1
