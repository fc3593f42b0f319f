"""Micro-batches in order, made ahead of time by worker processes, and the account of bad data.

A bad sample is skipped, counted and reported; when more than one in a hundred is bad the run stops with the list.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError
from ..runtime import set_threads
from .recipe import Batch, Recipe

TOLERATED = 0.01  # share of bad samples that a run survives
REPORTED = 20  # lines of the list that are shown
HOPELESS = 50  # samples in a row of which none can be used


class Batches(Dataset):
    """A recipe as a map from index to micro-batch."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def __getitem__(self, index: int) -> tuple[int, Batch]:
        return index, self.recipe.batch(index)


def indexes(start: int, steps: int, accumulate: int, rank: int, world: int) -> Iterator[int]:
    """Numbers of this process's micro-batches from step `start` on: of each step's `accumulate`, every world-th."""
    for step in range(start, steps):
        yield from range(step * accumulate + rank, (step + 1) * accumulate, world)


def load(recipe: Recipe, order: Iterable[int], pin: bool) -> Iterator[tuple[int, Batch]]:
    """(index, micro-batch) in `order`; `pin` puts tensors into memory from which a GPU copies asynchronously."""
    workers = recipe.settings.workers
    if not workers:
        return ((index, recipe.batch(index)) for index in order)
    recipe.warm()
    loader = DataLoader(
        Batches(recipe),
        batch_size=None,
        sampler=order,  # any iterable will do: with batch_size None it is read lazily, in order
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4,
        worker_init_fn=one_thread,
    )
    return iter(loader)


def one_thread(worker: int) -> None:
    """Workers share the cores by being many, not by many threads each."""
    set_threads(1)


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in nested dicts, lists and tuples moved to `device`; everything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {k: to_device(v, device) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(v, device) for v in value)
    return value


def usable(makers: Iterable[Callable[[], Any]], bad: list[str]) -> list[Any]:
    """Results of `makers`, without the samples whose making raised DataError, MediaError or InputError: a line each
    goes to `bad`, which the recipe returns as the batch's "skipped"."""
    from ..errors import InputError

    made = []
    for make in makers:
        try:
            made.append(make())
        except (DataError, InputError) as error:  # MediaError is an InputError
            bad.append(str(error))
    return made


def still_hoping(idle: int, made: list[Any], bad: list[str]) -> int:
    """How many tries in a row have given nothing, after one more that gave `made`.

    Raises DataError, with the last line of `bad`, when that is so many that no more is to be expected."""
    idle = 0 if made else idle + 1
    if idle == HOPELESS:
        raise DataError(f"{idle} samples in a row are bad, stopping: {bad[-1] if bad else 'they are empty'}")
    return idle


class BadData:
    """How many samples were seen, how many were bad and why. Its `state` goes into the checkpoint."""

    def __init__(self, state: dict[str, Any] | None = None):
        state = state or {"seen": 0, "skipped": 0, "lines": []}
        self.seen, self.skipped, self.lines = state["seen"], state["skipped"], list(state["lines"])

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seen": self.seen, "skipped": self.skipped, "lines": self.lines}

    def count(self, batch: Batch) -> list[str]:
        """Take in a batch (removing its account) and return its new lines. Raises DataError above one in a hundred."""
        lines = batch.pop("skipped", [])
        self.seen += batch.pop("samples", 1)
        self.skipped += len(lines)
        self.lines = (self.lines + lines)[-REPORTED:]
        # The first hundred samples may hold one bad one: a single fault is not yet more than one in a hundred.
        if self.skipped > TOLERATED * max(self.seen, 1 / TOLERATED):
            listed = "; ".join(self.lines)
            raise DataError(f"{self.skipped} of {self.seen} samples are bad (more than 1 %), stopping: {listed}")
        return lines
