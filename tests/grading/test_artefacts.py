"""Trained artefacts: measured by the grader on hidden data, whatever the file or the notebook says."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from omni_lab.errors import InputError
from omni_lab.grading.artefacts import choose_file, load_artefacts
from omni_lab.grading.grade import Settings, grade, regrade
from tests.grading.conftest import SEED
from tests.grading.hostile.make import notebook

SAYS = "print('toy.line: accuracy 1.00 on hidden data, 8 of 8 points')"


def line(*weight: float, bias: float = 0.5) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor(weight), "bias": torch.tensor([bias])}


def trained(steps: int) -> dict[str, torch.Tensor]:
    """Logistic regression on 200 public points, as a notebook would train it."""
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(200, 2))).float()
    labels = (x[:, 0] - 2 * x[:, 1] + 0.5 > 0).float()
    model = torch.nn.Linear(2, 1)
    torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], labels).backward()
        optimiser.step()
    return {"weight": model.weight.detach()[0], "bias": model.bias.detach()}


# Student -> (bytes of line.safetensors, points, status, word of the message)
HANDED_IN = {
    "trained": (save(trained(100)), 8.0, "ok", "on hidden data"),
    "otherwise": (save(line(10.0, -20.0, bias=5.0)), 8.0, "ok", "on hidden data"),  # ten times longer, the same line
    "half": (save(line(0.2, -1.0)), 4.0, "wrong", "full points from 0.95"),
    "untrained": (save(line(0.0, 0.0)), 0.0, "wrong", "full points from 0.95"),
    "mirrored": (save(line(-1.0, 2.0, bias=-0.5)), 0.0, "wrong", "0 on hidden data"),
    "one-axis": (save(line(1.0, 0.0)), 0.0, "wrong", "on hidden data"),
    "swapped": (save(line(-2.0, 1.0)), 0.0, "wrong", "on hidden data"),
    "shape": (save({"weight": torch.ones(3), "bias": torch.ones(1)}), 0.0, "invalid", "expected float32 of shape (2,)"),
    "type": (save({"weight": torch.ones(2).double(), "bias": torch.ones(1)}), 0.0, "invalid", "float64"),
    "nan": (save(line(float("nan"), 1.0)), 0.0, "invalid", "NaN"),
    "more": (save({**line(1.0, -2.0), "accuracy": torch.ones(1)}), 0.0, "invalid", "expected bias, weight"),
    "pickle": (pickle.dumps({"weight": [1.0, -2.0]}), 0.0, "invalid", "no safetensors file"),
    "cut": (save(line(1.0, -2.0))[:-3], 0.0, "invalid", "no safetensors file"),
    "header": ((1 << 60).to_bytes(8, "little") + b"{}", 0.0, "invalid", "no safetensors file"),
    "empty": (b"", 0.0, "invalid", "no safetensors file"),
}


@pytest.fixture(scope="module")
def graded(course: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    folder = tmp_path_factory.mktemp("artefacts") / "in"
    for name, (content, *_) in HANDED_IN.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "toy.ipynb").write_bytes(notebook(SAYS))
        (folder / name / "line.safetensors").write_bytes(content)
    (folder / "nothing").mkdir()
    (folder / "nothing" / "toy.ipynb").write_bytes(notebook(SAYS))
    (folder / "link").mkdir()
    (folder / "link" / "line.safetensors").symlink_to(folder / "trained" / "line.safetensors")
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe" / "line.safetensors")
    (folder / "huge").mkdir()
    with open(folder / "huge" / "line.safetensors", "wb") as file:
        file.truncate(1 << 40)
    (folder / "lovelaceada_12_34_line-1.safetensors").write_bytes(HANDED_IN["trained"][0])
    with zipfile.ZipFile(folder / "zipped.zip", "w") as archive:
        archive.writestr("work/line.safetensors", HANDED_IN["half"][0])
    out = folder.parent / "grades"
    book = grade(folder, Settings(course, "90", out, seed=SEED), progress=False)
    return folder, out, book


@pytest.mark.parametrize("name", HANDED_IN)
def test_points_come_from_hidden_data(name: str, graded: tuple[Path, Path, dict]) -> None:
    _, points, status, word = HANDED_IN[name]
    entry = graded[2][name]["exercises"]["toy.line"]
    assert (entry["points"], entry["status"]) == (points, status), entry
    assert word in entry["message"]


@pytest.mark.parametrize(
    ("name", "points", "status"),
    [("nothing", 0.0, "missing"), ("link", 0.0, "invalid"), ("pipe", 0.0, "invalid"), ("huge", 0.0, "invalid"),
     ("lovelaceada", 8.0, "ok"), ("zipped", 4.0, "wrong")],
)  # fmt: skip
def test_files_of_all_kinds(name: str, points: float, status: str, graded: tuple[Path, Path, dict]) -> None:
    entry = graded[2][name]["exercises"]["toy.line"]
    assert (entry["points"], entry["status"]) == (points, status), entry


def test_regraded_from_the_store_without_the_submissions(course: Path, graded: tuple[Path, Path, dict]) -> None:
    folder, out, book = graded
    shutil.rmtree(folder)
    assert regrade(Settings(course, "90", out), []) == book


def test_the_file_is_found_by_its_name(course: Path) -> None:
    artefact = load_artefacts(course / "solutions" / "90_toy.py")["toy.line"]
    names = ["a/line.safetensors", "a/lovelaceada_1_2_line-3.safetensors", "a/outline.safetensors", "a/line.bin"]
    assert choose_file(artefact, [Path(n) for n in names]) == Path(names[1])
    assert choose_file(artefact, [Path(n) for n in names[2:]]) is None


def test_steps_that_never_reach_full_points_are_refused(tmp_path: Path, course: Path) -> None:
    shutil.copytree(course / "solutions", tmp_path / "solutions")
    path = tmp_path / "solutions" / "exercises" / "90_toy.py"
    path.write_text(path.read_text().replace("(0.95, 1.0)", "(0.95, 0.9)"))
    with pytest.raises(InputError, match="toy.line: its steps must rise"):
        load_artefacts(tmp_path / "solutions" / "90_toy.py")
