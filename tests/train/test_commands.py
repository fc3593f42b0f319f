"""`omni-lab train all` on a big GPU: the codec's process is waited for, stopped and never left behind."""

import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omni_lab.config import PRESETS
from omni_lab.omni import OmniModel
from omni_lab.train import commands, distributed, parts
from omni_lab.train.loop import Result
from tests.train.toy import TOY, Toy

ROOT = Path(__file__).parents[2]
GROUPS = {"all": ("language", "speech_tokenizer"), "codec": ("speech_tokenizer",)}
SAVES = "trap 'touch saved; exit 0' TERM\n"


class Small(Toy):
    """Two steps of the toy, whatever was asked for."""

    scales = {"gpu": replace(TOY, steps=2)}


def stand_in(folder: Path, listens: str, seconds: int = 60) -> str:
    """A program in Python's place that notes what it was asked for and is busy for so long."""
    path = folder / "python"
    busy = f"for i in $(seq {10 * seconds}); do sleep 0.1; done\n"
    path.write_text(f'#!/bin/sh\ncd "{folder}"\necho "$@" >asked\n{listens}{busy}touch ended\n')
    path.chmod(0o755)
    return str(path)


def train_all(folder: Path, **options: object) -> None:
    commands.train("all", "gpu", folder / "run", device="cpu", **options)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(commands, "GROUPS", GROUPS)
    monkeypatch.setattr(commands, "find", lambda name: Small)
    monkeypatch.setattr(parts, "missing", lambda parts: [])
    monkeypatch.setattr(parts, "assemble", lambda parts, out, preset: "joined")
    return monkeypatch


def test_what_the_codec_has_left_is_done_here(small, tmp_path: Path, capsys) -> None:
    small.setattr(sys, "executable", stand_in(tmp_path, "", 1))
    train_all(tmp_path)
    said = capsys.readouterr().out
    assert (tmp_path / "ended").exists() and "the whole model: joined" in said
    assert "language " in said and "speech_tokenizer " in said


def test_the_whole_model_is_of_the_preset_that_was_trained(tmp_path: Path, monkeypatch, capsys) -> None:
    """Under its own name no processor ships: all presets read their samples as nano does."""
    thinker = PRESETS["nano"]().thinker_config
    text = replace(thinker.text_config, num_hidden_layers=1)
    slim = replace(PRESETS["nano"](), thinker_config=replace(thinker, text_config=text))
    monkeypatch.setitem(PRESETS, "small", lambda: slim)
    model = OmniModel(slim)
    for place, names in parts.SOURCES.items():
        assert place in parts.missing(tmp_path / "parts")
        parts.save_part(tmp_path / "parts", names[-1], model.get_submodule(place))
    commands.join(tmp_path, "small")
    assert "the whole model" in capsys.readouterr().out
    joined = OmniModel.from_pretrained(tmp_path / "checkpoint")
    assert len(joined.thinker.model.layers) == 1 and joined.processor is not None


def test_a_model_of_which_parts_are_missing_is_not_joined(small, tmp_path: Path, capsys) -> None:
    small.undo()
    parts.save_part(tmp_path / "run" / "parts", "language", torch.nn.Linear(2, 2))
    small.setattr(commands, "GROUPS", GROUPS)
    small.setattr(commands, "find", lambda name: Small)
    commands.train("codec", "gpu", tmp_path / "run", device="cpu")
    said = capsys.readouterr().out
    assert "no whole model yet: not trained here are talker, token2wav" in said
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_of_several_processes_the_first_joins_the_model(small, tmp_path: Path, capsys) -> None:
    for rank in (0, 1):
        others = nullcontext((distributed.Processes(rank, 2), None))
        small.setattr(distributed, "processes", lambda device, others=others: others)
        small.setattr(commands, "run", lambda *given: Result(None, 2, True, False, 1.0, {}))
        commands.train("codec", "gpu", tmp_path / "run", device="cpu")
        assert ("the whole model" in capsys.readouterr().out) == (rank == 0)


def test_the_codec_is_waited_for_until_the_deadline_and_stopped(small, tmp_path: Path, capsys) -> None:
    small.setattr(sys, "executable", stand_in(tmp_path, SAVES))
    train_all(tmp_path, minutes=0.1)
    assert (tmp_path / "saved").exists() and not (tmp_path / "ended").exists()
    asked = (tmp_path / "asked").read_text()
    assert "train codec --scale gpu" in asked and 0 < float(asked.split("--minutes ")[1].split()[0]) <= 0.1
    said = capsys.readouterr().out
    assert "stopped before speech_tokenizer; --resume goes on from here" in said and "whole model" not in said


def test_a_codec_that_does_not_stop_is_killed(small, tmp_path: Path) -> None:
    small.setattr(sys, "executable", stand_in(tmp_path, "trap '' TERM\n"))
    small.setattr(commands, "GRACE", 0.5)
    train_all(tmp_path, minutes=0.1)
    assert not (tmp_path / "ended").exists()


def test_a_signal_while_waiting_stops_the_codec_too(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.train import test_commands as test\n"
        "test.commands.GROUPS, test.commands.find = test.GROUPS, lambda name: test.Small\n"
        "sys.executable = sys.argv[2]\n"
        "test.train_all(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path), stand_in(tmp_path, SAVES)]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("run/language/step_00000002")):
        assert running.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # it has nothing left to do but to wait
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=60)
    assert running.returncode == 0 and "stopped before speech_tokenizer" in said and "whole model" not in said
    assert (tmp_path / "saved").exists() and not (tmp_path / "ended").exists()
