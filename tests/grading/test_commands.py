"""Commands of grading on machines that cannot grade."""

import sys

import pytest

from omni_lab.cli import main


@pytest.mark.parametrize("arguments", [["grade", ".", "--lab", "01"], ["regrade"], ["report"]])
def test_without_posix_locks_one_line_says_what_to_do(arguments, monkeypatch, capsys, tmp_path):
    """As on Windows, where Python has no `fcntl`."""
    for name in [name for name in sys.modules if name.startswith("omni_lab.grading.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    said = capsys.readouterr().err.strip()
    assert "needs Linux" in said and "WSL 2" in said and "\n" not in said
