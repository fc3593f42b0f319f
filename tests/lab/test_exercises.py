"""`@exercise` in a notebook: a right function reaches the model wherever it is used, an unsolved one costs nothing."""

import sys
import types

import pytest
import torch

from omni_lab.errors import DataError, InputError, NotWritten
from omni_lab.lab import exercises, player
from omni_lab.lab.authoring import Exercise
from omni_lab.lab.check import Verdict
from omni_lab.lab.exercises import Missing, exercise, install, owner_of, reference, summary, untouched
from omni_lab.lab.stored import find_checks

ID = "start.root_mean_square"
OWN = player.root_mean_square


@pytest.fixture(autouse=True)
def fresh():
    yield
    exercises.restore()
    assert player.root_mean_square is OWN


def test_a_right_function_runs_in_the_package_and_wherever_it_was_imported(capsys):
    user = types.ModuleType("omni_lab.test_user")
    user.loudness = OWN  # as after `from .player import root_mean_square as loudness`
    sys.modules[user.__name__] = user

    @exercise(ID)
    def root_mean_square(wave):
        return (wave * wave).mean(-1) ** 0.5

    try:
        assert player.root_mean_square is root_mean_square and user.loudness is root_mean_square
        assert "6 of 6 cases" in (said := capsys.readouterr().out) and "your function" in said
        exercise(ID)(lambda wave: wave)  # run again, now wrong: the reference is back
        assert player.root_mean_square is OWN and user.loudness is OWN
    finally:
        del sys.modules[user.__name__]


def test_the_untouched_stub_goes_on_with_the_reference(capsys):
    @exercise(ID)
    def root_mean_square(wave):
        """Loudness."""
        ...

    assert root_mean_square is OWN
    assert capsys.readouterr().out == f"{ID}: not attempted: continuing with the reference, 0 of 0 points.\n"
    summary()
    assert "not attempted" in capsys.readouterr().out


def test_a_stub_with_given_lines_is_recognised_by_its_source():
    def scaffold(wave):
        energy = wave.square()  # given
        ...
        return energy

    stub = "@exercise('x')\ndef scaffold(wave):\n    energy = wave.square()\n    ...\n    return energy"
    assert untouched(scaffold, stub.split("\n", 1)[1]) and not untouched(scaffold, "def scaffold(wave): return 1")


def test_a_variant_goes_on_with_its_fallback_or_says_what_is_missing(capsys):
    checks = find_checks(ID)
    variant = checks.__class__(**{**vars(checks), "exercise": exercises_without_target(checks)})
    assert reference(variant, OWN) is OWN
    missing = reference(variant, None)
    assert isinstance(missing, Missing) and not missing and missing(torch.ones(2)) is None
    assert "see exercise 0.1" in capsys.readouterr().out
    removed = checks.__class__(**{**vars(checks), "removed": True})
    absent = reference(removed, OWN)
    assert isinstance(absent, Missing) and not absent
    with pytest.raises(NotWritten, match="not written yet: see exercise 0.1"):  # cells count on it: they are skipped
        absent(torch.ones(2))


def test_only_what_the_package_does_not_do_is_said_to_be_nowhere_in_it():
    checks = find_checks(ID)
    fields = {**vars(exercises_without_target(checks)), "points": 5}
    solved = {
        holds: exercises.report(Verdict(Exercise(**{**fields, "holds": holds}), 6, 6), checks, OWN)
        for holds in ((), ("omni_lab.lab.player:root_mean_square",))
    }
    nowhere, somewhere = solved.values()
    assert nowhere.endswith("Nothing in the package does this.")
    assert somewhere.endswith("The package has its own way of doing this and keeps it.")


def exercises_without_target(checks):
    return checks.exercise.__class__(**{**vars(checks.exercise), "target": None})


def test_unknown_names_are_one_line():
    with pytest.raises(DataError, match="no checks for exercise 'clip.nothing'"):
        exercise("clip.nothing")(lambda: None)
    with pytest.raises(InputError, match="no such function"):
        owner_of("omni_lab.lab.player:nothing")
    with pytest.raises(InputError, match="no such function"):
        install("omni_lab.lab.player:Nothing.at_all", OWN)
