"""The memory benchmark keeps each line, goes on where it was cut short, and mixes no machines."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import memory as benchmark
from omni_lab.errors import OmniLabError
from tests.pretend_card import L4, T4, pretend_card


@pytest.fixture()
def measured(monkeypatch) -> list[str]:
    """Lines in the order in which they are measured; none is."""
    names: list[str] = []

    def alone(name: str, on_card: bool) -> dict:
        case = {**benchmark.CASES, **benchmark.ON_A_GPU}[name]
        names.append(name)
        return {"case": benchmark.asdict(case), "counted": 1, "allocated": 10**6, "grown": None if on_card else 10**6}

    monkeypatch.setattr(benchmark, "alone", alone)
    return names


@pytest.fixture()
def bench(monkeypatch, tmp_path: Path) -> Callable:
    """Run the command; returns what it has kept."""

    def run(*words: str, file: str = "memory_gpu.json") -> dict:
        monkeypatch.setattr(sys, "argv", ["memory", "--out", str(tmp_path), *words])
        benchmark.main()
        return json.loads((tmp_path / file).read_text())

    return run


def cut_short_after(count: int, monkeypatch) -> None:
    """As if the process were killed in the line after `count`."""
    before, done = benchmark.alone, []

    def alone(name: str, on_card: bool) -> dict:
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(name)
        return before(name, on_card)

    monkeypatch.setattr(benchmark, "alone", alone)


def test_a_run_that_was_cut_short_is_gone_on_with(measured, bench, monkeypatch) -> None:
    with pretend_card(T4), monkeypatch.context() as patch:
        cut_short_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            bench()
    first, measured[:] = list(measured), []
    with pretend_card(T4):
        kept = bench()
    assert len(first) == 3 and measured and not set(first) & set(measured)
    assert list(kept) == first + measured
    assert {line["on"].split(",")[0] for line in kept.values()} == {T4.name}


def test_a_whole_run_and_another_card_begin_anew(measured, bench, monkeypatch) -> None:
    with pretend_card(T4):
        bench()
        first, measured[:] = list(measured), []
        bench()
        assert measured == first
    measured.clear()
    with pretend_card(L4), monkeypatch.context() as patch:
        cut_short_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            bench()
    with pretend_card(L4):
        kept = bench()
    assert measured == first == list(kept)


def test_chosen_rows_are_measured_and_the_others_kept(measured, bench, tmp_path: Path) -> None:
    with pretend_card(T4):
        whole = bench()
        measured.clear()
        assert list(bench("--rows", "reply")) == list(whole) and measured == ["reply"]
    with pretend_card(L4):
        bench("--rows", "train")
    table = (tmp_path / "memory_gpu.md").read_text()
    assert f"| {benchmark.CASES['train'].title} ({L4.name}, " in table  # lines of two cards say which


def test_a_line_that_fails_costs_no_other(measured, bench, monkeypatch, tmp_path: Path) -> None:
    before = benchmark.alone

    def alone(name: str, on_card: bool) -> dict:
        if name == "train_long":
            raise OmniLabError(f"{name} failed, see above")
        return before(name, on_card)

    monkeypatch.setattr(benchmark, "alone", alone)
    with pytest.raises(SystemExit, match="train_long failed"):
        bench(file="memory.json")
    kept = json.loads((tmp_path / "memory.json").read_text())
    assert set(kept) == set(measured) and "reply" in kept
