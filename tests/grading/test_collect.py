"""Names and files from what learning platforms export."""

import os
import zipfile
from pathlib import Path

import pytest

from omni_lab.errors import InputError
from omni_lab.grading.collect import collect, student_of


def names(folder: Path, scratch: Path, roster: Path | None = None) -> dict[str, list[str]]:
    scratch.mkdir(exist_ok=True)
    return {entry.name: [path.name for path in entry.files] for entry in collect(folder, scratch, roster)}


def test_platforms_names() -> None:
    assert student_of("Ada Lovelace_1234567_assignsubmission_file_") == ("Ada Lovelace", "1234567", False)
    assert student_of("Ada Lovelace_1234567_assignsubmission_file_lab01") == ("Ada Lovelace", "1234567", False)
    assert student_of("lovelaceada_LATE_12345_67890_lab01-2") == ("lovelaceada", "12345", True)
    assert student_of("lovelaceada_12345_67890_lab01") == ("lovelaceada", "12345", False)
    assert student_of("my_own_name") == ("my_own_name", "", False)
    assert student_of("two\nlines\x1b")[0] == "two?lines?"


def test_folders_files_zips_and_roster(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "Grace Hopper_7_assignsubmission_file_").mkdir(parents=True)
    (folder / "Grace Hopper_7_assignsubmission_file_" / "a.ipynb").write_text("{}")
    (folder / "lovelaceada_12_34_lab01.ipynb").write_text("{}")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("")
    with zipfile.ZipFile(folder / "zipped.zip", "w") as archive:
        archive.writestr("deep/b.ipynb", "{}")
        archive.writestr("../out.ipynb", "{}")
        archive.writestr("deep/program.exe", "")
    assert names(folder, tmp_path / "s1") == {
        "Grace Hopper": ["a.ipynb"],
        "empty": [],
        "lovelaceada": ["lovelaceada_12_34_lab01.ipynb"],
        "zipped": ["b.ipynb"],
    }
    assert not list(tmp_path.glob("out*"))
    roster = tmp_path / "roster.csv"
    roster.write_text("name,id\nAda Lovelace,12\nHopper Grace,7\nAbsent Person,9\n")
    found = names(folder, tmp_path / "s2", roster)
    assert set(found) == {"Ada Lovelace", "Hopper Grace", "Absent Person", "empty", "zipped"}


def test_a_whole_class_in_one_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "class.zip", "w") as archive:
        archive.writestr("one/a.ipynb", "{}")
        archive.writestr("two.ipynb", "{}")
    assert names(tmp_path / "class.zip", tmp_path / "s") == {"one": ["a.ipynb"], "two": ["two.ipynb"]}


def test_a_class_may_lie_in_one_folder_of_its_zip(tmp_path: Path) -> None:
    """As a file manager packs a folder. What may be one student's folder too is asked for in another form."""

    def found(*inside: str) -> dict[str, list[str]]:
        with zipfile.ZipFile(tmp_path / "class.zip", "w") as archive:
            for name in inside:
                archive.writestr(name, "{}")
        return names(tmp_path / "class.zip", tmp_path / "s")

    assert found("in/one/a.ipynb", "in/two/b.ipynb", "__MACOSX/in/a.ipynb") == {"one": ["a.ipynb"], "two": ["b.ipynb"]}
    assert set(found("in/lee_11_1_a.ipynb", "in/mayada_12_2_a.ipynb")) == {"lee", "mayada"}
    assert found("Lee_11_assignsubmission_file_/a.ipynb", "Lee_11_assignsubmission_file_/b.ipynb") == {
        "Lee": ["a.ipynb", "b.ipynb"]
    }
    assert found("ada/a.ipynb", "ada/line.safetensors") == {"ada": ["a.ipynb"]}
    assert found("ada/course/a.ipynb", "ada/course/b.ipynb") == {"ada": ["a.ipynb", "b.ipynb"]}
    with pytest.raises(InputError, match=r"class.zip: all lies in one folder, in, which may be .*: unpack it"):
        found("in/ada.ipynb", "in/ben.ipynb")


def test_bad_input_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        collect(tmp_path / "absent", tmp_path)
    with pytest.raises(InputError, match="no submissions"):
        (tmp_path / "nothing").mkdir()
        collect(tmp_path / "nothing", tmp_path)
    (tmp_path / "roster.csv").write_text("who\nAda\n")
    (tmp_path / "nothing" / "a.ipynb").write_text("")
    with pytest.raises(InputError, match="column `name`"):
        collect(tmp_path / "nothing", tmp_path, tmp_path / "roster.csv")


def test_roster_ids_and_platform_ids_are_kept_apart(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "lovelaceada_LATE_12_34_lab01.ipynb").write_text("{}")
    (folder / "lovelaceada_LATE_12_35_line.safetensors").write_bytes(b"")
    roster = tmp_path / "roster.csv"
    roster.write_text("Name,ID,Email\nAda Lovelace,s007,ada@example.org\n")
    (ada,) = collect(folder, tmp_path, roster)
    assert (ada.name, ada.platform_id, ada.student_id, ada.email) == ("Ada Lovelace", "12", "s007", "ada@example.org")
    assert ada.late and len(ada.files) == len(ada.artefacts) == 1


