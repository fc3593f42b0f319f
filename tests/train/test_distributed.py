"""Several processes compute what one does; checkpoints move between any numbers of them; a killed one stops the run,
which then goes on; shards that are missing, cut off or of another step are told by name."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omni_lab.config import preset
from omni_lab.errors import CheckpointError
from omni_lab.omni import OmniModel
from omni_lab.thinker import Thinker
from omni_lab.train.checkpoints import saved_steps
from omni_lab.train.distributed import own_device
from omni_lab.train.log import read_log
from omni_lab.train.loop import train
from omni_lab.train.parts import save_part
from omni_lab.train.recipes import find

from .sharded import run
from .toy import TOY, Toy

HERE = Path(__file__).parent


def of_name(folder: Path, name: str) -> list[float]:
    return [float(row["value"]) for row in read_log(folder / "log.csv") if row["name"] == name]


def losses(folder: Path) -> list[float]:
    return of_name(folder, "loss")


def start(command: list[str]) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same 20 steps on other numbers of processes."""
    folder = tmp_path_factory.mktemp("ranks")
    done = start([sys.executable, "ranks.py", str(folder)])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_any_number_of_processes_gives_the_losses_of_one(runs: Path) -> None:
    expected = losses(runs / "one")
    assert len(expected) == 20
    for name in ("one_sharded", "two", "two_then_one", "two_then_four", "one_then_two"):
        assert losses(runs / name) == pytest.approx(expected, rel=2e-5), name


def test_sharded_blocks_of_16_bits_are_evaluated(runs: Path) -> None:
    """What they return goes into layers of 32 bits, outside autocast."""
    for name in ("loss", "held-out loss"):
        alone, together = (of_name(runs / f"{number}_in_16_bits", name) for number in ("one", "two"))
        assert len(alone) >= 5 and together == pytest.approx(alone, rel=2e-2), name


def test_runs_follow_one_another_in_the_same_processes(tmp_path: Path) -> None:
    """Under torchrun, whose store outlives a group; the second run reads what the first leaves at its end."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = start([*torchrun, "ranks.py", str(tmp_path), "group"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(tmp_path / "Left")) == len(losses(tmp_path / "Followed")) == 4


def test_a_card_without_a_number_is_each_process_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cuda") == own_device(torch.device("cuda")) == "cuda:1"
    assert own_device("cuda:0") == "cuda:0" and own_device("cpu") == "cpu"
    for cards, device in ((True, "cuda:1"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cards: there)
        assert own_device(None) == device


def test_a_killed_process_stops_the_run_with_a_clear_line_and_it_resumes(runs: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    lost = start([*torchrun, "ranks.py", str(tmp_path / "run"), "lose"])
    assert lost.returncode != 0
    assert "process 0 of 2 stops: another process of this run has died" in lost.stderr
    assert "Start the same command with --resume" in lost.stderr and "Signal 9 (SIGKILL)" in lost.stderr
    assert saved_steps(tmp_path / "run") == [10]
    again = start([sys.executable, "ranks.py", str(tmp_path / "run"), "resume"])
    assert again.returncode == 0, again.stderr[-3000:]
    assert losses(tmp_path / "run") == pytest.approx(losses(runs / "one"), rel=2e-5)


def test_processes_of_two_versions_do_not_train_together(runs: Path) -> None:
    for rank in range(2):
        line = (runs / f"stopped_{rank}.txt").read_text()
        assert line.startswith("process 1 runs omni_lab 0.0.9") and line.endswith("install one version everywhere")
    assert not (runs / "mixed").exists()


@pytest.mark.parametrize("harm", ["missing", "cut off", "of another step", "without its index"])
def test_harmed_shards_are_told_by_name(runs: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs / "two", folder)
    whole = folder / "step_00000020"
    harmed = whole / (".metadata" if harm == "without its index" else "__1_0.distcp")
    content = harmed.read_bytes()
    harmed.unlink()
    if harm == "cut off":
        harmed.write_bytes(content[: len(content) // 2])
    if harm == "of another step":
        shutil.copy(folder / "step_00000010" / harmed.name, harmed)
    recipe = Toy(replace(TOY, steps=20, log_every=1, save_every=10), seed=3)
    told = "damaged or of another checkpoint" if harmed.exists() else "missing"
    with pytest.raises(CheckpointError, match=rf"{harmed.name}: {told}.*remove .*step_00000020 to go on from step 10"):
        train(recipe, folder, resume=True, device="cpu", progress=False)
    shutil.rmtree(whole)
    assert train(recipe, folder, resume=True, device="cpu", progress=False).finished


def test_processes_whose_batches_hold_different_media_train_together(tmp_path: Path) -> None:
    """A row of 384 tokens holds two or three samples: seldom a picture, a sound and a film at once."""
    torch.manual_seed(0)
    thinker = Thinker(preset("nano").thinker_config)
    how = {"steps": 2, "accumulate": 2, "learning_rate": 1e-4, "dtype": "float32", "length": 384}
    changes = [f"--set={name}={value}" for name, value in how.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for world in ("one", "two"):
        save_part(tmp_path / world / "parts", "thinker_1", thinker)
    command = ["-m", "omni_lab.cli", "train", "thinker_2", "--scale", "smoke", "--out", str(tmp_path / "two")]
    done = start([*torchrun, *command, *changes])
    assert done.returncode == 0, done.stderr[-3000:]
    recipe = find("thinker_2").at("smoke", parts=tmp_path / "one" / "parts")
    recipe.settings = replace(recipe.settings, **how)
    assert train(recipe, tmp_path / "one" / "thinker_2", device="cpu", progress=False).finished
    alone, together = (losses(tmp_path / world / "thinker_2") for world in ("one", "two"))
    assert len(alone) == 2 and together == pytest.approx(alone, rel=2e-4)


ANYWHERE = ("clip", "seeing", "bigvgan", "joint")  # whose losses do not call their models, or parts of them


def test_losses_that_enter_a_model_anywhere_are_those_of_one_process(tmp_path: Path) -> None:
    """FSDP2 gathers what is called; these recipes read tables, call towers by themselves, and hold single numbers."""
    torch.manual_seed(0)
    whole = OmniModel(preset("nano"))
    made = {"hearing": whole.thinker, "thinker_2": whole.thinker, "speakers": whole.talker}
    for name, part in (made | {"speech_tokenizer": whole.speech_tokenizer}).items():
        save_part(tmp_path / "parts", name, part)
    shutil.copytree(tmp_path / "parts", tmp_path / "two" / "parts")
    done = start([sys.executable, "sharded.py", str(tmp_path / "two"), *ANYWHERE])
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ANYWHERE:
        run(name, tmp_path)
        alone, together = (of_log(folder / name) for folder in (tmp_path, tmp_path / "two"))
        assert alone.keys() == together.keys() and len(alone) > 3
        for (step, figure), value in alone.items():
            # Adam's first step is as long where a gradient is next to nothing, and rounding decides where it goes.
            close = pytest.approx(value, rel=2e-4 if step == 1 else 2e-2, abs=1e-4)
            assert together[step, figure] == close, (name, step, figure)


def of_log(folder: Path) -> dict[tuple[int, str], float]:
    """Every figure of a run's log but its speed, by step and name."""
    rows = read_log(folder / "log.csv")
    return {(row["step"], row["name"]): float(row["value"]) for row in rows if row["name"] != "samples/s"}
