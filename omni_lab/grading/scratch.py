"""Temporary folders of a grader. Those of one that was killed are removed by the next: the kernel frees their locks."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX, LOCK = "omni-lab-", ".lock"
YOUNG = 60.0  # seconds in which a folder may not have been locked yet


@contextlib.contextmanager
def scratch(kind: str) -> Iterator[Path]:
    """A folder for this block alone, called by its kind ("collect", "course" or "grading"); removed at its end."""
    sweep(Path(tempfile.gettempdir()), kind)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{kind}-") as name, open(Path(name) / LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def sweep(parent: Path, kind: str) -> None:
    """Remove this user's folders of one kind that nobody holds any more."""
    for path in parent.glob(f"{PREFIX}{kind}-*"):
        with contextlib.suppress(OSError):  # its owner, or another grader that sweeps, was faster
            found = path.lstat()
            ours = found.st_uid == os.geteuid() and path.is_dir() and not path.is_symlink()
            if ours and time.time() - found.st_mtime > YOUNG and not is_held(path / LOCK):
                shutil.rmtree(path, ignore_errors=True)


def is_held(lock: Path) -> bool:
    """Whether a living process holds a lock on this file; one that does not exist is held by nobody."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
