"""Commands of docs/training.md are those that a shell and the command line take, and say what was meant."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from benchmarks.learning_curves import setting
from omni_lab.cli import command
from omni_lab.train import commands
from omni_lab.train.recipes import find
from omni_lab.train.recipes.thinker import ThinkerSettings

ROWS = re.findall(r"^\| (\w+) \| \d.*\| `(.*)` \|$", (Path(__file__).parents[1] / "docs/training.md").read_text(), re.M)


def pasted(told: str) -> list[str]:
    """What a shell makes of a command that is copied out of a table's cell."""
    assert not re.search(r"(?<!\\)\|", told), f"cuts the cell: {told}"
    lexer = shlex.shlex(told.replace("\\|", "|"), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    assert not any(set(word) <= set("();<>|&") for word in words), told
    return words


@pytest.mark.parametrize(("name", "told"), ROWS, ids=[name for name, _ in ROWS])
def test_a_command_of_the_page_can_be_pasted(name: str, told: str) -> None:
    program, train, *words = pasted(told)
    assert (program, train) == ("omni-lab", "train") and name.startswith(words[0])
    given = command(commands.train).make_context("train", words).params
    settings = find(given["recipe"]).scales[given["scale"]]
    changed = commands.changed(settings, given["set_"] or [])
    assert not given["set_"] or changed != settings


def test_every_sitting_is_read() -> None:
    assert len(ROWS) > 80 and {"clip", "thinker_2_5", "dit"} < {name for name, _ in ROWS}


def test_settings_of_several_values_and_of_signs_come_back() -> None:
    usual = find("thinker_2").scales["cpu"]
    assert isinstance(usual, ThinkerSettings)
    meant = {"betas": [0.8, 0.99], "frozen": r"visual\.|lm_head", "emphasis": "music:2 asr:1", "compile": True}
    assert meant.keys() <= {field.name for field in fields(usual)}
    words = pasted("".join(setting(name, value) for name, value in meant.items()))
    read = commands.changed(usual, words[1::2]).as_dict()
    assert words[::2] == ["--set"] * 4 and {name: read[name] for name in meant} == meant
