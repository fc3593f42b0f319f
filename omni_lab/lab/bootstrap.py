"""The set-up cell of every notebook: works where the course is absent, present or outdated, as often as one likes.

It compares versions instead of trying imports, installs only what is missing, and never touches torch, torchaudio and
numpy as they are installed: replacing what a running kernel has loaded breaks it. Only the standard library is
imported, since nothing else need be there yet.
"""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Where a notebook that is opened without the course (in Colab) gets it: anything that `git clone` takes. The one place
# that says so: a fork changes it here and builds the notebooks again. For one kernel, the environment variable
# OMNI_LAB_COURSE comes first.
COURSE = "https://github.com/omni-lab-course/omni_lab.git"
PINNED = ("torch", "torchaudio", "torchvision", "numpy")  # stay as installed
NEEDED = (  # for the notebooks; `pyproject.toml` holds the same, checked by a test
    "transformers>=5.17,<5.24",
    "tokenizers>=0.22",
    "safetensors>=0.4",
    "numpy>=2.0",
    "pillow>=11.3",
    "soundfile>=0.13",
    "av>=14",
    "tqdm>=4.66",
    "typer>=0.12",
    "matplotlib>=3.8",
    "jiwer>=3.0",
    "psutil>=5.9",
    "ipywidgets>=7.7",  # Colab's; with 8 its own widgets no longer work
)


def cell_source(version: str) -> str:
    """The code of the set-up cell, for notebooks of this version of the course."""
    return f'''# Set-up: finds the course or fetches it, installs what is missing. Safe to run again.
import importlib.metadata, importlib.util, os, pathlib, subprocess, sys
if importlib.util.find_spec("omni_lab") is None:
    numpy = getattr(sys.modules.get("numpy"), "__version__", None)
    if numpy and numpy != importlib.metadata.version("numpy"):
        raise RuntimeError("set-up: numpy changed on disk after it was loaded: restart the kernel, run again")
    course = pathlib.Path("omni_lab_course").resolve()
    if not course.exists():
        origin = os.environ.get("OMNI_LAB_COURSE", "{COURSE}")
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", origin, str(course)], check=True)
    sys.path.insert(0, str(course))
from omni_lab.lab import bootstrap
bootstrap.ready("{version}")'''


def release_cell_source(version: str) -> str:
    """The code of the set-up cell in a graded release: it finds the release, and never fetches the open course, whose
    package and solutions hold the answers."""
    return f'''# Set-up: finds the release, installs what is missing. Safe to run again.
import importlib.util, pathlib, sys
here = pathlib.Path.cwd()
unzipped = [p for p in (here / "omni_lab_course", here, *here.parents) if (p / "MANIFEST.json").is_file()]
if unzipped and "omni_lab" not in sys.modules:
    sys.path.insert(0, str(unzipped[0]))
if importlib.util.find_spec("omni_lab") is None:
    raise RuntimeError("set-up: unzip omni_lab_course.zip, which came with this notebook, here, and run again")
from omni_lab.lab import bootstrap
bootstrap.ready("{version}", released=True)'''


def ready(version: str, released: bool = False) -> None:
    """Make this kernel able to run a notebook of `version`. Raises RuntimeError with one line that says what to do.

    Nothing is downloaded when a restart is needed first, or when nothing is missing. released: the notebook belongs to
    a graded release, so that cells which need what is not written yet are skipped (see `skipping.py`)."""
    make_ready(version)
    if released:
        from . import skipping

        skipping.begin()


def make_ready(version: str) -> None:
    """`ready`, but for skipping."""
    show_children()
    changed = stale_modules()
    if changed:
        stop(f"{', '.join(changed)} changed on disk after this kernel had loaded it: restart the kernel, run again")
    update_course(version)
    check_torch_pair()
    missing = missing_requirements()
    if not missing:
        print(f"Ready: omni_lab {own_version()}.")
        return
    wanted_numpy = [r for r in missing if requirement_name(r) in PINNED]
    if wanted_numpy:
        have = installed(requirement_name(wanted_numpy[0]))
        advice = "install it by hand, restart the kernel, run again"
        stop(f"needs {wanted_numpy[0]}, but {have or 'none'} is installed: {advice}")
    print(f"Installing {', '.join(missing)} ...")
    install(missing)
    left = missing_requirements()
    if left:
        stop(f"could not install {', '.join(left)}: see the installer's output above")
    reloaded = stale_modules()
    if reloaded:
        stop(f"{', '.join(reloaded)} was upgraded: restart the kernel and run this cell again")
    print(f"Ready: omni_lab {own_version()}.")


