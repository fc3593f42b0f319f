"""One source, two notebooks: stubs, markers, hints, ids, and a lint that lets nothing unknown through."""

import hashlib
import json
import shutil
from pathlib import Path

import nbformat
import pytest

from omni_lab import cli
from omni_lab.errors import DataError, InputError
from omni_lab.lab import build, measured, stored
from omni_lab.lab.lint import check_outputs

ROOT = Path(__file__).parents[2]
PARAMETERS = '# %% tags=["parameters"]\nSCALE = None\nSEED = 0\n\n'


@pytest.fixture
def course(tmp_path):
    """A course of one small lab."""
    (tmp_path / "solutions" / "exercises").mkdir(parents=True)
    for part in ("solutions", "solutions/exercises"):
        shutil.copy(ROOT / part / "00_start_here.py", tmp_path / part)
    return tmp_path


def write(course, text):
    source = course / "solutions" / "00_start_here.py"
    (course / "solutions" / "exercises" / "00_start_here.py").unlink(missing_ok=True)
    source.write_text(text)
    return source


def test_the_two_forms_differ_in_the_solution_only(course):
    source = course / "solutions" / "00_start_here.py"
    solved, student = build.notebook(source, True), build.notebook(source, False)
    assert [c.id for c in solved.cells] == [c.id for c in student.cells]
    text = "\n".join(c.source for c in student.cells)
    assert "SOLUTION" not in text and "sqrt()" not in text and "\n    ..." in text
    assert "return wave.square()" in "\n".join(c.source for c in solved.cells)
    assert "SOLUTION" not in "\n".join(c.source for c in solved.cells)
    assert sum("hint" in c.metadata.get("tags", []) for c in student.cells) == 2


def test_building_twice_gives_the_same_bytes(course):
    source = course / "solutions" / "00_start_here.py"
    produced = []
    for _ in range(2):
        build.build_unexecuted(source, course / "checks")
        files = [course / "notebooks" / "00_start_here.ipynb", *sorted((course / "checks").iterdir())]
        produced.append([f.read_bytes() for f in files])
    assert produced[0] == produced[1] and len(produced[0]) == 3


def test_an_inserted_cell_changes_no_other_id(course):
    source = course / "solutions" / "00_start_here.py"
    before = [c.id for c in build.notebook(source, True).cells]
    source.write_text(source.read_text() + "\n# %%\nprint('one more')\n")
    assert [c.id for c in build.notebook(source, True).cells][: len(before)] == before


def test_a_changed_source_is_noticed(course):
    source = course / "solutions" / "00_start_here.py"
    build.build_unexecuted(source, course / "checks")
    assert not any("notebooks/00" in p for p in build.problems(source, course / "checks"))
    source.write_text(source.read_text().replace("A steady tone", "One steady tone"))
    exercises = course / "solutions" / "exercises" / source.name
    exercises.write_text(exercises.read_text().replace("+ 2.0", "+ 3.0"))
    found = "\n".join(build.problems(source, course / "checks"))
    assert "notebooks/00_start_here.ipynb: not what" in found and "00.json: not what" in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# %%\nx = 1\n", "exactly one cell tagged"),
        (PARAMETERS + '# %% tags=["nbval-skip"]\nx = 1\n', "unknown tag 'nbval-skip'"),
        (PARAMETERS + '# %% tags=["raises-exception"]\nx = 1\n', "unknown tag 'raises-exception'"),
        (PARAMETERS + "# %%\n# !pip install x\n!ls\n", "magic or shell line"),
        (PARAMETERS + "# %%\n%timeitt 1\n", "magic or shell line"),
        (PARAMETERS + "# %%\nplt.show()\n", "use lab.show"),
        (PARAMETERS + "# %% [markdown]\n# ![](figure.svg)\n", "without alt text"),
        (PARAMETERS + '# %% [markdown]\n# <img src="a.svg">\n', "without alt text"),
        (PARAMETERS + '# %% tags=["exercise"]\nx = 1\n', 'no @exercise("...")'),
        (PARAMETERS + "# %%\n# BEGIN SOLUTION\nx = 1\n# END SOLUTION\n", "nowhere else"),
    ],
)
def test_faults_of_a_source_are_one_line(course, text, words):
    source = write(course, text)
    with pytest.raises(InputError) as error:
        build.notebook(source, solved=True)
    assert words in str(error.value) and source.name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("cell", ["# BEGIN SOLUTION\nx", "x\n# END SOLUTION", "# BEGIN SOLUTION\n# BEGIN SOLUTION"])
