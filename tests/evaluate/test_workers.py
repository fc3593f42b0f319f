"""Worker processes of the suite."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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
