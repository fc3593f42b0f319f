"""The simulator: it reproduces what was measured, and turns the right way when something is turned."""

from dataclasses import replace

import pytest

from omni_lab.lab import figure
from omni_lab.streaming import stream, timeline
from omni_lab.streaming.simulate import Costs, Setting, measure, simulate, what_if

from .test_reply import never_ending

COSTS = Costs(0.010, 0.002, 0.008, 0.002, 0.001, 0.00002, 0.004, 0.0005)


def test_the_first_sound_by_hand():
    account = simulate(COSTS, Setting(tokens=10))
    codes = 12 * 0.002 + 9 * 0.002  # a block
    dit, vocoder = 8 * (0.001 + 0.00002 * 24), 0.004 + 0.0005 * (10 + 12)  # its beginning, and what follows
    assert account.marks["first sound"] == pytest.approx(0.010 + 0.002 + 0.008 + codes + dit + vocoder)
    waits = Setting(tokens=10, first=0)
    codes, dit = 18 * 0.002 + 9 * 0.002, 8 * (0.001 + 0.00002 * 36)  # and half of its look-ahead
    vocoder = 0.004 + 0.0005 * 48 + 0.0005 * 12  # of all of it, and 12 frames behind
    assert simulate(COSTS, waits).marks["first sound"] == pytest.approx(0.020 + codes + dit + vocoder - 0.012)
    assert [round(length, 2) for _, length in account.chunks[:4]] == [0.1, 0.14, 0.24, 0.24]
    assert account.seconds == 10.0 and account.codes == 500
    assert sum(list(account.sources().values())[:3]) == pytest.approx(account.marks["first sound"])


@pytest.mark.parametrize(
    "change",
    [
        {"ahead": 2, "first": 0},
        {"first_ahead": 1.0, "first": 0},
        {"block_codes": 24},
        {"first": 0},
        {"calls": 36},
        {"talker": 3.0},
        {"codec": 2.0},
        {"machine": 0.5},
    ],
)
def test_whatever_costs_more_comes_later(change):
    waits = replace(Setting(), first=0 if len(change) > 1 else Setting.first)
    plain, changed = simulate(COSTS, waits), simulate(COSTS, replace(Setting(), **change))
    assert changed.marks["first sound"] > plain.marks["first sound"]


@pytest.mark.parametrize("change", [{"ahead": 2}, {"first_ahead": 1.0}])
def test_a_longer_look_ahead_delays_what_comes_behind_what_is_sketched(change):
    plain, changed = simulate(COSTS), simulate(COSTS, replace(Setting(), **change))
    assert changed.marks["first sound"] == plain.marks["first sound"]
    assert changed.chunks[1][0] > plain.chunks[1][0]


def test_a_machine_too_slow_falls_silent_and_one_fast_enough_does_not():
    rows = what_if(COSTS, machine=[0.2, 1.0], ahead=[1, 2])
    assert len(rows) == 4
    assert all((silence > 0) == (setting.machine < 1) for setting, _, _, silence in rows)
    assert all((rtf > 1) == (setting.machine < 1) for setting, _, rtf, _ in rows)


def test_measured_costs_foretell_a_real_reply(model):
    costs = measure(model, model.prepare("What is this?"), repeats=1)
    reply = stream(model, "What is this?", max_new_tokens=20, max_codes=60, talker_sampling=never_ending(model))
    list(reply)
    foretold = simulate(costs, Setting(tokens=20, seconds=1.2)).marks["first sound"]
    assert reply.account.marks["first sound"] / 8 < foretold < reply.account.marks["first sound"] * 8
    made, axis = figure()
    words = timeline.draw(reply.account, axis)
    assert "the first sound comes after" in words and len(axis.get_yticklabels()) == 7
