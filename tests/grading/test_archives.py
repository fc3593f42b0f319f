"""Zips that are too much, damaged or oddly named, and a disk that is full: one student's loss, or nobody's."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from omni_lab.errors import InputError
from omni_lab.grading import archives
from omni_lab.grading import grade as grading
from omni_lab.grading.collect import Collected, collect
from omni_lab.grading.sandbox import check_sandbox
from omni_lab.grading.store import read_store
from tests.grading.conftest import EXERCISES, HOSTILE, SEED, write_submission

MB = 1 << 20


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def zipped(files: dict[str, bytes], folder: Path) -> bytes:
    return write_zip(folder / "made.zip", files).read_bytes()


def collected(source: Path, scratch: Path) -> dict[str, Collected]:
    scratch.mkdir(exist_ok=True)
    return {entry.name: entry for entry in collect(source, scratch)}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED", 2 * MB)
    monkeypatch.setattr(archives, "MAX_ENTRIES", 20)


MUCH = {f"{i}.ipynb": bytes(MB) for i in range(6)}  # each within its own limit


def test_one_zip_has_a_limit_in_all(small: None, tmp_path: Path) -> None:
    write_zip(tmp_path / "in" / "ada.zip", MUCH)
    write_zip(tmp_path / "in" / "ben.zip", {"a.ipynb": b"{}", "line.safetensors": bytes(MB)})
    write_zip(tmp_path / "in" / "cy.zip", {f"{i}.ipynb": b"" for i in range(30)})
    found = collected(tmp_path / "in", tmp_path / "s")
    assert found["ada"].fault.startswith("ada.zip: more than 2 MB when unpacked") and not found["ada"].files
    assert found["cy"].fault.startswith("cy.zip: more than 20 files") and not found["cy"].files
    assert len(found["ben"].files) == len(found["ben"].artefacts) == 1 and not found["ben"].fault
    assert size_of(tmp_path / "s") == MB + 2


def test_the_limit_in_a_class_s_zip_is_each_student_s_own(small: None, tmp_path: Path) -> None:
    files = {f"Ada_1_assignsubmission_file_/{name}": content for name, content in MUCH.items()}
    files["Ben_2_assignsubmission_file_/a.ipynb"] = bytes(MB)
    files |= {f"Cy_3_assignsubmission_file_/{i}.ipynb": b"" for i in range(30)}
    files["Dan_4_assignsubmission_file_lab05.zip"] = zipped(MUCH, tmp_path)
    files["Eve_5_assignsubmission_file_lab05.zip"] = zipped({"a.ipynb": b"{}"}, tmp_path)
    found = collected(write_zip(tmp_path / "class.zip", files), tmp_path / "s")
    assert {name: len(entry.files) for name, entry in found.items()} == {
        "Ada": 0, "Ben": 1, "Cy": 0, "Dan": 0, "Eve": 1,
    }  # fmt: skip
    assert [found[name].platform_id for name in ("Ada", "Ben")] == ["1", "2"]
    for name, words in (("Ada", "more than 2 MB"), ("Cy", "more than 20 files"), ("Dan", "more than 2 MB")):
        assert words in found[name].fault
    assert size_of(tmp_path / "s") < 1.5 * MB


def test_the_limit_is_for_all_zips_of_a_folder_together(small: None, tmp_path: Path) -> None:
    for number in range(4):
        write_zip(tmp_path / "in" / "ada" / f"{number}.zip", {"a.ipynb": bytes(MB)})
    ada = collected(tmp_path / "in", tmp_path / "s")["ada"]
    assert len(ada.files) == 2 and ada.fault.startswith("2.zip: more than 2 MB when unpacked")
    assert size_of(tmp_path / "s") == 2 * MB


def test_damaged_zips_are_their_students_alone(tmp_path: Path) -> None:
    """Of each method, with bytes changed where the data lie."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = tmp_path / "in" / f"student{method}.zip"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.ipynb", os.urandom(300) + bytes(3000))
        raw = bytearray(path.read_bytes())
        raw[40:200] = b"\xff" * 160
        path.write_bytes(raw)
    (tmp_path / "in" / "good.ipynb").write_text("{}")
    found = collected(tmp_path / "in", tmp_path / "s")
    assert len(found) == 3 and len(found.pop("good").files) == 1
    assert all("not a readable zip" in entry.fault and not entry.trouble for entry in found.values())
    assert not list((tmp_path / "s").iterdir())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_give_all_at_once_are_refused(tmp_path: Path, method: int) -> None:
    """Some kilobytes of bzip2 are gigabytes, and a reader gets no smaller piece of them than a block."""
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "student.zip", "w", method) as archive:
        archive.writestr("a.ipynb", bytes(3000))
    (tmp_path / "in" / "good.ipynb").write_text("{}")
    found = collected(tmp_path / "in", tmp_path / "s")
    assert len(found["good"].files) == 1 and "no file manager" in found["student"].fault


