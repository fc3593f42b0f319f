"""Grading by the numbers: the hostile set, a class that is interrupted ten times, and every wrong answer's score.

    python benchmarks/grading.py hostile       # the hostile set: expected, got, seconds
    python benchmarks/grading.py class         # 200 submissions of lab 01, 30 of them hostile, killed ten times
    python benchmarks/grading.py exercises     # every exercise of every lab: its cases, and what wrong answers score

Each writes its table to benchmarks/results/grading_NAME.md. The overhead stands in grading_peers.py.
"""

import argparse
import datetime
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
    """`students` submissions of lab 01 of all kinds; `hostile` of them do what the hostile set does, then solve it."""
    from tests.grading.conftest import HOSTILE, write_submission
    from tests.grading.hostile.make import notebook

    chance = random.Random(1)
    cells, stubs = solved_cells()
    folder.mkdir(parents=True)
    harmful = sorted(name for name in HOSTILE if "/" not in name and "<" not in name)
    for name in chance.sample(harmful, hostile):
        write_submission(folder, f"hostile-{name}", HOSTILE[name])
        path = folder / f"hostile-{name}.ipynb"
        attacks = attacking_cells(path)
        if attacks:
            path.write_bytes(notebook(*first_cells(), *attacks, *cells))
    for number in range(students - hostile):
        chosen = list(cells)
        for index in range(len(chosen)):
            kind = chance.random()
            if kind < 0.15:
                chosen[index] = list(stubs.values())[index]
            elif kind < 0.25:
                chosen[index] = chosen[index].replace("return ", "return 2 * ", 1)
        (folder / f"student-{number:03d}.ipynb").write_bytes(notebook(*first_cells(), *chosen))


def attacking_cells(path: Path) -> list[str]:
    """The code cells of a submission of the toy lab, but for its answers; none of a file that is no notebook."""
    from omni_lab.grading.sanitise import InvalidSubmission, code_sources, read_regular_file

    try:
        cells = code_sources(read_regular_file(path))
    except InvalidSubmission:
        return []
    return [source for _, kind, source in cells if kind == "code" and '@exercise("toy.' not in source]


def command(folder: Path, out: Path, workers: int) -> list[str]:
    script = (
        "import sys; sys.path.insert(0, '.'); from pathlib import Path\n"
        "from omni_lab.grading.grade import Settings, grade\n"
        "from omni_lab.grading.sandbox import Limits\n"
        "limits = Limits(cell_seconds=10, case_seconds=5, total_seconds=300, memory=2 << 30, processes=96)\n"
        f"settings = Settings(Path('.'), {LAB!r}, Path({str(out)!r}), {workers}, limits, seed={SEED})\n"
        f"grade(Path({str(folder)!r}), settings)"
    )
    return [sys.executable, "-c", script]


def run_class(students: int, hostile: int, kills: int) -> str:
    """Grade a class twice, once killed at random moments; the table."""
    from omni_lab.grading.store import read_store

    chance = random.Random(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        write_class(folder, students, hostile)
        started = time.monotonic()
        subprocess.run(command(folder, Path(name) / "whole", 2), check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
        whole = time.monotonic() - started
        records = read_store(Path(name) / "whole" / "store.jsonl")[1]
        seconds, done = sum(record["cpu_seconds"] for record in records.values()), [0]
        store = Path(name) / "killed" / "store.jsonl"
        for _ in range(kills):
            running = subprocess.Popen(command(folder, Path(name) / "killed", 2), cwd=ROOT, stderr=subprocess.DEVNULL)
            wait_for_records(running, store, done[-1] + 1)  # start-up over, and something gained
            time.sleep(chance.uniform(0, whole / kills))
            running.send_signal(signal.SIGKILL)
            running.wait()
            done.append(count_records(store))
        subprocess.run(command(folder, Path(name) / "killed", 2), check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
        same = all(
            (Path(name) / "whole" / file).read_bytes() == (Path(name) / "killed" / file).read_bytes()
            for file in ("gradebook.json", "gradebook.csv")
        )
    moments = ", ".join(str(n) for n in done[1:])
    return (
        "| submissions | hostile | workers | CPU s of the sandboxes | wall s | same gradebook, byte for byte |\n"
        "|---|---|---|---|---|---|\n"
        f"| {students} | {hostile} | 2 | {seconds:.0f} | {whole:.0f} | {'yes' if same else 'NO'} |\n\n"
        f"Killed by SIGKILL {kills} times, when so many submissions were in the store: {moments}.\n"
    )


def wait_for_records(running: subprocess.Popen, store: Path, count: int) -> None:
    """Until the store holds `count` submissions or the grader has ended."""
    while running.poll() is None and count_records(store) < count:
        time.sleep(0.1)


def count_records(store: Path) -> int:
    """Submissions in a store that another process is writing."""
    return max(0, store.read_bytes().count(b"\n") - 1) if store.exists() else 0


def run_exercises() -> str:
    """Every exercise of every lab, on fresh cases: what each wrong answer scores, and whether right ones are full."""
    from omni_lab.lab import build
    from omni_lab.lab.check import check, judge, make_checks

    rows, exercises, answers = [], 0, 0
    for source in build.lab_sources(ROOT):
        lab = build.lab_of(source)
        for exercise in lab.exercises:
            mine = lab.answers[exercise.id]
            checks = make_checks(exercise, mine, SEED + 1)
            shares = []
            for number, (name, _, _) in enumerate(mine.wrong):
                verdict = judge(checks, [case.wrong[number] for case in checks.cases])
                shares.append((verdict.passed / verdict.total, name))
            right = [check(function, checks).solved for _, function in mine.also_right]
            exercises, answers = exercises + 1, answers + len(shares)
            listed = ", ".join(f"{name} {share:.0%}" for share, name in sorted(shares))
            full = f"{sum(right)} of {len(right)}"
            rows.append(
                f"| {exercise.id} | {len(checks.cases)} | {len(shares)} | {max(shares)[0]:.0%} | {full} | {listed} |"
            )
    return (
        f"{exercises} exercises, {answers} wrong answers. Points are by share of the cases that hold.\n\n"
        "| exercise | cases | wrong answers | best of them | written otherwise, full | each wrong answer's share |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
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
        spent = " | ".join(f"{records[submission][kind]:.1f}" for kind in ("cpu_seconds", "seconds"))
        rows.append(f"| {label} | {wanted} | {points} | {statuses} | {spent} |")
    return (
        "| submission | expected | got | statuses | CPU s | wall s |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="hostile", choices=["hostile", "class", "exercises"])
    parser.add_argument("--submissions", type=int, default=200)
    parser.add_argument("--hostile", type=int, default=30)
    parser.add_argument("--kills", type=int, default=10)
    given = parser.parse_args()
    if given.what == "class":
        table = run_class(given.submissions, given.hostile, given.kills)
    else:
        table = run_exercises() if given.what == "exercises" else run_hostile()
    load = os.getloadavg()[0]
    day = datetime.date.today()
    text = (
        f"Measured {day}, {os.cpu_count()} CPU cores, load average {load:.1f} (others at work when above 2).\n\n{table}"
    )
    (ROOT / "benchmarks" / "results" / f"grading_{given.what}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
