"""CPU seconds per honest submission, side by side: this grader, nbgrader 0.9.6 and otter-grader 7.0.0.

    python benchmarks/grading_peers.py            # writes benchmarks/results/grading_overhead.md

All three grade the same toy notebooks (imports of numpy and torch, three solved functions), one after another. The two
others live in an environment of their own, which is made on first use (build/graders). CPU time of every process that a
command starts is counted by the kernel, in a control group where one can be had; so others at work on the machine
disturb the figures little.
"""

import argparse
import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")
PEERS = ("nbgrader==0.9.6", "otter-grader==7.0.0")
SEED = 20250326
PLAIN = "import math\nimport numpy as np\nimport torch\nexercise = lambda name: lambda f: f"
# What each exercise's check asserts, for the two graders that check inside the student's process.
CHECKS = {
    "toy.double": "x = torch.linspace(-1, 1, {n})\nassert torch.allclose(double(x), x + x)",
    "toy.mean_square": "v = [i - 1.5 for i in range({n})]\nassert math.isclose(mean_square(v), np.mean(np.square(v)))",
    "toy.running_total": "v = np.arange({n}) * 0.5\nassert np.allclose(running_total(v), np.cumsum(v))",
}
POINTS = {"toy.double": 5, "toy.mean_square": 10, "toy.running_total": 5}


def cpu_of(command: list[str], folder: Path) -> float:
    """CPU seconds, user and system, of a command and all that it starts. Raises if it fails."""
    from omni_lab.grading.cgroup import group

    beside = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader starts alembic by its name
    environment = {**os.environ, "JUPYTER_PLATFORM_DIRS": "1", "HOME": str(folder), "PATH": beside}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with group(1 << 40, 4096) as own:
        whole = [*own.joining(), *command] if own else command
        ran = subprocess.run(whole, cwd=folder, env=environment, capture_output=True, text=True)
        counted = own.cpu_seconds() if own else None
    if ran.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    waited = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return waited if counted is None else counted


