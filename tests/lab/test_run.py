"""A lab through papermill: parameters injected, no network, measured; and what a failing one leaves."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from omni_lab import cli, runtime
from omni_lab.errors import InputError
from omni_lab.lab import measured, run

ROOT = Path(__file__).parents[2]
FAILING = """# %% tags=["parameters"]
SCALE = None
SEED = 0

# %%
import urllib.request

urllib.request.urlopen("http://192.0.2.1/", timeout=5)
"""


def test_a_lab_runs_with_injected_parameters_and_goes_on_record(tmp_path, monkeypatch):
    noted = []
    monkeypatch.setattr(measured, "record", lambda *values: noted.append(values))
    [result] = run.run_labs(ROOT, ["00"], "smoke", 7, tmp_path, record=True)
    told = (runtime.hardware("cpu").name, result.cpu_seconds, result.peak, result.figure)
    assert noted == [("00", "smoke", *told, ROOT / "omni_lab" / "lab" / "measured.json")]
    assert 1 < result.cpu_seconds < 4 * result.seconds
    executed = nbformat.read(tmp_path / "00_start_here.ipynb", as_version=4)
    assert not result.fault and result.seconds > 0 and result.peak > 50e6 and "first sound" in result.figure
    injected = [c.source for c in executed.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1 and "SEED = 7" in injected[0]
    assert any("seed 7" in o.get("text", "") for c in executed.cells for o in c.get("outputs", []))
    page = (tmp_path / "00_start_here.html").read_text(encoding="utf-8")
    assert "A steady tone at 440 Hz" in page
    assert "00_start_here" in run.table([result]) and "1 labs" in run.table([result])


def test_a_kernel_has_no_network_here_and_a_failing_lab_says_which_cell(tmp_path):
    """The guard that this asserts is on for every notebook that the suite runs (conftest.py)."""
    (tmp_path / "solutions").mkdir()
    source = tmp_path / "solutions" / "90_fails.py"
    source.write_text(FAILING)
    result = run.execute(source, tmp_path / "out.ipynb", "smoke")
    assert "raised" in result.fault and "the tests run without network" in result.fault
    assert result.fault in run.table([result]) and "1 failed" in run.table([result])


def test_a_kernel_that_dies_is_a_fault_in_the_table(tmp_path):
    (tmp_path / "solutions").mkdir()
    source = tmp_path / "solutions" / "90_dies.py"
    source.write_text(FAILING.split("# %%\nimport")[0] + "# %%\nimport os\nos.kill(os.getpid(), 9)\n")
    [result] = run.run_labs(tmp_path, ["90"], "smoke", 0, tmp_path / "out")
    assert "DeadKernelError" in result.fault and "1 failed" in run.table([result])


def test_the_guard_refuses_names_and_addresses_but_not_this_machine():
    code = (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0)); socket.create_connection(server.getsockname()).close()\n"
        "for host in ('example.com', '192.0.2.1'):\n"
        "    try: socket.create_connection((host, 80), timeout=1)\n"
        "    except OSError as error: assert 'without network' in str(error), error\n"
        "    else: raise SystemExit('reached ' + host)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_what_labs_take_is_kept_by_lab_and_scale(tmp_path):
    path = tmp_path / "measured.json"
    measured.record("05", "smoke", "2 CPU cores", 18.26, 1_270_000_000, path=path)
    measured.record("05", "cpu", "2 CPU cores", 545.0, 1_600_000_000, "codes right: 99 %", path)
    measured.record("05", "smoke", "4 CPU cores", 17.0, 1_300_000_000, "codes right: 2 %", path)
    kept = measured.read(path)["05"]
    assert (kept["smoke"].cpu_seconds, kept["smoke"].machine, kept["cpu"].peak_gb) == (17.0, "4 CPU cores", 1.6)
    lines = measured.told("05", ("smoke", "cpu", "t4"), path).splitlines()
    assert "17 s of processor time, 1.3 GB" in lines[0] and "9 min 5 s" in lines[1]
    assert lines[2:] == ["        codes right: 99 %", "  not measured yet: t4"], "at smoke scale nothing is learned"
    path.write_text('{"05": 7}')
    with pytest.raises(InputError, match="not a record"):
        measured.read(path)


def test_an_untouched_student_notebook_runs_earns_nothing_and_shows_every_plot(tmp_path):
    source = ROOT / "solutions" / "01_clip.py"
    result = run.execute(source, tmp_path / "01.ipynb", "smoke", {"SCALE": "smoke"}, solved=False)
    assert not result.fault
    student = nbformat.read(tmp_path / "01.ipynb", as_version=4)
    printed = "".join(o.get("text", "") for c in student.cells for o in c.get("outputs", []))
    assert "Total: 0 of 100 points" in printed

    def pictures(book):
        shown = "".join(str(o.get("data", {}).get("text/html", "")) for c in book.cells for o in c.get("outputs", []))
        return shown.count("<img")

    solved = nbformat.read(ROOT / "solutions" / "01_clip.ipynb", as_version=4)
    assert pictures(student) == pictures(solved) > 5


def test_the_table_of_a_run_is_kept_beside_its_pages(tmp_path, capsys):
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "90_tiny.py").write_text(FAILING.split("import")[0] + "print(1)\n")
    out = tmp_path / "out"
    assert cli.main(["notebooks", "run", "90", "--root", str(tmp_path), "--out", str(out)]) == 0
    table = (out / "summary.txt").read_text().strip()
    assert "90_tiny" in table and table in capsys.readouterr().out
    assert not list(out.glob("*.part*"))