def test_nobody_gets_anothers_submission(tmp_path: Path) -> None:
    """Names of the same letters, a name that is another's id, namesakes."""
    folder, roster = tmp_path / "in", tmp_path / "roster.csv"
    folder.mkdir()
    for name in (
        "nora",
        "s2",
        "lee_11_1_a",
        "lee_12_2_b",
        "Kim_5_assignsubmission_file_x",
        "Kim_6_assignsubmission_file_x",
    ):
        (folder / f"{name}.ipynb").write_text("{}")
    roster.write_text("name,id,email\nAron,s2,\nNora,,\nLee,12,\nLee,11,\nKim,,k@x.org\nS2,s9,\n")
    found = names(folder, tmp_path / "s", roster)
    assert found["Aron"] == ["s2.ipynb"] and found["Nora"] == ["nora.ipynb"] and found["S2"] == []
    assert found["Lee (11)"] == ["lee_11_1_a.ipynb"] and found["Lee (12)"] == ["lee_12_2_b.ipynb"]
    (kim,) = (entry for entry in collect(folder, tmp_path / "s", roster) if entry.name == "Kim" and entry.fault)
    assert "the platform's ids" in kim.fault and found["Kim (5)"] and found["Kim (6)"]
    assert sorted(map(len, found.values())) == [0, 0, 1, 1, 1, 1, 1, 1]
    roster.write_text("name,id\nNora,1,2,3\n")
    with pytest.raises(InputError, match="line 2 has more columns"):
        names(folder, tmp_path / "s", roster)


def test_no_namesake_has_the_plain_name(tmp_path: Path) -> None:
    """Or points given by hand to the first would go to a third who hands in later and sorts before."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("lee_11_1_a", "mia_4_4_a"):
        (folder / f"{name}.ipynb").write_text("{}")
    assert set(names(folder, tmp_path / "s")) == {"lee", "mia"}
    for name in ("lee_12_2_b", "lee_10_3_c", "lee_11_5_d"):
        (folder / f"{name}.ipynb").write_text("{}")
    found = names(folder, tmp_path / "s")
    assert set(found) == {"lee (10)", "lee (11)", "lee (12)", "mia"}
    assert found["lee (11)"] == ["lee_11_1_a.ipynb", "lee_11_5_d.ipynb"]


def test_a_name_that_two_rows_may_mean_is_given_to_none(tmp_path: Path) -> None:
    folder, roster = tmp_path / "in", tmp_path / "roster.csv"
    folder.mkdir()
    for name in ("annamos_11_1_a", "Mos Bea_7_assignsubmission_file_a", "B_Eamos"):
        (folder / f"{name}.ipynb").write_text("{}")
    roster.write_text("name\nAnn Amos\nAnna Mos\nBea Mos\nB Eamos\n")
    entries = {entry.name: entry for entry in collect(folder, tmp_path, roster)}
    assert entries["annamos"].files and all("not clear" in entries[name].fault for name in ("Ann Amos", "Anna Mos"))
    assert entries["Bea Mos"].platform_id == "7" and entries["B Eamos"].files[0].name == "B_Eamos.ipynb"


def test_zips_in_a_students_folder_are_unpacked(tmp_path: Path) -> None:
    """As Moodle gives them, in folders or in one zip; a zip within them stays closed, and what is no zip is named."""
    inner = tmp_path / "lab05.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("lab05/a.ipynb", "{}")
        archive.writestr("lab05/line.safetensors", "")
        archive.writestr("lab05/again.zip", inner.read_bytes())
    folder = tmp_path / "in"
    for name, files in {
        "Ada_123": {"lab05.zip": inner.read_bytes()},
        "Ben_124": {"deep/LAB05.ZIP": inner.read_bytes(), "b.ipynb": b"{}", "__MACOSX/lab05.zip": b""},
        "Cy_125": {"lab05.zip": b"PK\3\4 and no more"},
        "Dan_126": {"c.ipynb": b"{}", "lab05.zip": b"PK\3\4 and no more"},
    }.items():
        for file, content in files.items():
            path = folder / f"{name}_assignsubmission_file_" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    with zipfile.ZipFile(tmp_path / "class.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    (folder / "linked").mkdir()
    (folder / "linked" / "lab05.zip").symlink_to(inner)
    os.mkfifo(folder / "linked" / "pipe.zip")
    for source, scratch in ((folder, tmp_path / "s1"), (tmp_path / "class.zip", tmp_path / "s2")):
        scratch.mkdir()
        found = {entry.name: entry for entry in collect(source, scratch)}
        names = {name: [path.name for path in entry.files] for name, entry in found.items() if name != "linked"}
        assert names == {"Ada": ["a.ipynb"], "Ben": ["b.ipynb", "a.ipynb"], "Cy": [], "Dan": ["c.ipynb"]}
        assert [len(found[name].artefacts) for name in names] == [1, 1, 0, 0]
        assert not found["Ada"].fault and not found["Ben"].fault
        assert all(found[name].fault.startswith("lab05.zip: not a readable zip") for name in ("Cy", "Dan"))
        assert "linked" not in found or found["linked"].fault == "lab05.zip: not a regular file"
