"""Launch files: valid where they are read, and asking only for what the command line knows."""

import inspect
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from omni_lab.train.commands import train
from omni_lab.train.recipe import Settings

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


def asked_for(text: str) -> set[str]:
    """Options of `omni-lab train` in a launch file: what stands behind "train"."""
    behind = text.split("train", 1)[1]
    return set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", behind))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_valid_and_their_options_exist(path):
    assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0
    text = "".join(line for line in path.read_text().splitlines(True) if not line.startswith("#"))
    known = {name.rstrip("_") for name in inspect.signature(train).parameters}
    assert asked_for(text.split("omni_lab.cli", 1)[1]) <= known and "--resume" in text


def test_kubernetes_counts_its_pods_and_processes_alike():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    options = dict(a.removeprefix("--").split("=", 1) for a in container["args"] if "=" in a)
    nodes, each = int(options["nnodes"]), int(options["nproc-per-node"])
    assert nodes == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert each == container["resources"]["limits"]["nvidia.com/gpu"]
    assert options["set"] == f"accumulate={nodes * each}" and hasattr(Settings, "accumulate")
    name, service_name = job["metadata"]["name"], service["metadata"]["name"]
    assert options["rdzv-endpoint"].startswith(f"{name}-0.{service_name}:") and pod["subdomain"] == service_name