def show_children() -> None:
    """Let programs that the kernel starts (torchrun, the command line) find a course that is not installed."""
    spec = importlib.util.find_spec("omni_lab")
    if installed("omni-lab") is not None or spec is None:
        return
    course, others = str(Path(spec.origin or "").parents[1]), os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if course not in others:
        os.environ["PYTHONPATH"] = os.pathsep.join([course, *filter(None, others)])


def stop(message: str) -> None:
    """Raise RuntimeError: the cell ends with what is wrong and what to do."""
    raise RuntimeError(f"set-up: {message}")


def installed(name: str) -> str | None:
    """The installed version of a distribution, read from its metadata, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def stale_modules() -> list[str]:
    """Packages that this kernel holds in another version than the disk does."""
    names = [*PINNED, *(requirement_name(r) for r in NEEDED)]
    found = []
    for name in dict.fromkeys(names):
        loaded = getattr(sys.modules.get(name), "__version__", None)
        if loaded and installed(name) and release(str(loaded)) != release(str(installed(name))):
            found.append(name)
    return found


def release(version: str) -> tuple[int, ...]:
    """ "2.11.0+cu126" -> (2, 11); trailing zeros dropped, pre-release and local parts ignored."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(n) for n in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def requirement_name(requirement: str) -> str:
    """ "name>=a,<b" -> "name"."""
    return re.split(r"[<>=!~ \[;]", requirement, maxsplit=1)[0]


def satisfied(requirement: str) -> bool:
    """Whether the installed version fits "name>=a,<b" (only >=, <, == are used here)."""
    have = installed(requirement_name(requirement))
    if have is None:
        return False
    for sign, bound in re.findall(r"(>=|<|==)\s*([0-9][^,; ]*)", requirement):
        ours, other = release(have), release(bound)
        if not (ours >= other if sign == ">=" else ours < other if sign == "<" else ours == other):
            return False
    return True


def missing_requirements() -> list[str]:
    """Those of NEEDED that are not installed, or in a version that does not fit."""
    return [r for r in NEEDED if not satisfied(r)]


def check_torch_pair() -> None:
    """torch and torchaudio must be of one release: another pairing fails on import with a message about CUDA."""
    torch, audio = installed("torch"), installed("torchaudio")
    if torch is None or audio is None:
        absent = "torch" if torch is None else "torchaudio"
        stop(f"{absent} is not installed: install torch==2.11.0 and torchaudio==2.11.0 together")
    elif release(torch)[:2] != release(audio)[:2]:
        stop(f"torch {torch} and torchaudio {audio} do not match (the last matching pair is 2.11.0 and 2.11.0)")


def own_version() -> str:
    """The version of the course that this kernel imports."""
    from omni_lab import __version__

    return __version__


def update_course(version: str) -> None:
    """If the course on disk is older than the notebook, update our own clone, and ask for a restart."""
    if release(own_version()) >= release(version):
        return
    spec = importlib.util.find_spec("omni_lab")
    folder = Path(spec.origin or "").parents[1] if spec else Path()
    advice = f"this notebook needs omni_lab {version}, here is {own_version()}"
    if folder.name != "omni_lab_course" or not (folder / ".git").exists():
        stop(f"{advice}: update {folder} (git pull), restart the kernel, run again")
    result = subprocess.run(["git", "-C", str(folder), "pull", "--quiet", "--ff-only"], capture_output=True, text=True)
    if result.returncode:
        stop(f"{advice}, and updating {folder} failed: {result.stderr.strip().splitlines()[-1:] or 'no reason given'}")
    now = version_on_disk(folder)
    if release(now) < release(version):
        stop(f"{advice}, and where {folder} comes from there is none newer than {now}: use a notebook of that one")
    stop(f"{advice}; it has now been updated: restart the kernel and run this cell again")


def version_on_disk(folder: Path) -> str:
    """The version that the course in `folder` has now, whatever this kernel has loaded; "0" if it does not say."""
    found = re.search(r'__version__ = "([^"]+)"', (folder / "omni_lab" / "__init__.py").read_text(encoding="utf-8"))
    return found[1] if found else "0"


def install(requirements: list[str]) -> None:
    """Install with uv, or with pip where uv is absent or fails, under constraints that keep PINNED as they are."""
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{n}=={installed(n)}\n" for n in PINNED if installed(n)))
        arguments = ["install", "--quiet", "--constraint", str(constraints), *requirements]
        commands = [
            ["uv", "pip", *arguments, "--python", sys.executable],
            [sys.executable, "-m", "pip", *arguments],
        ]
        for command in commands:
            try:
                result = subprocess.run(command, env=os.environ | {"PYTHONNOUSERSITE": "1"})
            except FileNotFoundError:
                continue
            if result.returncode == 0:
                importlib.invalidate_caches()
                return
    stop(f"neither uv nor pip could install {', '.join(requirements)}: is there a network?")
