"""The results page holds every figure of every file, and says what each is."""

import json

import pytest

from omni_lab.cli import main
from omni_lab.errors import CheckpointError, DataError
from omni_lab.evaluate import page


def result(value, lower=False, report=None):
    return {
        "metric": "error" if lower else "accuracy", "value": value, "chance": 0.25, "report": report,
        "report_set": "a public set" if report is not None else "", "lower_is_better": lower,
    }  # fmt: skip


NANO = {
    "checkpoint": "nano", "hardware": "2 CPU cores", "seed": 0,
    "tasks": {"qa": result(0.5, report=0.9), "asr": result(1.3, True, 0.034), "ocr": result(0.1), "dpo": result(None)},
}  # fmt: skip
SMALL = {"checkpoint": "small", "hardware": "a GPU", "seed": 0, "tasks": {"qa": result(0.75), "new": result(0.2)}}


def test_the_table_has_every_task_of_every_model():
    text = page.page([NANO, SMALL])
    assert "nano on 2 CPU cores, seed 0; small on a GPU, seed 0" in text
    rows = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in text.splitlines()[4:]}
    assert rows["qa"] == ["accuracy", "0.500", "0.750", "0.250", "0.900", "a public set"]
    assert rows["asr"][:3] == ["error (lower is better)", "1.300", ""]
    assert rows["new"][1:3] == ["", "0.200"] and rows["dpo"][1] == ""


def test_outwards_is_better_whichever_way_a_measure_points():
    assert page.goodness(result(0.2, lower=True), 0.2) == 0.8 and page.goodness(result(0.2), 0.2) == 0.2
    assert page.goodness(result(1.3, lower=True), 1.3) == 0.0 and page.goodness(result(0), None) is None
    lines = page.radar([NANO, SMALL]).axes[0].lines
    assert list(lines[0].get_ydata()) == [0.5, 0.0, 0.1, 0.5] and list(lines[1].get_ydata()) == [0.75, 0, 0, 0.75]
    assert list(lines[2].get_ydata()) == [0.9, pytest.approx(0.966)]


def test_six_models_have_six_lines():
    axes = page.radar([NANO | {"checkpoint": f"model {i}"} for i in range(6)]).axes[0]
    assert [line.get_label() for line in axes.lines][:6] == [f"model {i}" for i in range(6)]


def test_other_files_are_refused_in_a_line(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(NANO))
    assert page.read(path)["checkpoint"] == "nano"
    path.write_text("[1]")
    with pytest.raises(DataError, match="not a results file"):
        page.read(path)
    with pytest.raises(CheckpointError, match="missing"):
        page.read(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="at least one"):
        page.page([])
    with pytest.raises(DataError, match="needs three tasks"):
        page.radar([SMALL])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"checkpoint": ...}, "no 'checkpoint' in it"),
        ({"seed": ...}, "no 'seed' in it"),
        ({"tasks": {"ocr": None}}, "task 'ocr': got None"),
        ({"tasks": {"ocr": {"value": 1.0}}}, "task 'ocr': no 'chance' in it"),
        ({"tasks": {"ocr": result("high")}}, "value is 'high', expected a number"),
    ],
)
def test_a_damaged_results_file_is_one_line(tmp_path, capsys, changed, words):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({k: v for k, v in (NANO | changed).items() if v is not ...}))
    assert main(["results", str(path), "--out", str(tmp_path / "page.md")]) == 1
    said = capsys.readouterr().err
    assert words in said and str(path) in said and said.count("\n") == 1


def test_the_page_is_not_overwritten_by_its_picture(tmp_path, capsys):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(NANO))
    for out, words in ((tmp_path / "x.png", "another ending"), (tmp_path, "is a folder")):
        assert main(["results", str(path), "--out", str(out)]) == 1
        assert words in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    assert main(["results", str(path), "--out", str(tmp_path / "new" / "page.md")]) == 0
    assert (tmp_path / "new" / "page.md").read_text().startswith("# Results")
    assert (tmp_path / "new" / "page.png").read_bytes().startswith(b"\x89PNG")
