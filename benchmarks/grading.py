"""Grading by the numbers: overhead per submission, 200 submissions with two workers, and ten kills of the grader.

    python benchmarks/grading.py overhead      # beyond what the cells themselves need
    python benchmarks/grading.py class         # 200 submissions of lab 01, 30 of them hostile, killed ten times
    python benchmarks/grading.py hostile       # the hostile set: expected, got, seconds

Each writes its table to benchmarks/results/grading_NAME.md.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
LAB = "01"
SEED = 20250326


def solved_cells() -> tuple[list[str], dict[str, str]]:
    """(the solved exercises' cells of lab 01, their stubs by id)."""
    from omni_lab.lab.build import exercise_of, lab_sources, notebook

    source = lab_sources(ROOT, [LAB])[0]
    cells = [c.source for c in notebook(source, True).cells if "exercise" in c.metadata.get("tags", [])]
    stubs = [c.source for c in notebook(source, False).cells if "exercise" in c.metadata.get("tags", [])]
    return cells, {exercise_of(stub, source): stub for stub in stubs}


def first_cells() -> list[str]:
    """What stands before the exercises: the imports of lab 01."""
    from omni_lab.lab.build import lab_sources, notebook

    cells = [c for c in notebook(lab_sources(ROOT, [LAB])[0], True).cells if c.cell_type == "code"]
    return [
        c.source
        for c in cells
        if c.source.startswith(("import", "from")) and "exercise" not in c.metadata.get("tags", [])
    ]


def write_class(folder: Path, students: int, hostile: int) -> None:
    """`students` submissions of lab 01 of all kinds, `hostile` of them out of the hostile set."""
    from tests.grading.conftest import HOSTILE, write_submission
    from tests.grading.hostile.make import notebook

    chance = random.Random(1)
    cells, stubs = solved_cells()
    folder.mkdir(parents=True)
    harmful = sorted(name for name in HOSTILE if "/" not in name and "<" not in name)
    for name in chance.sample(harmful, hostile):
        write_submission(folder, f"hostile-{name}", HOSTILE[name])
    for number in range(students - hostile):
        chosen = list(cells)
        for index in range(len(chosen)):
            kind = chance.random()
            if kind < 0.15:
                chosen[index] = list(stubs.values())[index]
            elif kind < 0.25:
                chosen[index] = chosen[index].replace("return ", "return 2 * ", 1)
        (folder / f"student-{number:03d}.ipynb").write_bytes(notebook(*first_cells(), *chosen))


def command(folder: Path, out: Path, workers: int) -> list[str]:
    script = (
        "import sys; sys.path.insert(0, '.'); from pathlib import Path\n"
        "from omni_lab.grading.grade import Settings, grade\n"
        "from omni_lab.grading.sandbox import Limits\n"
        "limits = Limits(cell_seconds=10, case_seconds=2, total_seconds=120, memory=2 << 30, processes=96)\n"
        f"settings = Settings(Path('.'), {LAB!r}, Path({str(out)!r}), {workers}, limits, seed={SEED})\n"
        f"grade(Path({str(folder)!r}), settings)"
    )
    return [sys.executable, "-c", script]


def run_class(students: int, hostile: int, kills: int) -> str:
    """Grade a class twice, once killed at random moments; the table."""
    chance = random.Random(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        write_class(folder, students, hostile)
        started = time.monotonic()
        subprocess.run(command(folder, Path(name) / "whole", 2), check=True, cwd=ROOT)
        whole = time.monotonic() - started
        for _ in range(kills):
            running = subprocess.Popen(command(folder, Path(name) / "killed", 2), cwd=ROOT, stderr=subprocess.DEVNULL)
            try:
                running.wait(timeout=20 + chance.uniform(0, whole / kills))
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
                running.wait()
        subprocess.run(command(folder, Path(name) / "killed", 2), check=True, cwd=ROOT)
        same = all(
            (Path(name) / "whole" / file).read_bytes() == (Path(name) / "killed" / file).read_bytes()
            for file in ("gradebook.json", "gradebook.csv")
        )
    return (
        "| submissions | hostile | workers | wall, whole run | kills | same gradebook, byte for byte |\n"
        "|---|---|---|---|---|---|\n"
        f"| {students} | {hostile} | 2 | {whole:.0f} s | {kills} | {'yes' if same else 'NO'} |\n"
    )


def plain_seconds(path: Path) -> float:
    """Wall seconds of the same cells run by a bare Python: the submission's own computing."""
    cells = [cell["source"] for cell in json.loads(path.read_text())["cells"]]
    code = "\n".join(cells).replace("from omni_lab.lab import exercise", "exercise = lambda name: lambda f: f")
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return time.monotonic() - started


def toy(folder: Path, count: int) -> None:
    from tests.grading.hostile.make import ALL, IMPORTS, notebook

    folder.mkdir()
    for number in range(count):
        (folder / f"student{number}.ipynb").write_bytes(notebook(IMPORTS, *ALL))


def run_overhead(count: int) -> str:
    """Wall seconds per honest submission on one core, beyond the same cells in a bare Python."""
    from omni_lab.grading.collect import collect
    from omni_lab.grading.grade import Settings, digest_of, grade_one, open_room
    from omni_lab.grading.hidden import draw, find_lab

    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    with tempfile.TemporaryDirectory() as name:
        course = Path(name) / "course"
        shutil.copytree(ROOT / "tests" / "grading" / "course", course)
        (course / "omni_lab").symlink_to(ROOT / "omni_lab")
        toy(Path(name) / "in", count)
        path = Path(name) / "in" / "student0.ipynb"
        own = sorted(plain_seconds(path) for _ in range(3))[1]
        source = find_lab(course, "90")
        hidden, seconds = draw(source, SEED), []
        with open_room(Settings(course, "90", Path(name)), source) as room:
            for entry in collect(Path(name) / "in", Path(name)):
                started = time.monotonic()
                record, _ = grade_one(entry, digest_of(entry), hidden, room)
                seconds.append(time.monotonic() - started)
                assert all(e["status"] == "ok" for e in record["exercises"].values()), record
    wall = sorted(seconds)[count // 2]
    return (
        "| honest submissions of the toy lab, on one core | wall, s |\n|---|---|\n"
        f"| graded: sandbox, papermill, kernel, torch, probes | {wall:.2f} |\n"
        f"| the same cells in a bare Python, torch included | {own:.2f} |\n"
        f"| overhead | {wall - own:.2f} |\n"
    )


def run_hostile() -> str:
    """The hostile set, two at a time, with limits as in the tests."""
    from omni_lab.grading.grade import Settings, grade
    from tests.grading.conftest import HOSTILE, LIMITS, write_submission

    with tempfile.TemporaryDirectory() as name:
        course, folder = Path(name) / "course", Path(name) / "in"
        shutil.copytree(ROOT / "tests" / "grading" / "course", course)
        (course / "omni_lab").symlink_to(ROOT / "omni_lab")
        folder.mkdir()
        for submission, expected in HOSTILE.items():
            write_submission(folder, submission, expected)
        grade(folder, Settings(course, "90", Path(name) / "out", 2, LIMITS, seed=SEED))
        return hostile_table(Path(name) / "out" / "store.jsonl")


def hostile_table(path: Path) -> str:
    """Submission, expected, got and seconds, from the store of a run over the hostile set."""
    from omni_lab.grading.store import read_store
    from tests.grading.conftest import EXERCISES, HOSTILE

    records = read_store(path)[1]
    rows = []
    for submission, expected in HOSTILE.items():
        got = [records[submission]["exercises"][e] for e in EXERCISES]
        points = " + ".join(f"{e['points']:g}" for e in got)
        wanted = " + ".join(f"{p:g}" for p in expected.points)
        label = submission.replace("|", "\\|").replace("<", "&lt;")
        statuses = ", ".join(e["status"] for e in got)
        rows.append(f"| {label} | {wanted} | {points} | {statuses} | {records[submission]['seconds']:.1f} |")
    return "| submission | expected | got | statuses | seconds |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "class", "hostile"])
    parser.add_argument("--submissions", type=int, default=200)
    parser.add_argument("--hostile", type=int, default=30)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9, help="of the overhead")
    given = parser.parse_args()
    if given.what == "overhead":
        table = run_overhead(given.repeats)
    elif given.what == "class":
        table = run_class(given.submissions, given.hostile, given.kills)
    else:
        table = run_hostile()
    load = os.getloadavg()[0]
    text = f"Measured on {os.cpu_count()} CPU cores, load average {load:.1f} (others at work when above 2).\n\n{table}"
    (ROOT / "benchmarks" / "results" / f"grading_{given.what}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
