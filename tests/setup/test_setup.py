"""The set-up files agree with one another, and name neither an index nor a machine."""

import importlib.metadata
import platform
import re
import stat
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from omni_lab import __version__
from omni_lab.lab import bootstrap

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = ["requirements.lock", "requirements-lab.lock", "requirements-lint.lock"]


def pins(lock):
    found = {}
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"([a-z0-9._-]+)==([^ ;]+)( ; .+)?", line)
        assert match, f"{lock}: {line!r} is no exact pin"
        found.setdefault(match[1], set()).add(match[2])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_exact_pins_and_nothing_else(lock):
    found = pins(lock)
    assert found["torch"] == found["torchaudio"] == {"2.11.0"}


def test_what_only_costs_start_up_stays_out_of_the_tests_environment():
    """What runs the tests and the notebooks has no use for an editor, a linter or a board."""
    assert (
        not {"jupyterlab", "notebook", "tensorboard", "accelerate", "mypy", "ruff", "lm-eval"} & pins(LOCKS[0]).keys()
    )


def test_locks_agree_with_one_another():
    base = pins(LOCKS[0])
    for lock in LOCKS[1:]:
        for name, versions in pins(lock).items():
            assert name not in base or versions <= base[name], f"{lock}: {name}"


@pytest.mark.parametrize("extra", [None, "notebooks", "data", "test"])
def test_every_requirement_is_locked(extra):
    wanted = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    locked = pins(LOCKS[0])
    for requirement in wanted:
        name = re.split(r"[<>=\[; ]", requirement)[0]
        assert name in locked or name == "omni-lab", name


def test_conda_installs_the_same():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ +- (.+)$", text, re.MULTILINE)
    assert listed[:4] == ["conda-forge", "python=3.12", "pip", "pip:"]
    assert listed[4:] == ["-r requirements.lock", "-r requirements-lab.lock", "-e ."]
    assert PROJECT["requires-python"] == ">=3.11,<3.13"


def test_the_set_up_cell_asks_for_what_the_project_needs():
    wanted = PROJECT["dependencies"]
    unasked = {"torch", "torchaudio", "huggingface-hub"}  # the pair stays as it is; transformers brings the hub
    ours = [r for r in wanted if bootstrap.requirement_name(r) not in unasked]
    widgets = [r for r in PROJECT["optional-dependencies"]["notebooks"] if r.startswith("ipywidgets")]
    assert sorted(bootstrap.NEEDED) == sorted(ours + widgets)


def test_ci_runs_the_tests_and_nothing_else():
    path = ROOT / ".ci" / "run"
    lines = [s for s in path.read_text().splitlines() if s and not s.startswith(("#", "set ", "cd "))]
    assert lines == ["make test"] and path.stat().st_mode & stat.S_IXUSR


def test_continuous_integration_covers_what_the_course_promises():
    """Push, pull request and nightly; three systems and both versions of Python; all tests, and the lint."""
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert set(workflow[True]) == {"push", "pull_request", "schedule"}  # YAML 1.1 reads `on` so
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert {system.split("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"] == ["3.11", "3.12"]
    runs = {name: [step.get("run") for step in job["steps"]] for name, job in workflow["jobs"].items()}
    assert "make test PYTHON=python" in runs["test"] and "make lint PYTHON=python" in runs["lint"]
    assert "make course PYTHON=python" in runs["course"] and "make browser-all PYTHON=python" in runs["explorers"]
    assert "actionlint" in text


def test_the_changelog_knows_the_version():
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_one_place_sets_the_threads():
    callers = [p.name for p in (ROOT / "omni_lab").rglob("*.py") if "set_num_threads(" in p.read_text(encoding="utf-8")]
    assert callers == ["runtime.py"]


def test_what_is_installed_by_hand_resolves_nothing():
    """The locks leave out on purpose what pip would ask for, and hold nothing that this Python may not have."""
    for name, command in (
        ("README.md", "pip install --no-deps -r requirements.lock"),
        ("environment.yml", "PIP_NO_DEPS=1"),
    ):
        assert command in (ROOT / name).read_text(encoding="utf-8")
    for line in (ROOT / LOCKS[0]).read_text(encoding="utf-8").splitlines():
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate():
            needs = importlib.metadata.metadata(pin.name).get("Requires-Python") or ""
            assert SpecifierSet(needs).contains(platform.python_version()), f"{line} needs Python {needs}"
