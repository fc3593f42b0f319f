"""What a grader needs for a while: folders that a killed one leaves to the next, and byte code without answers."""

import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.machinery import SourcelessFileLoader
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from omni_lab.grading.grade import compile_package
from omni_lab.grading.scratch import YOUNG, scratch

HOLDS = "import time\nfrom omni_lab.grading.scratch import scratch\nwith scratch('collect') as folder:\n"
HOLDS += "    (folder / 'inner').mkdir()\n    print(folder, flush=True)\n    time.sleep(600)"


def test_folders_of_a_killed_grader_are_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    other = subprocess.Popen([sys.executable, "-c", HOLDS], env=environment, stdout=subprocess.PIPE, text=True)
    left = Path(other.stdout.readline().strip())
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "omni-lab-collect-link"
    link.symlink_to(tmp_path / "elsewhere")
    old = time.time() - 2 * YOUNG
    os.utime(left, (old, old))
    with scratch("collect") as mine:
        assert mine.is_dir() and left.is_dir()  # its grader lives
    other.send_signal(signal.SIGKILL)
    other.wait()
    with scratch("course"):
        assert left.is_dir()  # of another kind
    with scratch("collect") as mine:
        assert not left.exists() and mine.is_dir()
    assert not mine.exists() and link.is_symlink() and (tmp_path / "elsewhere").is_dir()
    young = Path(tempfile.mkdtemp(prefix="omni-lab-collect-"))
    with scratch("collect"):
        assert young.is_dir()  # its grader may be about to lock it


def test_byte_code_is_taken_over_but_not_that_of_an_answer(tmp_path: Path) -> None:
    """Even where size and date of the file without the answer are those of the file with it."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    for name, text in (("kept", "VALUE = 1"), ("graded", "VALUE = 42")):
        (original / f"{name}.py").write_text(text)
        py_compile.compile(str(original / f"{name}.py"))
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "graded.py").write_text("VALUE = 13")
    shutil.copystat(original / "graded.py", copy / "graded.py")
    compile_package(original, copy)
    kept, graded = (Path(cache_from_source(str(copy / f"{name}.py"))) for name in ("kept", "graded"))
    assert kept.read_bytes() == Path(cache_from_source(str(original / "kept.py"))).read_bytes()  # the path is in it
    constants = SourcelessFileLoader("graded", str(graded)).get_code("graded").co_consts
    assert 13 in constants and 42 not in constants