def test_markers_come_in_pairs(cell):
    with pytest.raises(InputError, match="without its partner"):
        build.stub_of(cell)


def test_a_heading_that_disagrees_with_the_exercise_is_refused(course):
    source = course / "solutions" / "00_start_here.py"
    source.write_text(source.read_text().replace("(difficulty 1 of 3, 3 minutes", "(difficulty 1 of 3, 9 minutes"))
    with pytest.raises(InputError, match="needs the heading"):
        build.notebook(source, solved=True)


def test_outputs_without_alt_text_are_found():
    bare = nbformat.v4.new_output("display_data", {"image/png": "xx"})
    unnamed = nbformat.v4.new_output("display_data", {"text/html": '<img src="x">'})
    fine = nbformat.v4.new_output("display_data", {"text/html": '<img alt="a curve that falls" src="x">'})
    cells = [nbformat.v4.new_code_cell(outputs=[o]) for o in (bare, unnamed, fine)]
    found = check_outputs(Path("x.ipynb"), nbformat.v4.new_notebook(cells=cells))
    assert len(found) == 2 and "bare picture" in found[0] and "without alt text" in found[1]


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"nbformat": 4}', "\0"])
def test_what_is_no_notebook_is_one_line(tmp_path, content):
    path = tmp_path / "42_mine.ipynb"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="42_mine.ipynb: (not a Jupyter|no such) notebook") as error:
        build.read_notebook(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"format": 1, "exercises": [3]}', '{"format": 9, "exercises": []}']
)
def test_damaged_checks_are_one_line(tmp_path, content):
    stored.write_checks("42", [], tmp_path)
    path = tmp_path / "42.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match="omni-lab notebooks build") as error:
        stored.read_checks("42", tmp_path)
    assert "\n" not in str(error.value)


def test_checks_whose_two_files_are_of_two_builds_are_one_line(course):
    """A build that is killed has replaced the arrays and not yet what tells of them."""
    source, folder = course / "solutions" / "00_start_here.py", course / "checks"
    build.build_unexecuted(source, folder)
    assert stored.read_checks("00", folder)
    before = (folder / "00.json").read_bytes()
    exercises = course / "solutions" / "exercises" / source.name
    exercises.write_text(exercises.read_text().replace("+ 2.0", "+ 3.0"))
    build.build_unexecuted(source, folder)
    (folder / "00.json").write_bytes(before)
    with pytest.raises(DataError, match=r"00\.npz does not belong to .*omni-lab notebooks build"):
        stored.read_checks("00", folder)


@pytest.mark.parametrize("content", [b"", b"PK", b"no arrays"])
def test_damaged_arrays_are_one_line(tmp_path, content):
    stored.write_checks("42", [], tmp_path)
    (tmp_path / "42.npz").write_bytes(content)
    form = json.loads((tmp_path / "42.json").read_text()) | {"arrays": hashlib.sha256(content).hexdigest()}
    (tmp_path / "42.json").write_text(json.dumps(form))
    with pytest.raises(DataError, match=r"42\.json: damaged checks.*omni-lab notebooks build"):
        stored.read_checks("42", tmp_path)


def test_a_course_with_a_package_of_its_own_keeps_its_checks_there(course):
    """`--root` of another checkout wrote into this one."""
    own = course / "omni_lab" / "lab"
    assert stored.folder_of(course) == stored.FOLDER and measured.file_of(course) == measured.FILE
    own.mkdir(parents=True)
    assert measured.file_of(course) == own / "measured.json"
    assert cli.main(["notebooks", "build", "00", "--root", str(course), "--no-execute"]) == 0
    assert sorted(p.name for p in (own / "checks").iterdir()) == ["00.json", "00.npz"]
    (own / "checks" / "00.json").unlink()
    with pytest.raises(DataError, match=str(own / "checks" / "00.json")):
        build.problems(course / "solutions" / "00_start_here.py")
