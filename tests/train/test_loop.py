"""The loop: kills, resuming, bad data, two optimisers, averages, signals, and what it refuses."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from omni_lab.errors import CheckpointError, ConfigError, DataError, OmniLabError
from omni_lab.train import checkpoints
from omni_lab.train.log import read_log
from omni_lab.train.loop import batch_seed, stop_signal, train
from omni_lab.train.optimise import warmup_cosine

from .toy import TOY, TinyGAN, Toy

HERE = Path(__file__).parent


def run(folder: Path, kind: type[Toy] = Toy, resume: bool = False, minutes: float = math.inf, **changes):
    return train(kind(replace(TOY, **changes), seed=3), folder, resume, "cpu", minutes, progress=False)


def final(folder: Path, step: int = 60) -> dict[str, torch.Tensor]:
    return load_file(folder / f"step_{step:08d}" / "state.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill.py forks the runs that it kills")
def test_killed_twenty_times_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, "kill.py", str(tmp_path / "killed"), str(tmp_path / "whole"), "20", "500"]
    environment = os.environ | {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "killed 20 times, then left with 0", done.stderr[-3000:]
    assert same(final(tmp_path / "killed", 500), final(tmp_path / "whole", 500))
    logs = [
        [(r["step"], r["name"], r["value"]) for r in read_log(tmp_path / n / "log.csv")] for n in ("killed", "whole")
    ]
    assert [r for r in logs[0] if r[1] != "samples/s"] == [r for r in logs[1] if r[1] != "samples/s"]


@pytest.mark.parametrize("kind", [Toy, TinyGAN])
def test_a_run_cut_in_pieces_is_the_run_in_one_piece(tmp_path: Path, kind: type[Toy]) -> None:
    run(tmp_path / "whole", kind)
    first = run(tmp_path / "pieces", kind, minutes=0)
    assert first.step == 1 and not first.finished
    while not run(tmp_path / "pieces", kind, resume=True, minutes=0.001).finished:
        pass
    assert same(final(tmp_path / "whole"), final(tmp_path / "pieces"))


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    run(tmp_path / "alone", steps=6)
    run(tmp_path / "workers", steps=6, workers=2)
    assert same(final(tmp_path / "alone", 6), final(tmp_path / "workers", 6))


def test_recomputing_activations_changes_only_rounding(tmp_path: Path) -> None:
    run(tmp_path / "kept", steps=6)
    run(tmp_path / "recomputed", steps=6, checkpoint_activations=True)
    kept, recomputed = final(tmp_path / "kept", 6), final(tmp_path / "recomputed", 6)
    assert all(torch.allclose(kept[k], recomputed[k], atol=1e-6) for k in kept)


def test_bfloat16_and_float16_train(tmp_path: Path) -> None:
    exact = run(tmp_path / "float32", log_every=60)
    for dtype in ("bfloat16", "float16"):
        result = run(tmp_path / dtype, dtype=dtype)
        for ours, theirs in zip(result.model.parameters(), exact.model.parameters(), strict=True):
            assert ours.dtype == torch.float32 and torch.allclose(ours, theirs, atol=0.1)
    scale = checkpoints.read_state(tmp_path / "float16", 60)["scaler"]["scale"]
    assert scale > 1


def test_accumulated_micro_batches_weigh_by_their_weight(tmp_path: Path) -> None:
    recipe = Toy(replace(TOY, steps=1, clip=1e9, ema=0.0), seed=3)
    train(recipe, tmp_path, device="cpu", progress=False)
    weights = [1 + i % 3 for i in range(4)]
    logged = {r["name"]: float(r["value"]) for r in read_log(tmp_path / "log.csv")}
    noises = []
    for index in range(4):
        torch.manual_seed(batch_seed(3, index))
        torch.nn.functional.dropout(torch.ones(4, 16), 0.2)  # what the model draws before the recipe's own number
        noises.append(torch.rand(()).item())
    assert logged["noise"] == pytest.approx(sum(w * n for w, n in zip(weights, noises, strict=True)) / sum(weights))


def test_few_bad_samples_are_counted_and_many_stop_the_run(tmp_path: Path) -> None:
    run(tmp_path / "few", broken=150)
    state = checkpoints.read_state(tmp_path / "few", 60)["bad_data"]
    assert state["seen"] == 60 * 16 and state["skipped"] == 60 * 16 // 150 and len(state["lines"]) == state["skipped"]
    with pytest.raises(DataError, match=r"more than 1 %.*sample 49 is broken; sample 99 is broken"):
        run(tmp_path / "many", broken=50)


def test_the_account_of_bad_data_survives_a_pause(tmp_path: Path) -> None:
    run(tmp_path, broken=150, minutes=0)
    run(tmp_path, broken=150, resume=True)
    assert checkpoints.read_state(tmp_path, 60)["bad_data"]["skipped"] == 60 * 16 // 150


@pytest.mark.skipif(sys.platform == "win32", reason="there os.kill ends a process at once, whatever the signal")
def test_a_signal_saves_before_the_run_leaves(tmp_path: Path) -> None:
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    result = run(tmp_path, steps=100_000, save_every=10**6)
    assert not result.finished and checkpoints.saved_steps(tmp_path) == [result.step]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class AskedToStop(Toy):
    """Is told to stop when its last step is done: in the evaluation at its end."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        signal.raise_signal(signal.SIGTERM)
        return {}