def test_long_names_keep_their_ending(tmp_path: Path) -> None:
    wide = "\u540d" * 120  # 360 bytes, more than a file system takes
    files = {
        f"Ada_1_assignsubmission_file_{'a' * 90}.ipynb": b"{}",
        f"Ben_2_assignsubmission_file_/{wide}.ipynb": b"{}",
    }
    files |= {"Cy_3_assignsubmission_file_/" + "deep/" * 2000 + "a.ipynb": b"{}"}
    found = collected(write_zip(tmp_path / "class.zip", files), tmp_path / "s")
    assert {name: len(entry.files) for name, entry in found.items()} == {"Ada": 1, "Ben": 1, "Cy": 0}
    assert "cannot be unpacked" in found["Cy"].fault


def test_a_damaged_class_is_no_student_s_fault(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "class.zip", {"ada/a.ipynb": bytes(3000), "ben/a.ipynb": b"{}"})
    raw = bytearray(path.read_bytes())
    raw[45:52] = b"\xff" * 7
    path.write_bytes(raw)
    (tmp_path / "s").mkdir()
    with pytest.raises(InputError, match="class.zip: not a readable zip"):
        collect(path, tmp_path / "s")


def test_a_full_disk_is_no_student_s_fault(tmp_path: Path) -> None:
    """On a disk of 3 MB, which is really full: what did not fit is to be graded another time, the others now."""
    big = {"a.ipynb": os.urandom(2 * MB), "b.ipynb": os.urandom(2 * MB)}
    write_zip(tmp_path / "in" / "ada.zip", big)
    write_zip(tmp_path / "in" / "ben.zip", {"a.ipynb": b"{}"})
    files = {f"Ada_1_assignsubmission_file_/{name}": content for name, content in big.items()}
    write_zip(tmp_path / "class.zip", files | {"Ben_2_assignsubmission_file_/a.ipynb": b"{}"})
    (tmp_path / "disk").mkdir()
    code = (
        "import json, sys; from pathlib import Path; from omni_lab.grading.collect import collect\n"
        "found = collect(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(json.dumps([[e.name.lower(), len(e.files), e.fault, e.trouble] for e in found]))"
    )
    disk = ["--dev-bind", "/", "/", "--size", str(3 * MB), "--tmpfs", str(tmp_path / "disk"), "--"]
    for source in ("in", "class.zip"):
        program = [sys.executable, "-c", code, str(tmp_path / source), str(tmp_path / "disk")]
        ran = subprocess.run([check_sandbox(), *disk, *program], capture_output=True, text=True, check=True)
        ada, ben = json.loads(ran.stdout)
        assert ada[:2] == ["ada", 0] and "No space left on device" in ada[3] and str(tmp_path / "disk") in ada[3]
        assert ben == ["ben", 1, "", ""]


def test_what_did_not_fit_gives_no_points_and_is_graded_again(
    course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_submission(folder, "all-right", HOSTILE["all-right"])
    settings = grading.Settings(course, "90", tmp_path / "out", workers=1, trust_submissions=True, seed=SEED)
    entry = Collected("all-right", trouble="all-right.zip could not be unpacked")
    monkeypatch.setattr(grading, "collect", lambda *_: [entry])
    book = grading.grade(folder, settings, progress=False)
    assert book["all-right"]["points"] is None
    for exercise in book["all-right"]["exercises"].values():  # the artefact is among them
        assert (exercise["points"], exercise["status"]) == (None, "infrastructure")
        assert "could not be unpacked" in exercise["message"]
    path = grading.answers_path(tmp_path / "out", "all-right", "toy.line")
    path.write_bytes(b"left from another time")
    again = grading.regrade(settings, [])["all-right"]["exercises"]
    assert {exercise["status"] for exercise in again.values()} == {"infrastructure"}
    path.unlink()
    entry = Collected("all-right", [folder / "all-right.ipynb"], fault="more.zip: not a readable zip")
    again = grading.grade(folder, settings, progress=False)
    assert "more.zip: not a readable zip" in read_store(tmp_path / "out" / "store.jsonl")[1]["all-right"]["notes"]
    assert sum(again["all-right"]["exercises"][identifier]["points"] for identifier in EXERCISES) == 20.0
