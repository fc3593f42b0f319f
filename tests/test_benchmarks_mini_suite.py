"""The table in the README says on which weights it was measured, if not on those that ship."""

import json
from pathlib import Path

import pytest

from benchmarks import mini_suite


@pytest.mark.parametrize("weights", ["aa11", "bb22"])
def test_figures_of_other_weights_are_called_so(tmp_path: Path, monkeypatch, weights: str) -> None:
    for which, of in (("", "aa11"), ("_seed1", weights)):
        document = json.loads((mini_suite.RESULTS / f"mini_suite{which}.json").read_text()) | {"weights": of}
        (tmp_path / f"mini_suite{which}.json").write_text(json.dumps(document))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- suite -->\nold\n<!-- suite -->\nbetween\n<!-- fresh -->\nold\n<!-- fresh -->\n")
    monkeypatch.setattr(mini_suite, "RESULTS", tmp_path)
    monkeypatch.setattr(mini_suite, "ROOT", tmp_path)
    mini_suite.main()
    said = [text.read_text() for text in (readme, tmp_path / "mini_suite.md")]
    assert all(("weights bb22), not on this one" in text) == (weights == "bb22") for text in said)
    assert "between" in said[0] and "| picture arithmetic |" in said[0] and "old" not in said[0]
