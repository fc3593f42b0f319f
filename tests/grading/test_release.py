"""What a graded release is: one lab, no answers, no way to the open course, and a notebook that runs to its end."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from omni_lab.grading.release import release_each, student_notebook, write_package
from omni_lab.lab import bootstrap, build

ROOT = Path(__file__).parents[2]


def test_each_lab_is_a_release_of_its_own(course: Path, tmp_path: Path) -> None:
    """Of several labs in one package no notebook would have the functions of the others."""
    root = tmp_path / "two"
    shutil.copytree(course, root, symlinks=True)
    for name in ("91_toy.py", "exercises/91_toy.py"):
        shutil.copy(root / "solutions" / name.replace("91", "90"), root / "solutions" / name)
    made = release_each(root, [], tmp_path / "out")
    assert [manifest["lab"] for manifest in made] == ["90_toy", "91_toy"]
    for lab in ("90_toy", "91_toy"):
        folder = tmp_path / "out" / lab
        assert os.listdir(folder / "omni_lab_course" / "notebooks") == [f"{lab}.ipynb"]
        assert (folder / "omni_lab_course.zip").is_file()


def test_what_would_answer_a_variant_is_taken_out_and_the_rest_stays(tmp_path: Path) -> None:
    removed = write_package(ROOT, tmp_path / "07", build.lab_sources(ROOT, ["07"]))
    assert {"omni_lab.lab.streamer:packaged", "omni_lab.codec.flow_matching:interpolant"} <= set(removed)
    text = (tmp_path / "07/omni_lab/lab/streamer.py").read_text()
    assert "speech.add(code)" not in text and "`packaged` would answer codec.stream" in text
    checks = json.loads((tmp_path / "07/omni_lab/lab/checks/07.json").read_text())["exercises"]
    stripped = {c["exercise"]["id"] for c in checks if c["removed"]}
    assert "codec.stream" in stripped and "codec.noisy_path" not in stripped
    # No points, no secret: lab 00 is there to be played with.
    assert write_package(ROOT, tmp_path / "00", build.lab_sources(ROOT, ["00"])) == []


def test_the_set_up_cell_of_a_release_fetches_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cell = bootstrap.release_cell_source("0.1.0")
    released = student_notebook(build.lab_sources(ROOT, ["01"])[0])
    (found,) = [c.source for c in released.cells if "bootstrap" in c.metadata.get("tags", [])]
    assert found.split("ready(")[0] == cell.split("ready(")[0]
    code = "\n".join(c.source for c in released.cells if c.cell_type == "code")
    assert '"clone"' not in code and "OMNI_LAB_COURSE" not in code and "http" not in found
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"unzip omni_lab_course\.zip.*here, and run again"):
        exec(cell, {})


@pytest.mark.parametrize("place", ["notebooks", ".."])
def test_the_set_up_cell_finds_the_release_beside_it(place: str, tmp_path: Path) -> None:
    """In its own folder, and unzipped beside a notebook that was opened alone; before a course that is installed."""
    folder = tmp_path / "omni_lab_course"
    for name in ("omni_lab/__init__.py", "omni_lab/lab/__init__.py", "MANIFEST.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "omni_lab/lab/bootstrap.py").write_text("def ready(version, released): print(__file__, released)")
    (folder / "notebooks").mkdir()
    cell = bootstrap.release_cell_source("0.1.0")
    ran = subprocess.run([sys.executable, "-P", "-c", cell], cwd=folder / place, capture_output=True, text=True)
    assert ran.stdout.split() == [str(folder / "omni_lab/lab/bootstrap.py"), "True"], ran.stderr


def test_an_untouched_release_runs_to_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A real lab, every exercise unsolved: cells that wait for one are skipped, and all points are told."""
    for name, value in {"OMNI_LAB_SCALE": "smoke", "OMNI_LAB_HEADLESS": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    source = build.lab_sources(ROOT, ["04"])[0]
    write_package(ROOT, tmp_path, [source])
    (tmp_path / "MANIFEST.json").touch()
    (tmp_path / "data_samples").symlink_to(ROOT / "data_samples")
    ran = student_notebook(source)
    nbclient.NotebookClient(
        ran, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    said = "".join(o.get("text", "") for c in ran.cells for o in c.get("outputs", []))
    assert "Skipped from here: tmrope.grid_ids" in said and "Total: 0 of 100 points." in said
    nbformat.validate(ran)
