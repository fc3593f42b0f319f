"""Calls a student's function on the grader's inputs and writes what comes back, one line a case.

Runs in the student's own process: whatever it writes is believed only as a value to compare, outside.
"""

import json
import os
from collections.abc import Callable

import wire

from omni_lab.lab.check import Outcome, call


def run(exercise: str, function: Callable, settings: dict) -> None:
    """Call `function` on every case of `exercise` in the file of cases; append each outcome to the results file.

    After a case that ran out of time the others are left: they would most likely do the same."""
    with open(settings["cases"], encoding="utf-8") as file:
        cases = [case for case in map(json.loads, file) if case["exercise"] == exercise]
    target = os.open(settings["results"], os.O_WRONLY | os.O_APPEND)
    try:
        for case in cases:
            outcome = _outcome(function, case, settings["case_seconds"])
            line = {"exercise": exercise, "case": case["case"], "nonce": case["nonce"], "outcome": _packed(outcome)}
            # A line of its own, whatever the student's code may have written before it.
            os.write(target, b"\n" + json.dumps(line).encode() + b"\n")
            if outcome.kind in ("timeout", "interrupted"):
                return
    finally:
        os.close(target)


def _outcome(function: Callable, case: dict, seconds: float) -> Outcome:
    inputs = wire.decode(case["inputs"])
    try:
        return call(function, inputs, min(seconds, case["seconds"]), case["gradients"])
    except KeyboardInterrupt:
        return Outcome(fault="ran longer than the time of its exercise", kind="interrupted")


def _packed(outcome: Outcome) -> dict:
    try:
        return wire.encode({**outcome.stored(), "fault": outcome.fault})
    except wire.InputError as error:
        lost = Outcome(fault=f"returned {error}", kind="not plain")
        return wire.encode({**lost.stored(), "fault": lost.fault})
