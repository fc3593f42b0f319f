"""Worker processes of the suite."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pretend_workers
import pytest

from omni_lab.errors import OmniLabError
from omni_lab.evaluate import backends, workers

SCRIPT = """
import multiprocessing, os, time
from omni_lab.evaluate import workers

def tell(_):
    print(os.getpid(), flush=True)
    time.sleep(120)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1, workers.end_with_parent) as pool:
        pool.map(tell, [0])
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")  # one that nobody has waited for is not alive
    return not (state.exists() and state.read_text().rsplit(")")[-1].split()[0] == "Z")


def test_a_killed_suite_leaves_no_worker_behind(tmp_path: Path) -> None:
    """A worker went on for ten minutes, on a core of its own, after `omni-lab eval` had been ended by SIGTERM."""
    script = tmp_path / "pool.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 60
        while alive(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = alive(worker)
        if left:
            os.kill(worker, signal.SIGKILL)
    assert not left


@pytest.mark.timeout(60)
@pytest.mark.parametrize("begin, left", [(pretend_workers.started, 1), (pretend_workers.not_started, 2)])
def test_a_worker_that_is_killed_or_cannot_start_ends_the_suite_in_a_line(monkeypatch, begin, left):
    """It went on waiting for ever."""
    monkeypatch.setattr(backends, "open_backend", lambda *how: None)
    monkeypatch.setattr(workers, "begin", begin)
    monkeypatch.setattr(workers, "one", pretend_workers.killed_at_ocr)
    with pytest.raises(OmniLabError, match=f"{left} of 2 tasks are not done") as caught:
        list(workers.run(["text_qa", "ocr"], 1, ("ours", "", ""), 1, 0, None))
    assert "\n" not in str(caught.value) and "--resume" in str(caught.value)


@pytest.mark.timeout(60)
def test_an_error_in_one_worker_does_not_wait_for_the_others(monkeypatch):
    monkeypatch.setattr(backends, "open_backend", lambda *how: None)
    monkeypatch.setattr(workers, "begin", pretend_workers.started)
    monkeypatch.setattr(workers, "one", pretend_workers.fails_at_ocr)
    with pytest.raises(ValueError, match="no ocr here"):
        list(workers.run(["text_qa", "ocr"], 2, ("ours", "", ""), 1, 0, None))
