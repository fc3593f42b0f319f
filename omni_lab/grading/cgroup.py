"""A control group (version 2) for each execution, where the machine lets this user make one.

Three things come of it that rlimits and a watch cannot give: memory and processes are limited all together and by the
kernel itself, at once; the CPU seconds of a whole sandbox are counted; and one write ends everything in it. Where the
memory and pids controllers are not to be had, the group still counts and ends; where no group is to be had, rlimits
inside and the watch outside do what they can.
"""

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CONTROLLERS = ("memory", "pids")
ENDING_SECONDS = 30.0  # after which a group whose processes do not die is reported, never waited for
_numbers = itertools.count()


@dataclass(frozen=True)
class Group:
    """One execution's group; all of its files belong to the kernel."""

    path: Path

    def joining(self) -> list[str]:
        """Arguments before a command that make it, and all that it starts, a member from its first step on."""
        return ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.path / "cgroup.procs")]

    def limit(self, memory: int, processes: int) -> None:
        """Limit the group's bytes (scratch in memory included) and its processes, as far as the controllers are
        there."""
        enabled = (self.path / "cgroup.controllers").read_text().split()
        if "memory" in enabled:
            _write(self.path / "memory.max", memory)
            _write(self.path / "memory.oom.group", 1)
            if (self.path / "memory.swap.max").exists():
                _write(self.path / "memory.swap.max", 0)
        if "pids" in enabled:
            _write(self.path / "pids.max", processes)

    def processes(self) -> list[int]:
        """Ids of all processes in the group now, as this process sees them."""
        return [int(number) for number in (self.path / "cgroup.procs").read_text().split()]

    def cpu_seconds(self) -> float:
        """User and system time of everything that has ever run in the group."""
        return _numbers_of(self.path / "cpu.stat").get("usage_usec", 0) / 1e6

    def out_of_memory(self) -> bool:
        """Whether the kernel has ended the group for its memory."""
        events = self.path / "memory.events"
        return events.exists() and _numbers_of(events).get("oom_kill", 0) > 0

    def kill(self) -> None:
        """SIGKILL to every process in the group, also to those that are being started just now."""
        try:
            _write(self.path / "cgroup.kill", 1)
        except OSError as error:
            # Before Linux 5.14 there is no such file, and the tree of processes is walked; or another grader that
            # sweeps was faster, and the group is gone.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def end(self) -> None:
        """Kill whatever is left in the group, double forks and daemons included, and remove it."""
        deadline = time.monotonic() + ENDING_SECONDS
        while True:
            self.kill()
            try:
                self.path.rmdir()
                return
            except FileNotFoundError:  # another grader that sweeps was faster
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)


@contextlib.contextmanager
def group(memory: int, processes: int) -> Iterator[Group | None]:
    """A new group with these limits, ended on leaving; None where none can be made."""
    parent = find_parent()
    if parent is None:
        yield None
        return
    made = Group(parent / f"omni-lab-{os.getpid()}-{next(_numbers)}")
    made.path.mkdir()
    try:
        made.limit(memory, processes)
        yield made
    finally:
        made.end()


@cache
def find_parent() -> Path | None:
    """The group below which this process may make others: its own in the version 2 hierarchy, if it may write there
    (root, or a user with a delegated scope: `systemd-run --user --scope -p Delegate=yes omni-lab grade ...`)."""
    mount = mounted(Path("/proc/self/mountinfo").read_text())
    own = next((line[3:] for line in _lines("/proc/self/cgroup") if line.startswith("0::")), None)
    if mount is None or own is None:
        return None
    parent = mount / own.lstrip("/")
    trial = parent / f"omni-lab-trial-{os.getpid()}"
    try:
        trial.mkdir()
        trial.rmdir()
    except OSError:
        return None
    sweep(parent)
    hand_down(parent, CONTROLLERS)
    return parent


def sweep(parent: Path) -> None:
    """End the groups that graders left below `parent` when they were killed."""
    for path in parent.glob("omni-lab-*-*"):
        owner = path.name.split("-")[2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            Group(path).end()


def mounted(mountinfo: str) -> Path | None:
    """Where the version 2 hierarchy is mounted, from the text of /proc/self/mountinfo (see proc(5))."""
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        if tail.startswith("cgroup2 "):
            return Path(head.split()[4])
    return None


def hand_down(parent: Path, wanted: tuple[str, ...]) -> list[str]:
    """Enable `wanted` controllers for the groups below `parent`, one by one; those that are enabled afterwards.

    But for the root, a group cannot both hold processes and hand controllers down: if this process is alone in
    `parent`, it moves into a group of its own beside those that it makes."""
    control, own = parent / "cgroup.subtree_control", str(os.getpid())
    available = set((parent / "cgroup.controllers").read_text().split())
    missing = [name for name in wanted if name in available and name not in control.read_text().split()]
    if missing and (parent / "cgroup.procs").read_text().split() == [own]:
        leaf = parent / "omni-lab-grader"
        leaf.mkdir(exist_ok=True)
        _write(leaf / "cgroup.procs", own)
    for name in missing:
        with contextlib.suppress(OSError):  # others live in this group: limits stay with rlimits and the watch
            _write(control, f"+{name}")
    return [name for name in wanted if name in control.read_text().split()]


def _write(path: Path, value: object) -> None:
    """Without `open`: it asks for the place in the file, which fails if the group is removed at that moment."""
    handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never to be created
    try:
        os.write(handle, str(value).encode())
    finally:
        os.close(handle)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _numbers_of(path: Path) -> dict[str, int]:
    """Lines of "name number" as the kernel writes them."""
    pairs = [line.split() for line in path.read_text().splitlines()]
    return {name: int(value) for name, value in pairs}
