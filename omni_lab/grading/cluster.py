"""The same work units on many machines: Dask hands sanitised submissions to workers on other nodes.

Dask's `distributed` is light (pure Python), long maintained, starts by `dask scheduler` on one machine and `dask worker
ADDRESS` on the others, and under Slurm, PBS or Kubernetes by `dask-jobqueue` and its like. A worker that dies costs
nothing: its unit runs again elsewhere. Each node needs this checkout at the same path, and bubblewrap; submissions
travel over the wire, so no other folder is shared. The store, the comparing and the points stay with the grader.
"""

import atexit
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING

from .execution import Execution, Room, run_submission
from .hidden import Hidden, find_lab
from .sandbox import SandboxError
from .sanitise import Submission

if TYPE_CHECKING:
    from .grade import Settings

CONNECT_SECONDS = 20
_slots: queue.SimpleQueue[int] = queue.SimpleQueue()
for _slot in range(64):
    _slots.put(_slot)
_rooms: dict["Settings", Room] = {}  # of this worker process, open until it ends
_opening = threading.Lock()


@contextlib.contextmanager
def cluster(settings: "Settings", hidden: Hidden) -> Iterator[tuple[Callable[[Submission, int], Execution], int]]:
    """(a function that runs one submission on some worker, how many run at a time). Raises SandboxError for a
    scheduler that does not answer or has no workers."""
    try:
        from distributed import Client
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise SandboxError('--scheduler needs Dask: pip install "omni-lab[cluster]"') from None
    try:
        client = Client(settings.scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise SandboxError(f"{settings.scheduler}: no Dask scheduler answers there ({error})") from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise SandboxError(f"{settings.scheduler}: has no workers; start `dask worker {settings.scheduler}` first")
        # What measures trained artefacts stays here: it is no part of a unit.
        shared = client.scatter(replace(hidden, artefacts={}), broadcast=True)
        there = replace(settings, root=settings.root.resolve(), scheduler=None)

        def run(submission: Submission, slot: int) -> Execution:
            future = client.submit(run_unit, submission, shared, there, pure=False)
            try:
                return future.result()
            except (KilledWorker, CancelledError) as error:
                raise SandboxError(f"the workers that ran it died ({type(error).__name__})") from None

        yield run, threads


def run_unit(submission: Submission, hidden: Hidden, settings: "Settings") -> Execution:
    """One work unit, in a worker's process: execute a submission in a sandbox of this node."""
    with _opening:
        room = _rooms.get(settings) or _open(settings)
    slot = _slots.get()
    try:
        return run_submission(submission, hidden, room, slot)
    finally:
        _slots.put(slot)


def _open(settings: "Settings") -> Room:
    from .grade import open_room

    opened = open_room(settings, find_lab(settings.root, settings.lab))
    _rooms[settings] = opened.__enter__()
    atexit.register(opened.__exit__, None, None, None)
    return _rooms[settings]
