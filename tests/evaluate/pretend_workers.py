"""What worker processes of the suite do in its tests: a module that they import in no time."""

import os
import time


def started(how):
    """A worker's start, without a model."""


def not_started(how):
    """A worker that finds no room for its model."""
    raise MemoryError("no room for a model")


def killed_at_ocr(asked):
    """A task's result, or the sudden end of the worker."""
    if asked[0] == "ocr":
        os._exit(9)
    return asked[0], {"value": 1.0}


def fails_at_ocr(asked):
    """An error in one task, while the other goes on for long."""
    if asked[0] == "ocr":
        raise ValueError("no ocr here")
    time.sleep(600)
