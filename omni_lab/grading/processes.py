"""What /proc says about the processes of a sandbox: who descends from whom; and their end."""

import contextlib
import os
import signal
import subprocess
import time


def process_tree(root: int) -> list[int]:
    """Process ids of `root` and all its descendants, as /proc shows them now."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it ended while we looked
            children.setdefault(parent, []).append(int(name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def end_tree(process: subprocess.Popen) -> None:
    """Kill `process` and all its descendants, and wait until none is left.

    In a sandbox the kernel ends the whole process namespace with its first process; without one the tree is walked, and
    the process group catches what has lost its parent.
    """
    victims: set[int] = set()
    for _ in range(500):
        victims |= set(process_tree(process.pid)) if process.poll() is None else set()
        running = [pid for pid in victims if _running(pid)]
        if not running and process.poll() is not None:
            return
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    raise TimeoutError(f"processes {running} of a submission do not end: look at them before going on")


def _running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False
