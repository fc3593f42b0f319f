"""What has been graded so far: an append-only file, one JSON line a record, each on disk before the next begins.

The first line holds the run (lab, secret seed); every other line one submission. A line cut off by a crash is dropped
on opening, so that grading goes on where it stopped; the gradebook is made from the store alone.
"""

import fcntl
import json
import os
from pathlib import Path

from ..errors import DataError


class Store:
    """The records of one grading run, open for appending. One process at a time."""

    def __init__(self, path: Path, run: dict) -> None:
        """Open `path`, or begin it with the record `run`. Raises DataError if it is another lab's or in use."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(handle, "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"{path}: another grader is writing to it") from None
        whole = read_lines(path)
        self._file.truncate(sum(len(line) for line in whole))
        records = [json.loads(line) for line in whole]
        if not records:
            records = [run]
            self._append(run)
            _sync_folder(path.parent)
        self.run: dict = records[0]
        if self.run.get("lab") != run["lab"]:
            raise DataError(
                f"{path}: holds grades of lab {self.run.get('lab')}, not {run['lab']}: choose another --out"
            )
        self.records: dict[str, dict] = {record["submission"]: record for record in records[1:]}

    def add(self, record: dict) -> None:
        """Append one submission's record; on return it is on disk. A later record replaces an earlier one."""
        self._append(record)
        self.records[record["submission"]] = record

    def _append(self, record: dict) -> None:
        self._file.write(json.dumps(record, ensure_ascii=True).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let others write."""
        self._file.close()


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a store, up to the first that a crash has cut or the disk has damaged."""
    whole = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if not line.endswith(b"\n") or not isinstance(json.loads(line), dict):
                break
        except ValueError:
            break
        whole.append(line)
    return whole


def read_store(path: Path) -> tuple[dict, dict[str, dict]]:
    """(the run, records by submission) of a finished or half-finished store. Raises DataError."""
    try:
        records = [json.loads(line) for line in read_lines(path)]
    except OSError as error:
        raise DataError(f"{path}: no grades here ({error.strerror}); run `omni-lab grade` first") from None
    if not records:
        raise DataError(f"{path}: the store is empty; run `omni-lab grade` first")
    return records[0], {record["submission"]: record for record in records[1:]}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is either all there or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
