"""The same work units on many machines: Dask hands sanitised submissions to workers on other nodes.

Dask's `distributed` is light (pure Python), long maintained, starts by `dask scheduler` on one machine and `dask worker
ADDRESS` on the others, and under Slurm, PBS or Kubernetes by `dask-jobqueue` and its like. A worker that dies costs
nothing: its unit runs again elsewhere. Each node needs this checkout at the same path, and bubblewrap; submissions and
cases travel over the wire, so no other folder is shared. The store, the comparing and the points stay with the grader.
"""

import atexit
import contextlib
import pickle
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
_rooms: dict["Settings", Room] = {}  # of this worker process, open until it ends
_opening = threading.Lock()


@contextlib.contextmanager
def cluster(settings: "Settings", hidden: Hidden) -> Iterator[tuple[Callable[[Submission], Execution], int]]:
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
        there = replace(settings, root=settings.root.resolve(), scheduler=None)
        # With every unit anew, packed once: what is scattered to a worker is lost with it. What measures trained
        # artefacts stays here.
        packed = pickle.dumps(replace(hidden, artefacts={}))

        def run(submission: Submission) -> Execution:
            future = client.submit(run_unit, submission, packed, there, pure=False)
            try:
                return future.result()
            except (KilledWorker, CancelledError) as error:
                raise SandboxError(f"the workers that ran it died ({type(error).__name__})") from None

        yield run, threads


def run_unit(submission: Submission, packed: bytes, settings: "Settings") -> Execution:
    """One work unit, in a worker's process: execute a submission in a sandbox of this node. packed: the pickled Hidden,
    from the grader, by the way on which Dask sends everything."""
    with _opening:
        room = _rooms.get(settings) or _open(settings)
    return run_submission(submission, pickle.loads(packed), room)


def _open(settings: "Settings") -> Room:
    from .grade import open_room

    opened = open_room(settings, find_lab(settings.root, settings.lab))
    _rooms[settings] = opened.__enter__()
    atexit.register(opened.__exit__, None, None, None)
    return _rooms[settings]
