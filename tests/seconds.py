"""Processor seconds of every test file, written to tests/seconds.json by `pytest -n 2 -p tests.seconds tests notebooks
solutions`: by these, conftest.py starts the longest files first. A file that is not in it yet counts as one second."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

TABLE = Path(__file__).with_name("seconds.json")
spent: Counter[str] = Counter()


def known() -> dict[str, float]:
    """File -> processor seconds, as last measured."""
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}


def now() -> float:
    """Processor seconds so far of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    began = now()
    answer = yield
    spent[item.nodeid.split("::", 1)[0]] += now() - began
    return answer


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    spent.update(getattr(node, "workeroutput", {}).get("seconds", {}))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        session.config.workeroutput["seconds"] = dict(spent)


def pytest_unconfigure(config):
    if spent and not hasattr(config, "workerinput"):
        rounded = {file: round(seconds, 1) for file, seconds in spent.most_common()}
        TABLE.write_text(json.dumps(known() | rounded, indent=1, sort_keys=True) + "\n")
        print(*(f"{seconds:7.1f} s  {file}" for file, seconds in rounded.items()), sep="\n")
        print(f"{sum(spent.values()):7.1f} s of processor time in {len(spent)} files")
