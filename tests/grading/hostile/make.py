"""Notebooks of the toy lab, cell by cell."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

IMPORTS = "import numpy as np\nimport torch\nfrom omni_lab.lab import exercise"
DOUBLE = '@exercise("toy.double")\ndef double(x):\n    """Twice x."""\n    return x + x'
MEAN = '@exercise("toy.mean_square")\ndef mean_square(values):\n    return float(np.mean(np.square(values)))'
TOTAL = '@exercise("toy.running_total")\ndef running_total(values):\n    return np.add.accumulate(values)'
ALL = (DOUBLE, MEAN, TOTAL)

WRONG_DOUBLE = DOUBLE.replace("x + x", "3 * x")
WRONG_MEAN = '@exercise("toy.mean_square")\ndef mean_square(values):\n    return 0.5'
WRONG_TOTAL = '@exercise("toy.running_total")\ndef running_total(values):\n    return values * 0.5'
WRONG = (WRONG_DOUBLE, WRONG_MEAN, WRONG_TOTAL)

FULL = (5.0, 10.0, 5.0)
NONE = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Expected:
    """A submission's bytes (or how to put it into a folder), and the points of its three exercises."""

    make: bytes | Callable[[Path], None]  # given the path that it shall have, "FOLDER/name.ipynb"
    points: tuple[float, float, float]
    statuses: tuple[str, ...] = ()  # of the three exercises, where they matter


def code(source: str, **metadata: object) -> dict:
    return {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": [], "source": source}


def markdown(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def notebook(*cells: str | dict, **metadata: object) -> bytes:
    """A notebook of format 4.4; strings are code cells."""
    made = [code(cell) if isinstance(cell, str) else cell for cell in cells]
    return json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}).encode()


def honest(*cells: str | dict) -> bytes:
    """Imports, then `cells`, then all three right answers."""
    return notebook(IMPORTS, *cells, *ALL)


def forger(*cells: str | dict) -> bytes:
    """Imports, wrong answers, then `cells`, which try to earn points all the same."""
    return notebook(IMPORTS, *WRONG, *cells)
