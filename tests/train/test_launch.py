"""The Slurm script: near its limit a job saves and is queued again; one that ends by itself, well or not, is not."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"
# What the cluster has, in so far as the script asks for it. Slurm's step manager signals a step's first process.
STANDS_FOR = {
    "scontrol": 'if [ "$1" = show ]; then echo node; else echo "$@" >>said; fi',
    "srun": 'echo $$ >step; exec "$@"',
    "scancel": 'echo "$@" >>said; kill -TERM "$(cat step)"',
    "python": 'trap "echo torchrun was told >>said" TERM\necho "$@" >asked\nworker & wait $!',
    "worker": 'trap "sleep 0.3; echo saved >>said; exit 0" TERM\ntouch busy\n[ -z "$ENDS" ] || exit "$ENDS"\n'
    "for i in $(seq 300); do sleep 0.1; done",
}
ASKED = "-m torch.distributed.run --nnodes 2 --nproc-per-node 8 --rdzv-id 7 --rdzv-backend c10d --rdzv-endpoint"

pytestmark = pytest.mark.skipif(not shutil.which("pkill"), reason="pkill is part of procps")


def start(folder: Path, ends: str) -> subprocess.Popen:
    """The job, in `folder`; its only worker `ends` with this status, or works on."""
    for name, does in STANDS_FOR.items():
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]", "ENDS": ends}
    environment = os.environ | job | {"PATH": f"{folder}:{os.environ['PATH']}"}
    running = subprocess.Popen(["bash", SCRIPT], cwd=folder, env=environment)
    while not (folder / "busy").exists():
        time.sleep(0.05)
    return running


def test_near_its_limit_a_job_saves_and_is_queued_again(tmp_path: Path) -> None:
    job = start(tmp_path, "")
    job.send_signal(signal.SIGUSR1)
    job.wait(20)
    assert (tmp_path / "said").read_text().splitlines() == ["--signal=TERM 7", "saved", "requeue 7"]
    assert (tmp_path / "asked").read_text().startswith(f"{ASKED} node:29500 -m omni_lab.cli train all --scale gpu")


@pytest.mark.parametrize("status", [0, 3])
def test_a_job_that_ends_by_itself_is_not_queued_again(tmp_path: Path, status: int) -> None:
    assert start(tmp_path, str(status)).wait(20) == status
    assert not (tmp_path / "said").exists()
