"""What a grader needs for a while: folders that a killed one leaves to the next, and byte code."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from omni_lab.grading import grade
from omni_lab.grading.grade import compile_machinery
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


def test_what_runs_a_notebook_is_compiled_once_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_kernel").mkdir()
    for name in ("__init__", "inner"):
        (tmp_path / "toy_kernel" / f"{name}.py").write_text("VALUE = 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(grade, "MACHINERY", "toy_kernel, toy_that_is_absent")
    compile_machinery()
    assert Path(cache_from_source(str(tmp_path / "toy_kernel" / "inner.py"))).exists()
    assert "toy_kernel" not in sys.modules
