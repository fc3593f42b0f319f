"""The benchmark of the published shape keeps each line as it comes, and goes on where it was cut short."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_published as benchmark

LINES = ["ours", "transformers", "ours", "transformers"]  # batch 1, batch 8
STEPS = ["ours", "transformers", "ours, one long row, recomputed", "ours, compiled", "transformers, compiled"]


class Model:
    """Stands for a thinker; nothing is computed."""

    def __init__(self) -> None:
        self.model = self

    def compile(self) -> None: ...
    def gradient_checkpointing(self, on: bool) -> None: ...


@pytest.fixture()
def bench(monkeypatch, tmp_path: Path) -> Callable:
    """Run the command on a stand-in for every measurement; those are counted in `bench.done`."""
    plan = benchmark.Plan("nano", torch.device("cpu"), 1e12, 1e11, rows=1, length=64, longest=256, steps=1, new=8)
    done: list[str] = []
    bench_stops: dict[str, int] = {}

    def measurement(name: str, value: dict) -> Callable:
        def stand_in(*args: object, **kwargs: object) -> dict:
            if name in bench_stops and done.count(name) == bench_stops[name]:
                raise KeyboardInterrupt  # as if it were killed there
            done.append(name)
            return value

        return stand_in

    load = {name: {"seconds": 1.0, "peak": None} for name in ("ours", "transformers")}
    step = {"rows": 1, "length": 64, "seconds": 1.0, "tokens_per_second": 64.0, "peak": None, "mfu": 0.1}
    line = {"whole": 8.0, "flow": 9.0, "peak": None, "share": 0.5}
    monkeypatch.setattr(benchmark, "smoke_plan", lambda: replace(plan, flops=plan.flops + len(done)))
    monkeypatch.setattr(benchmark, "written", lambda *_: {"parameters": 1, "shards": 1, "seconds": 1.0})
    monkeypatch.setattr(benchmark, "loaded", lambda *_: (Model(), Model(), load))
    monkeypatch.setattr(benchmark, "agreement", lambda *_: {"tokens": 64, "apart": 0.0, "same_token": 1.0})
    monkeypatch.setattr(benchmark, "training", measurement("training", step))
    monkeypatch.setattr(benchmark, "decoding", measurement("decoding", line))

    def run(stop: dict[str, int] | None = None) -> dict:
        bench_stops.clear()
        bench_stops.update(stop or {})
        done.clear()
        monkeypatch.setattr(sys, "argv", ["gpu_published", "--smoke", "--out", str(tmp_path)])
        try:
            benchmark.main()
        except KeyboardInterrupt:
            assert stop
        return json.loads((tmp_path / "gpu_smoke.json").read_text())

    run.done = done
    return run


def test_each_line_is_kept_and_gone_on_from(bench, tmp_path: Path) -> None:
    first = bench(stop={"decoding": 3})
    assert [row["name"] for row in first["decoded"]] == LINES[:3] and "trained" not in first and not first["whole"]
    second = bench(stop={"training": 2})
    assert bench.done == ["decoding"] + ["training"] * 2 and second["roofs"] == first["roofs"]
    assert list(second["trained"]) == STEPS[:2]
    assert "cut short" in (tmp_path / "gpu_smoke.md").read_text()
    third = bench()
    assert bench.done == ["training"] * 3
    assert list(third["trained"]) == STEPS and [row["name"] for row in third["decoded"]] == LINES
    assert third["whole"] and third["calls"] == 3 and third["verdicts"]["MFU"]["measured"] == 0.1
    page = (tmp_path / "gpu_smoke.md").read_text()
    assert "measured in 3 calls" in page and "cut short" not in page


@pytest.mark.parametrize("change", [
    {"torch": "1.0"},
    {"hardware": "another card"},
    {"plan": {}},
    {"whole": True},
])  # fmt: skip
def test_other_settings_and_a_whole_run_begin_anew(bench, change: dict, tmp_path: Path) -> None:
    bench(stop={"training": 1})
    path = tmp_path / "gpu_smoke.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    found = bench()
    assert bench.done == ["decoding"] * 4 + ["training"] * 5 and found["calls"] == 1
