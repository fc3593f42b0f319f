"""An unsolved graded release runs to its end: what waits for an exercise is skipped, and a line says for which."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from omni_lab.errors import NotWritten
from omni_lab.lab import skipping
from omni_lab.lab.exercises import Missing


@pytest.fixture
def shell():
    made = InteractiveShell(user_ns={"similarity": Missing("clip.similarity", "1.1", removed=True), "made": []})
    made.user_ns["taken_out"] = taken_out
    skipping.begin(made)
    skipping.begin(made)
    assert len(made.ast_transformers) == 1
    return made


def taken_out():
    raise NotWritten("clip.eot_pooling is a graded exercise")


def run(shell, code):
    return shell.run_cell(code, store_history=False).success


def test_a_cell_that_waits_for_an_exercise_is_left_there(shell, capsys):
    assert run(shell, "before = 1\nscore = similarity(1, 2)\nafter = 2")
    assert capsys.readouterr().out == "Skipped from here: clip.similarity is not written yet: see exercise 1.1.\n"
    assert shell.user_ns["before"] == 1 and "after" not in shell.user_ns
    assert run(
        shell, "try:\n    taken_out()\nexcept RuntimeError as error:\n    raise ValueError('in the model') from error"
    )
    assert "clip.eot_pooling is a graded exercise" in capsys.readouterr().out


def test_what_follows_from_it_is_skipped_and_all_else_is_an_error(shell, capsys):
    run(shell, "times = []\nrows = similarity(1, 2)\n[hidden for hidden in rows]")
    capsys.readouterr()
    assert run(shell, "print(rows)") and "`rows` is made by a cell above" in capsys.readouterr().out
    assert run(shell, "peak = max(times)") and "(ValueError: " in capsys.readouterr().out  # made, and never filled
    assert run(shell, "spans = {time: 1 for time in times}") and run(shell, "spans[0]")  # made of that
    assert "`spans` comes from a cell above" in capsys.readouterr().out
    assert not run(shell, "print(hidden)") and not run(shell, "1 / 0") and not run(shell, "print(rows_of)")
    assert run(shell, "rows, times, peak, spans = [1], [2], 3, {}") and not run(shell, "rows[7]")


def test_cells_do_what_they_did(shell, capsys):
    assert run(shell, "from __future__ import annotations\n6 * 7") and "42" in capsys.readouterr().out
    assert run(shell, "def f(x: int):\n    return x\nclass A: ...\nimport os.path as p, json\nNone")
    assert {"f", "A", "p", "json"} <= set(shell.user_ns)
    assert run(shell, "import asyncio\nawait asyncio.sleep(0, 'awaited')") and "awaited" in capsys.readouterr().out


def test_the_points_are_told_whatever_is_missing(shell):
    assert run(shell, "class lab:\n    summary = staticmethod(lambda: made.append(1))")
    assert run(shell, "figure = similarity(1, 2)\nlab.summary()") and shell.user_ns["made"] == [1]
