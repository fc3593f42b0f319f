"""Several processes compute what one does; checkpoints move between any numbers of them; a lost one stops the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from omni_lab.train.log import read_log

HERE = Path(__file__).parent


def losses(folder: Path) -> list[float]:
    return [float(row["value"]) for row in read_log(folder / "log.csv") if row["name"] == "loss"]


def start(command: list[str]) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, timeout=300)


def test_any_number_of_processes_gives_the_losses_of_one(tmp_path: Path) -> None:
    done = start([sys.executable, "ranks.py", str(tmp_path)])
    assert done.returncode == 0, done.stderr[-3000:]
    expected = losses(tmp_path / "one")
    assert len(expected) == 20
    for name in ("one_sharded", "two", "two_then_one", "two_then_four", "one_then_two"):
        assert losses(tmp_path / name) == pytest.approx(expected, rel=2e-5), name


def test_a_process_that_dies_stops_the_run_with_a_clear_line(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = start([*torchrun, "ranks.py", str(tmp_path / "run"), "die"])
    assert done.returncode != 0
    assert "process 0 of 2 stops: another process of this run has died" in done.stderr