def test_a_signal_at_the_very_end_is_told_to_who_has_more_to_do(tmp_path: Path) -> None:
    result = run(tmp_path / "asked", AskedToStop, steps=7)
    assert result.finished and result.heard
    assert not run(tmp_path / "left alone", steps=7).heard


def test_a_second_ctrl_c_is_obeyed_at_once() -> None:
    with stop_signal() as heard:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert len(heard) == 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("log_every", [3, 5, 40])
def test_what_is_logged_is_a_mean_whenever_it_is_logged(tmp_path: Path, log_every: int) -> None:
    """How often may change where a run is resumed, between two rows of the log."""
    run(tmp_path / "whole", log_every=1)
    run(tmp_path / "cut", minutes=0)  # stops behind the first step
    run(tmp_path / "cut", log_every=log_every, resume=True)
    each = [float(row["value"]) for row in read_log(tmp_path / "whole" / "log.csv") if row["name"] == "loss"]
    rows = [row for row in read_log(tmp_path / "cut" / "log.csv") if row["name"] == "loss"]
    ends = [int(row["step"]) for row in rows]
    for start, row in zip([0, *ends], rows, strict=False):
        mean = sum(each[start : int(row["step"])]) / (int(row["step"]) - start)
        assert float(row["value"]) == pytest.approx(mean, rel=1e-5)


class Needy(Toy):
    least = {"broken": 2}


def test_a_recipe_may_ask_more_of_its_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^broken 0: expected at least 2$"):
        run(tmp_path, Needy)


def test_refuses_to_mix_runs(tmp_path: Path) -> None:
    run(tmp_path, steps=7)
    with pytest.raises(ConfigError, match="--resume"):
        run(tmp_path, steps=7)
    with pytest.raises(ConfigError, match="learning_rate 0.01, not 0.5"):
        run(tmp_path, steps=7, learning_rate=0.5, resume=True)
    assert run(tmp_path, steps=7, log_every=3, resume=True).finished  # how often to log is free to change


@pytest.mark.parametrize("name", ["accumulate", "log_every", "save_every", "evaluate_every", "batch_size", "workers"])
def test_settings_that_no_run_can_have_are_told(tmp_path: Path, name: str) -> None:
    few = {"accumulate": 0, "log_every": 0, "batch_size": 0}.get(name, -1)
    with pytest.raises(ConfigError, match=f"^{name} {few}: expected at least {few + 1}$"):
        run(tmp_path, **{name: few})
    assert not any(tmp_path.iterdir())


def test_a_run_may_save_at_its_end_alone(tmp_path: Path) -> None:
    run(tmp_path, steps=4, save_every=0)
    assert [path.name for path in tmp_path.glob("step_*")] == ["step_00000004"]


def test_damaged_checkpoints_name_themselves(tmp_path: Path) -> None:
    run(tmp_path, steps=7)
    weights = tmp_path / "step_00000007" / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"step_00000007/state.safetensors: damaged"):
        run(tmp_path, steps=7, resume=True)
    (tmp_path / "step_00000007" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="state.json"):
        run(tmp_path, steps=7, resume=True)


def test_files_of_two_checkpoints_do_not_mix(tmp_path: Path) -> None:
    run(tmp_path, steps=14)
    older, newest = (tmp_path / f"step_{step:08d}" for step in (7, 14))
    shutil.copy(older / "state.safetensors", newest / "state.safetensors")
    told = r"step_00000014/state.safetensors: damaged or of another .* remove .*step_00000014 to go on from step 7"
    with pytest.raises(CheckpointError, match=told):
        run(tmp_path, steps=14, resume=True)
    shutil.rmtree(newest)
    assert run(tmp_path, steps=14, resume=True).finished


