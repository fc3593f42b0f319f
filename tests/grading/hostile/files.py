"""Files that are no notebooks, or not ours: links, pipes, corrupt, enormous, archives that climb out."""

import io
import json
import os
import zipfile
from pathlib import Path

from .make import ALL, DOUBLE, FULL, IMPORTS, NONE, Expected, code, notebook

GOOD = notebook(IMPORTS, *ALL)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_solution(path: Path) -> None:
    path.symlink_to(path.parent.parent / "course" / "solutions" / "90_toy.py")


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def folder(path: Path) -> None:
    """A student's folder, called like a notebook, with an old version, a link to a folder, and the answer deeper
    down."""
    (path / "work" / "lab").mkdir(parents=True)
    (path / "old.ipynb").write_bytes(notebook(IMPORTS, DOUBLE))
    (path / "loop").symlink_to(path)
    (path / "work" / "lab" / "toy.ipynb").write_bytes(GOOD)


def climbing_zip(path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../../escaped.ipynb", GOOD)
        archive.writestr("/tmp/escaped.ipynb", GOOD)
        linked = zipfile.ZipInfo("link.ipynb")
        linked.external_attr = 0o120777 << 16
        archive.writestr(linked, "/etc/passwd")
        archive.writestr("inner/toy.ipynb", format_3())
    path.with_suffix(".zip").write_bytes(buffer.getvalue())


def no_zip(path: Path) -> None:
    path.with_suffix(".zip").write_bytes(b"PK\3\4 and no more")


def format_3() -> bytes:
    cells = [{"cell_type": "code", "language": "python", "input": source, "outputs": [], "metadata": {}}
             for source in (IMPORTS, *ALL)]  # fmt: skip
    return json.dumps({"worksheets": [{"cells": cells, "metadata": {}}], "metadata": {"name": ""}, "nbformat": 3,
                       "nbformat_minor": 0}).encode()  # fmt: skip


SUBMISSIONS = {
    "empty": Expected(b"", NONE, ("invalid",) * 3),
    "corrupt": Expected(GOOD[:200], NONE, ("invalid",) * 3),
    "binary": Expected(bytes(range(256)) * 50, NONE, ("invalid",) * 3),
    "enormous": Expected(b" " * (6 << 20) + GOOD, NONE, ("invalid",) * 3),
    "deeply-nested": Expected(b'{"cells": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", NONE, ("invalid",) * 3),
    "cells-of-nonsense": Expected(b'{"cells": [1, null, {"cell_type": []}], "nbformat": 4, "nbformat_minor": 4}', NONE,
                                  ("invalid",) * 3),
    "many-cells": Expected(notebook(*[code("pass")] * 2500), NONE, ("invalid",) * 3),
    "fifo": Expected(fifo, NONE, ("invalid",) * 3),
    "link-to-solution": Expected(link_to_solution, NONE, ("invalid",) * 3),
    "sparse": Expected(sparse, NONE, ("invalid",) * 3),
    "no-zip": Expected(no_zip, NONE),
    "deep-syntax": Expected(notebook(IMPORTS, "(" * 90_000, "x = " + "-" * 90_000 + "1", "a" + ".a" * 60_000), NONE),
    "folder": Expected(folder, FULL),
    "climbing-zip-with-format-3": Expected(climbing_zip, FULL),
}  # fmt: skip
