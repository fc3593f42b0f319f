"""The set-up cell on a machine like Colab's: torch and numpy preinstalled, the course absent, outdated or present.

A fresh venv holds packages in name only (metadata, no code), and a folder of wheels made here is the only index.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from omni_lab.lab import bootstrap

ROOT = Path(__file__).parents[2]
PREINSTALLED = {"torch": "2.9.0+cu126", "torchaudio": "2.9.0+cu126", "numpy": "2.1.3"}


def metadata(name, version, requires=()):
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    return "\n".join(lines) + "\n"


def install_in_name(site, name, version):
    for old in site.glob(f"{name.replace('-', '_')}-*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(metadata(name, version))
    (folder / "RECORD").write_text(f"{folder.name}/METADATA,,\n{folder.name}/INSTALLER,,\n{folder.name}/RECORD,,\n")
    (folder / "INSTALLER").write_text("pip\n")


def make_wheel(folder, name, version, requires=()):
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"__version__ = {version!r}\n")
        archive.writestr(f"{info}/METADATA", metadata(name, version, requires))
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """(python, site-packages, environment, folder): with two packages missing or outdated, and wheels for them."""
    folder = tmp_path_factory.mktemp("colab")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    asked = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[-1])"], capture_output=True, text=True
    )
    site = Path(asked.stdout.strip())
    lowest = {bootstrap.requirement_name(r): r.split(">=")[1].split(",")[0] for r in bootstrap.NEEDED}
    for name, version in {**lowest, **PREINSTALLED}.items():
        if name not in ("jiwer", "tqdm"):
            install_in_name(site, name, version)
    install_in_name(site, "tqdm", "4.1")
    wheels = folder / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "tqdm", "4.70")
    make_wheel(wheels, "jiwer", "3.5", ["numpy>=2"])
    make_wheel(wheels, "jiwer", "9.0", ["numpy>=3"])  # would drag in a numpy that breaks the running kernel
    make_wheel(wheels, "numpy", "3.0")
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_")) and k != "PYTHONPATH"}
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    return (
        python,
        site,
        keep
        | nowhere
        | {"UV_OFFLINE": "1", "UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(folder / "cache"), "UV_FIND_LINKS": str(wheels)},
        folder,
    )


def run_cell(machine, code, before=""):
    python, _, environment, folder = machine
    (folder / "work").mkdir(exist_ok=True)
    return subprocess.run(
        [python, "-c", before + "\n" + code],
        env=environment,
        cwd=folder / "work",
        capture_output=True,
        text=True,
        timeout=60,
    )


def versions(machine):
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    return json.loads(run_cell(machine, code).stdout)


def test_a_fresh_machine_is_made_ready_and_torch_and_numpy_stay(machine, tmp_path):
    origin = tmp_path / "origin"
    (origin / "omni_lab" / "lab").mkdir(parents=True)
    for part in ("omni_lab/__init__.py", "omni_lab/lab/__init__.py", "omni_lab/lab/bootstrap.py"):
        (origin / part).write_bytes((ROOT / part).read_bytes())
    git = ["git", "-C", str(origin), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "course"]):
        subprocess.run([*git, *command], check=True)
    machine[2]["OMNI_LAB_COURSE"] = origin.as_uri()
    cell = bootstrap.cell_source("0.1.0")

    first = run_cell(machine, cell)
    assert first.returncode == 0, first.stderr
    assert "Installing tqdm" in first.stdout and "Ready: omni_lab 0.1.0" in first.stdout
    now = versions(machine)
    assert {n: now[n] for n in PREINSTALLED} == PREINSTALLED
    assert (now["tqdm"], now["jiwer"]) == ("4.70", "3.5")

    again = run_cell(machine, cell)
    assert again.returncode == 0 and again.stdout == "Ready: omni_lab 0.1.0.\n"

    child = (
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import omni_lab; print(omni_lab.__version__)'])"
    )
    assert run_cell(machine, cell + "\n" + child).stdout.endswith("0.1.0\n"), (
        "what a kernel starts finds the course too"
    )

    outdated = run_cell(machine, bootstrap.cell_source("0.2.0"))
    assert outdated.returncode and "this notebook needs omni_lab 0.2.0, here is 0.1.0" in outdated.stderr
    assert "there is none newer than 0.1.0" in outdated.stderr and "restart" not in outdated.stderr

    begin = origin / "omni_lab" / "__init__.py"
    begin.write_text(begin.read_text(encoding="utf-8").replace('"0.1.0"', '"0.2.0"'), encoding="utf-8")
    subprocess.run([*git, "commit", "-q", "-a", "-m", "next"], check=True)
    updated = run_cell(machine, bootstrap.cell_source("0.2.0"))
    assert updated.returncode and "it has now been updated: restart the kernel" in updated.stderr
    assert run_cell(machine, bootstrap.cell_source("0.2.0")).stdout == "Ready: omni_lab 0.2.0.\n"

    loaded = "import sys, types; m = types.ModuleType('numpy'); m.__version__ = '2.0.2'; sys.modules['numpy'] = m"
    stale = run_cell(machine, cell, loaded)
    assert stale.returncode and "numpy changed on disk" in stale.stderr and "Installing" not in stale.stdout
    shutil.rmtree(machine[3] / "work" / "omni_lab_course")
    absent = run_cell(machine, cell, loaded)
    assert absent.returncode and "numpy changed on disk" in absent.stderr
    assert not (machine[3] / "work" / "omni_lab_course").exists(), "nothing is fetched before a restart"

    install_in_name(machine[1], "torchaudio", "2.11.0")
    pair = run_cell(machine, cell)
    assert pair.returncode and "torch 2.9.0+cu126 and torchaudio 2.11.0 do not match" in pair.stderr


@pytest.mark.parametrize("uv", ["absent", "failing"])
def test_pip_installs_where_uv_is_absent_or_fails(machine, tmp_path, uv):
    install_in_name(machine[1], "tqdm", "4.1")
    folders = [p for p in os.get_exec_path() if not any((Path(p) / name).exists() for name in ("uv", "uv.exe"))]
    if uv == "failing":
        fake = tmp_path / ("uv.exe" if os.name == "nt" else "uv")
        fake.write_text("#!/bin/sh\nexit 1\n")  # on Windows no program at all, which fails as well
        fake.chmod(0o755)
        folders.insert(0, str(tmp_path))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom omni_lab.lab import bootstrap\n"
    code += "bootstrap.install(['tqdm>=4.66'])"
    python, site, environment, folder = machine
    done = run_cell((python, site, environment | {"PATH": os.pathsep.join(folders)}, folder), code)
    assert done.returncode == 0, done.stderr
    assert versions(machine)["tqdm"] == "4.70"


@pytest.mark.parametrize(
    ("requirement", "version", "fits"),
    [
        ("x>=5.17,<5.24", "5.23.0", True),
        ("x>=5.17,<5.24", "5.24.0", False),
        ("x>=5.17,<5.24", "5.9", False),
        ("x>=2.0", "2", True),
        ("x>=2.0", "2.11.0+cu126", True),
        ("x>=2.0", None, False),
    ],
)
def test_versions_are_compared_as_numbers(monkeypatch, requirement, version, fits):
    monkeypatch.setattr(bootstrap, "installed", lambda name: version)
    assert bootstrap.satisfied(requirement) is fits


def test_the_place_of_the_code_stands_in_one_line():
    text = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "omni_lab").rglob("*.py"))
    assert text.count(bootstrap.COURSE) == 1 and bootstrap.COURSE in bootstrap.cell_source("1.0")


def test_it_needs_nothing_but_python():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import omni_lab.lab.bootstrap; print('numpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env={}, timeout=30)
    assert out.stdout == "False\n", out.stderr
