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
    codes = 18 * 0.002 + 9 * 0.002  # a block and half of its look-ahead
    dit, vocoder = 8 * (0.001 + 0.00002 * 36), 0.004 + 0.0005 * (8 + 12)  # a third of the block, and what follows it
    assert account.marks["first sound"] == pytest.approx(0.010 + 0.002 + 0.008 + codes + dit + vocoder)
    assert account.seconds == 10.0 and account.codes == 500
    assert sum(list(account.sources().values())[:3]) == pytest.approx(account.marks["first sound"])


@pytest.mark.parametrize(
    "change",
    [
        {"ahead": 2},
        {"first_ahead": 1.0},
        {"block_codes": 24},
        {"calls": 36},
        {"talker": 3.0},
        {"codec": 2.0},
        {"machine": 0.5},
    ],
)
def test_whatever_costs_more_comes_later(change):
    plain, changed = simulate(COSTS), simulate(COSTS, replace(Setting(), **change))
    assert changed.marks["first sound"] > plain.marks["first sound"]


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