def test_other_versions_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(tmp_path, steps=7)
    path = tmp_path / "step_00000007" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"torch": "1.0"}))
    train(Toy(replace(TOY, steps=7), seed=3), tmp_path, resume=True, device="cpu")
    assert "step 7 was saved with torch 1.0, this is" in capsys.readouterr().out
    path.write_text(json.dumps(state | {"form": 99, "omni_lab": "9.9"}))
    with pytest.raises(CheckpointError, match=r"step_00000007: written by omni_lab 9.9 in form 99; this is omni_lab"):
        run(tmp_path, steps=7, resume=True)
    path.write_text(json.dumps({k: v for k, v in state.items() if k not in ("form", "omni_lab", "files")}))
    assert run(tmp_path, steps=7, resume=True).finished  # from before there were forms


def test_an_unfinished_save_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "step_00000007.part").mkdir()
    (tmp_path / "step_00000009").mkdir()  # no state.json: not ours, or not complete
    assert checkpoints.saved_steps(tmp_path) == []
    assert run(tmp_path, steps=7).finished


def test_a_loss_that_is_no_number_stops_before_it_is_saved(tmp_path: Path) -> None:
    class Exploding(Toy):
        def loss(self, model, batch, optimiser):
            loss, metrics = super().loss(model, batch, optimiser)
            return loss * math.nan, metrics

    with pytest.raises(OmniLabError, match=r"(loss is nan|not finite)"):
        run(tmp_path, Exploding)
    assert checkpoints.saved_steps(tmp_path) == []


def test_the_average_is_what_leaves_the_run(tmp_path: Path) -> None:
    result = run(tmp_path)
    saved = final(tmp_path)
    for name, p in result.model.named_parameters():
        assert torch.equal(p, saved[f"ema/{name}"]) and not torch.equal(p, saved[f"model/{name}"])
    assert not result.model.training and json.loads((tmp_path / "step_00000060" / "state.json").read_text())["figures"]


def test_warmup_then_cosine() -> None:
    settings = replace(TOY, steps=100, warmup=0.1, final=0.1)
    factors = [warmup_cosine(step, settings) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == 1
    assert all(a >= b for a, b in zip(factors[10:], factors[11:], strict=False)) and 0.1 <= factors[-1] < 0.11


class Late(Toy):
    """The first layer learns from half of the run on; the last one learns all the time."""

    def groups(self, model: nn.Module) -> dict:
        first, last = ([*model[i].parameters()] for i in (0, 3))
        return {"main": [{"params": first, "starts": 0.5}, {"params": last}]}


def test_what_does_not_move_yet_has_no_moments_and_no_part_in_the_norm(tmp_path: Path) -> None:
    run(tmp_path, Late, steps=8, log_every=1, ema=0.0, save_every=4)
    early, late = final(tmp_path, 4), final(tmp_path, 8)
    moments = {name: tensor for name, tensor in early.items() if name.startswith("optimiser/main/0.")}
    assert len(moments) == 6 and not any(tensor.any() for tensor in moments.values())
    assert all(early[f"optimiser/main/3.weight/{name}"].any() for name in ("step", "exp_avg", "exp_avg_sq"))
    assert late["optimiser/main/0.weight/step"] == 4 and late["optimiser/main/3.weight/step"] == 8
    # The norm is that of the last layer: the first one's gradients would only make it larger.
    alone, both = (run(tmp_path / kind.__name__, kind, steps=1, log_every=1) for kind in (Late, Toy))
    assert alone.finished and both.finished
    norms = [gradient_norm(tmp_path / kind.__name__) for kind in (Late, Toy)]
    assert 0 < norms[0] < norms[1]


def gradient_norm(folder: Path) -> float:
    (row,) = (row for row in read_log(folder / "log.csv") if row["name"] == "gradient norm")
    return float(row["value"])


class NotYet(TinyGAN):
    """The discriminator waits, as a critic does until there is something to judge."""

    def groups(self, model: nn.Module) -> dict:
        groups = super().groups(model)
        return groups | {"discriminator": [group | {"starts": 0.5} for group in groups["discriminator"]]}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_optimiser_of_which_nothing_moves_yet_waits(tmp_path: Path, dtype: str) -> None:
    result = run(tmp_path, NotYet, steps=8, dtype=dtype, save_every=4, ema=0.0)
    assert result.finished and final(tmp_path, 8)["optimiser/discriminator/discriminator.weight/step"] == 4
