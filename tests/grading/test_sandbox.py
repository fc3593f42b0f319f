"""What the sandbox is given: nobody at its controls, and no other copy of the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from omni_lab.errors import InputError
from omni_lab.grading import sandbox
from omni_lab.lab import explorers
from tests.grading.conftest import HOSTILE, SEED, write_submission


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


def test_users_that_a_container_lacks_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert sandbox.has_own_users(tmp_path / "a kernel without user namespaces")
    whole, rootless = "0 0 4294967295", "0 1000 1\n1 100000 65535"
    for users, groups, setgroups in (
        (whole, whole, "allow"), (rootless, rootless, "allow"), (whole, rootless, "allow"), (whole, whole, "deny"),
    ):  # fmt: skip
        for name, text in {"uid_map": users, "gid_map": groups, "setgroups": setgroups}.items():
            (tmp_path / name).write_text(f"{text}\n")
        assert sandbox.has_own_users(tmp_path) == ((users, groups, setgroups) == (whole, whole, "allow"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not sandbox.has_own_users()


@pytest.mark.timeout(600)
def test_the_root_of_a_small_container_grades(course: Path, tmp_path: Path) -> None:
    """One with a single user, as `unshare` makes it: the sandbox's users do not exist there."""
    container = ["unshare", "--user", "--map-root-user"]
    try:
        subprocess.run([*container, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine makes no user namespaces")
    (tmp_path / "in").mkdir()
    write_submission(tmp_path / "in", "all-right", HOSTILE["all-right"])
    code = (
        "import sys; from pathlib import Path; from omni_lab.grading.grade import Settings, grade\n"
        "from tests.grading.conftest import LIMITS\n"
        f"settings = Settings(Path(sys.argv[2]), '90', Path(sys.argv[3]), limits=LIMITS, seed={SEED})\n"
        "print(grade(Path(sys.argv[1]), settings, progress=False)['all-right']['points'])"
    )
    given = [str(tmp_path / "in"), str(course), str(tmp_path / "out")]
    ran = subprocess.run([*container, sys.executable, "-c", code, *given], cwd=Path(__file__).parents[2],
                         capture_output=True, text=True)  # fmt: skip
    assert ran.stdout.strip() == "20.0", ran.stdout + ran.stderr
