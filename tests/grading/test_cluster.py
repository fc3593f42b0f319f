"""The work units on two local nodes, one of which dies."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_lab.grading.grade import Settings, grade
from omni_lab.grading.processes import process_tree
from omni_lab.grading.sandbox import SandboxError
from tests.grading.conftest import EXERCISES, HOSTILE, LIMITS, SEED, command_lines, write_submission

pytestmark = pytest.mark.timeout(1800)
SUBSET = ("all-right", "partial", "corrupt", "untouched")  # two of them run nothing


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """(the scheduler's address, two worker processes, as on two machines)."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=0, processes=False, dashboard_address=None, host="127.0.0.1", protocol="tcp://"
    ) as local:
        address = local.scheduler_address
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny",
                   "--no-dashboard", "--host", "127.0.0.1"]  # fmt: skip
        workers = [subprocess.Popen([*command, "--name", f"node-{n}"], cwd=Path(__file__).parents[2],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for n in (1, 2)]  # fmt: skip
        while len(local.scheduler.workers) < 2:
            assert all(worker.poll() is None for worker in workers)
            time.sleep(0.1)
        yield address, workers
        for worker in workers:
            worker.terminate()
            worker.wait()


def test_two_nodes_grade_a_class_and_one_dies(
    course: Path, nodes: tuple[str, list[subprocess.Popen]], tmp_path: Path
) -> None:
    """What the dead node was running runs again on the other; every point is as on one machine."""
    address, (first, _) = nodes
    folder, out = tmp_path / "in", tmp_path / "grades"
    folder.mkdir()
    for name in SUBSET:
        write_submission(folder, name, HOSTILE[name])

    def kill_when_busy() -> None:
        while not running_below(first.pid):
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_when_busy, daemon=True)
    killer.start()
    settings = Settings(course, "90", out, limits=LIMITS, seed=SEED, scheduler=address)
    book = grade(folder, settings, progress=False)
    killer.join(timeout=1)
    assert first.wait(timeout=10) == -signal.SIGKILL
    got = {name: tuple(book[name]["exercises"][e]["points"] for e in EXERCISES) for name in SUBSET}
    assert got == {name: HOSTILE[name].points for name in SUBSET}


def running_below(pid: int) -> bool:
    """Whether a worker is running a sandbox."""
    lines = command_lines()
    return any("/grader/runner.py" in lines.get(child, "") for child in process_tree(pid))


def test_no_scheduler_no_grading(course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni_lab.grading.cluster.CONNECT_SECONDS", 1)
    (tmp_path / "in").mkdir()
    write_submission(tmp_path / "in", "all-right", HOSTILE["all-right"])
    settings = Settings(course, "90", tmp_path / "out", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(SandboxError, match="no Dask scheduler answers"):
        grade(tmp_path / "in", settings, progress=False)
