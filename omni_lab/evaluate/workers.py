"""Several tasks of the suite at once, each process with a model of its own and one thread.

Nano's tensors are too small for two threads to share, so on two cores two processes do more than two threads.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ..errors import OmniLabError
from ..runtime import threads
from . import backends, suite

# What takes longest is begun first, so that no process is left alone with it at the end.
LONGEST_FIRST = ("dpo_wer_ratio", "speaker_similarity", "pause_errors", "speech_wer", "resynthesis_wer_ratio")
_MODEL: list[Any] = []  # of a worker process


def run(
    names: Sequence[str], processes: int, how: tuple[str, str, str], items: int, seed: int, folder: str | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(task, result) as they are finished; how: the arguments of `backends.open_backend`, by which each process opens
    its own model. Raises what a process raises when it cannot, and OmniLabError when one is killed or cannot start."""
    suite.check_items(items)
    order = sorted(names, key=lambda n: LONGEST_FIRST.index(n) if n in LONGEST_FIRST else len(LONGEST_FIRST))
    backends.open_backend(*how)  # a folder that is broken is told here, in one line
    others = set(multiprocessing.active_children())
    # A new process, not a copy of this one: libraries with threads do not survive being copied.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), begin, (how,))
    left = len(order)
    try:
        for done in as_completed([pool.submit(one, (name, items, seed, folder)) for name in order]):
            if not isinstance(done.exception(), BrokenProcessPool):  # which all get that are not done by then
                yield done.result()
                left -= 1
        if left:
            raise OmniLabError(
                "a process of the suite was killed or could not start, perhaps for want of memory: "
                f"{left} of {len(order)} tasks are not done; go on with --resume and fewer --processes"
            )
    finally:
        pool.shutdown(wait=not left, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:  # none is left at the regular end
            process.terminate()


def begin(how: tuple[str, str, str]) -> None:
    """A worker's start."""
    end_with_parent()
    _MODEL.append(backends.open_backend(*how))


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it is gone: killed, it can tell nobody to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # only workers ask

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def one(asked: tuple[str, int, int, str | None]) -> tuple[str, dict[str, Any]]:
    """One task in a worker."""
    name, items, seed, folder = asked
    with threads(1):
        return name, suite.run_task(name, _MODEL[0], items, seed, False, folder)
