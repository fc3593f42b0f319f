"""What the sandbox is given: nobody at its controls, and no other copy of the package."""

import sys
from pathlib import Path

import pytest

from omni_lab.errors import InputError
from omni_lab.grading import sandbox
from omni_lab.lab import explorers


def test_nobody_moves_a_control_in_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMNI_LAB_HEADLESS", raising=False)
    assert not explorers.headless()
    monkeypatch.setattr("os.environ", sandbox.ENVIRONMENT)
    assert explorers.headless()


def test_every_installed_copy_of_the_package_is_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another environment's, the system's, and that of an interpreter within an interpreter."""
    copies = ("lib/python3.12/site-packages", "lib/python3/dist-packages", "envs/other/lib/python3.11/site-packages")
    for place in copies:
        (tmp_path / place / "omni_lab").mkdir(parents=True)
    (tmp_path / "lib/omni_lab").mkdir()  # nobody's packages
    found = sandbox.installed_copies((str(tmp_path), str(tmp_path / "lib")))
    assert set(found) >= {str(tmp_path / place / "omni_lab") for place in copies}
    assert str(tmp_path / "lib/omni_lab") not in found
    monkeypatch.setattr(sandbox, "_interpreter_folders", lambda: [str(tmp_path)])
    command = sandbox.sandbox_command("bwrap", sandbox.Limits(), {}, tmp_path / "results", gpu=False)
    for place in copies:
        path = str(tmp_path / place / "omni_lab")
        assert command[command.index(path) - 1] == "--tmpfs" and command.index(path) > command.index(str(tmp_path))


def test_the_first_bubblewrap_that_works_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An old one of the system's does not stand in the way of the bundled one."""
    old, good = tmp_path / "old", tmp_path / "good"
    old.write_text("#!/bin/sh\necho bwrap: Unknown option --size >&2\nexit 1\n")
    good.write_text('#!/bin/sh\ncase "$*" in *--size*--tmpfs*) exit 0;; esac\nexit 1\n')
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"\x7fELF of another processor")
    for path in (old, foreign, good):
        path.chmod(0o755)
    monkeypatch.setattr(sandbox, "find_bubblewraps", lambda: [str(old), str(foreign), str(good)])
    assert sandbox.check_sandbox() == str(good)
    monkeypatch.setattr(sandbox, "find_bubblewraps", lambda: [str(old)])
    with pytest.raises(sandbox.SandboxError, match=r"Unknown option --size\).*0\.8 or newer"):
        sandbox.check_sandbox()


def test_what_every_sandbox_sees_is_no_place_for_a_class(tmp_path: Path) -> None:
    sandbox.need_hidden(course=tmp_path)
    for name, folder in {"course": Path("/usr/src/app"), "out": Path(sys.prefix) / "grades"}.items():
        with pytest.raises(InputError, match=f"could read this {name} folder"):
            sandbox.need_hidden(**{name: folder})
