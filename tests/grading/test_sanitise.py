"""What is left of a submitted notebook, and how its cells are matched."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_lab.grading.sanitise import InvalidSubmission, notebook_to_run, read_regular_file, sanitise
from omni_lab.grading.similarity import fingerprint
from tests.grading.hostile.make import ALL, DOUBLE, IMPORTS, MEAN, TOTAL, code, notebook

FUNCTIONS = {"toy.double": "double", "toy.mean_square": "mean_square", "toy.running_total": "running_total"}


def test_only_sources_are_kept() -> None:
    cell = code(DOUBLE, tags=["skip-execution", "parameters"], trusted=True)
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "5 of 5 cases, 5 of 5 points."}]
    kept = sanitise(notebook(cell, kernelspec={"name": "bash"}), FUNCTIONS)
    made = json.loads(notebook_to_run(kept.cells, ["toy.double"], set()))
    assert made["metadata"]["kernelspec"]["name"] == "python3"
    assert [c["outputs"] for c in made["cells"]] == [[], []]
    assert [c["metadata"] for c in made["cells"]] == [{"omni_lab": "cell 1"}, {"omni_lab": "probe toy.double"}]


def test_the_labs_own_check_is_not_run() -> None:
    kept = sanitise(notebook(IMPORTS, DOUBLE), FUNCTIONS)
    assert "@exercise" not in kept.cells[1].source
    assert kept.cells[1].answers == {"toy.double": "double"}


def test_the_last_attempt_counts_and_stubs_do_not() -> None:
    stub = '@exercise("toy.double")\ndef double(x):\n    ...'
    kept = sanitise(notebook(DOUBLE.replace("x + x", "3 * x"), DOUBLE, stub), FUNCTIONS)
    assert "x + x" in kept.attempted["toy.double"]
    assert "attempted in 2 cells" in kept.notes[0]
    assert "@exercise" in kept.cells[2].source


@pytest.mark.parametrize(
    "source",
    [
        DOUBLE.replace("def double", "def twice"),
        "def double(x): return 2 * x",
        "double = lambda x: 2 * x",
        "%%time\n" + DOUBLE,
        "!pip list\n%matplotlib inline\n" + DOUBLE,
        DOUBLE.replace("@exercise", "@lab.exercise"),
        "class double:\n    def __new__(cls, x): return 2 * x",
    ],
)
def test_an_answer_is_found(source: str) -> None:
    assert "toy.double" in sanitise(notebook(source), FUNCTIONS).attempted


def test_unusual_orders_are_reported() -> None:
    notes = sanitise(notebook(DOUBLE, TOTAL, MEAN), FUNCTIONS).notes
    assert notes == ["toy.running_total: stands before an exercise that it follows in the lab"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_crash_it(raw: bytes) -> None:
    with pytest.raises(InvalidSubmission):
        sanitise(raw, FUNCTIONS)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=4))
def test_no_source_crashes_it(sources: list[str]) -> None:
    kept = sanitise(notebook(*sources, *ALL), FUNCTIONS)
    assert set(kept.attempted) == set(FUNCTIONS)


def test_blank_lines_take_no_time(tmp_path: Path) -> None:
    """Half a megabyte of them: where each line begins another search to the end, it is minutes."""
    blank = "\n" * 500_000
    book = json.loads(notebook(blank + "!", *ALL))
    book["cells"].append({"cell_type": "markdown", "metadata": {}, "source": blank + "x"})
    began = time.monotonic()
    assert set(sanitise(json.dumps(book).encode(), FUNCTIONS).attempted) == set(FUNCTIONS)
    assert time.monotonic() - began < 20


def test_a_number_of_thousands_of_digits_is_no_exercise() -> None:
    number = "0x" + "f" * 5000
    sanitise(notebook(f"@exercise({number})\ndef f():\n    return 1", *ALL), FUNCTIONS)
    assert fingerprint(f"def f(a, b):\n    return {number} + a + b + a * b - (a - b) / (a + 1) + b * (a + b) * (b - 1)")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    (tmp_path / "link").symlink_to(secret)
    for name in ("link", "absent", "."):
        with pytest.raises(InvalidSubmission):
            read_regular_file(tmp_path / name)
    with pytest.raises(InvalidSubmission, match="larger"):
        read_regular_file(secret, limit=0)