def environment_of_peers() -> Path:
    """The folder of the peers' programs; made if it is not there, with this environment's torch in sight of it."""
    place = ROOT / "build" / "graders"
    if not (place / "bin" / "otter").exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(place / "bin" / "pip"), "install", "--quiet", *PEERS], check=True)
        (packages,) = (place / "lib").glob("python*/site-packages")
        (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")  # behind its own packages
        # Byte code once, as a package manager would: no run shall pay for it.
        subprocess.run([str(place / "bin" / "python"), "-m", "compileall", "-q", str(packages)], check=False)
    return place / "bin"


def honest() -> list[str]:
    """The three solved cells of the toy lab, as students hand them in."""
    from tests.grading.hostile.make import ALL

    return list(ALL)


def by_this(folder: Path, count: int) -> float:
    """`omni-lab grade` on `count` submissions: sandbox, papermill, probes, gradebook and feedback."""
    from tests.grading.hostile.make import notebook

    course = folder / "course"
    shutil.copytree(ROOT / "tests" / "grading" / "course", course)
    (course / "omni_lab").symlink_to(ROOT / "omni_lab")
    (folder / "in").mkdir()
    imports = "import numpy as np\nimport torch\nfrom omni_lab.lab import exercise"
    for number in range(count):
        (folder / "in" / f"s{number}.ipynb").write_bytes(notebook(imports, *honest()))
    seconds = cpu_of([sys.executable, "-m", "omni_lab.cli", "grade", str(folder / "in"), "--lab", "90", "--root",
                      str(course), "--out", str(folder / "out"), "--workers", "1"], ROOT)  # fmt: skip
    book = json.loads((folder / "out" / "gradebook.json").read_text())
    assert [entry["points"] for entry in book.values()] == [20.0] * count, book
    return seconds


def by_nbgrader(folder: Path, count: int) -> float:
    """`nbgrader autograde` on `count` submissions, after `generate_assignment`, which is not counted."""
    import nbformat

    programs = environment_of_peers()

    def cell(source: str, **marks: object) -> nbformat.NotebookNode:
        made = nbformat.v4.new_code_cell(source)
        if marks:
            made.metadata["nbgrader"] = {"schema_version": 3, "task": False, **marks}
        return made

    cells = [cell(PLAIN)]
    for source, (identifier, check) in zip(honest(), CHECKS.items(), strict=True):
        name = identifier.replace(".", "-")
        cells.append(cell(source, grade=False, solution=True, locked=False, grade_id=name))
        tests = "\n".join(check.format(n=n) for n in (1, 2, 3, 5, 8))
        cells.append(cell(tests, grade=True, solution=False, locked=True, grade_id=f"{name}-test",
                          points=POINTS[identifier]))  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    (folder / "nbgrader_config.py").write_text(
        "c = get_config()\nc.CourseDirectory.course_id = 'toy'\nc.ExecutePreprocessor.timeout = 600\n"
    )
    (folder / "source" / "ps1").mkdir(parents=True)
    nbformat.write(book, folder / "source" / "ps1" / "toy.ipynb")
    cpu_of([str(programs / "nbgrader"), "generate_assignment", "ps1"], folder)
    for number in range(count):
        (folder / "submitted" / f"s{number}" / "ps1").mkdir(parents=True)
        nbformat.write(book, folder / "submitted" / f"s{number}" / "ps1" / "toy.ipynb")
    seconds = cpu_of([str(programs / "nbgrader"), "autograde", "ps1"], folder)
    assert len(list((folder / "autograded").glob("*/ps1/toy.ipynb"))) == count
    return seconds


def by_otter(folder: Path, count: int) -> float:
    """`otter run`, the grading without containers, on each submission."""
    from tests.grading.hostile.make import notebook

    programs = environment_of_peers()
    (folder / "tests").mkdir()
    for identifier, check in CHECKS.items():
        name = identifier.replace(".", "_")
        cases = "".join(
            f"\n@test_case(points={POINTS[identifier] / 5})\ndef test_{n}(env):\n"
            + "    np, torch, math = env['np'], env['torch'], env['math']\n"
            + f"    {identifier.partition('.')[2]} = env[{identifier.partition('.')[2]!r}]\n"
            + "".join(f"    {line}\n" for line in check.format(n=n).split("\n"))
            for n in (1, 2, 3, 5, 8)
        )
        text = f"from otter.test_files import test_case\nOK_FORMAT = False\nname = {name!r}\n{cases}"
        (folder / "tests" / f"{name}.py").write_text(text)
    cpu_of([str(programs / "otter"), "generate", "-t", "tests", "-o", "toy.zip", "--no-requirements",
            "--no-environment", "--no-config"], folder)  # fmt: skip
    seconds = 0.0
    for number in range(count):
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        (folder / f"s{number}.ipynb").write_bytes(notebook(PLAIN, *honest(), **kernel))
        (folder / f"out{number}").mkdir(exist_ok=True)
        seconds += cpu_of([str(programs / "otter"), "run", "-a", "toy.zip", "-o", f"out{number}", "--no-logo",
                           f"s{number}.ipynb"], folder)  # fmt: skip
        results = json.loads((folder / f"out{number}" / "results.json").read_text())
        earned = sum(test.get("score", 0.0) for test in results["tests"])
        assert earned == sum(POINTS.values()), results
    return seconds


def by_nobody(folder: Path, count: int) -> float:
    """The same cells in a bare Python: a submission's own computing."""
    return sum(cpu_of([sys.executable, "-c", "\n".join([PLAIN, *honest()])], folder) for _ in range(count))


def table(count: int) -> str:
    """The rows, measured one grader after another."""
    names = {"this grader": by_this, "nbgrader 0.9.6": by_nbgrader, "otter-grader 7.0.0": by_otter}
    seconds = {}
    for name, run in {"the cells alone": by_nobody, **names}.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds[name] = run(Path(folder), count) / count
        print(f"{name}: {seconds[name]:.2f} CPU s a submission, load average {os.getloadavg()[0]:.1f}", file=sys.stderr)
    own = seconds["the cells alone"]
    rows = "".join(f"| {name} | {s:.1f} | {s - own:.1f} |\n" for name, s in seconds.items() if name in names)
    return (
        "| grader | CPU s a submission | of these beyond the cells' own |\n|---|---|---|\n"
        f"{rows}\nThe cells alone in a bare Python, import of torch included: {own:.1f} s.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=6, help="honest ones, graded by each")
    count = parser.parse_args().submissions
    before, measured = os.getloadavg()[0], table(count)
    text = (
        f"CPU seconds (user and system, of all processes) per honest submission of the toy lab: mean of {count}, start "
        f"of the command included,\none after another. {datetime.date.today()}, {os.cpu_count()} CPU cores, load "
        f"average {before:.1f} before and {os.getloadavg()[0]:.1f} after (above 1: others were at work).\n\n{measured}"
    )
    (ROOT / "benchmarks" / "results" / "grading_overhead.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
