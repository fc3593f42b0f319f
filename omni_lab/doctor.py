"""`omni-lab doctor`: what this machine can run and what is missing. `omni-lab parts`: where the parameters are."""

import importlib.metadata
import importlib.util
import platform
import shutil
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer

from . import __version__, config, runtime
from .data.folders import samples_folder
from .errors import DataError, OmniLabError

COURSE = Path(__file__).resolve().parents[1]
OPTIONAL = {  # module: what works with it
    "jupyterlab": "make lab",
    "papermill": "omni-lab notebooks run",
    "faster_whisper": "word error rate by an independent recogniser",
    "hibari": "omni-lab data build (a neural voice)",
    "soundfile": "sound in notebooks",
    "av": "video files",
}


def installed(name: str) -> str:
    """The installed version of a distribution, or nothing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def torch_pair() -> tuple[bool, str]:
    """Whether torch and torchaudio are of one release, and a line that says so."""
    torch_version, audio_version = installed("torch"), installed("torchaudio")
    if not audio_version:
        return False, f"torch {torch_version}, no torchaudio: install torch==2.11.0 torchaudio==2.11.0"
    same = torch_version.split(".")[:2] == audio_version.split(".")[:2]
    advice = "" if same else ", which do not match: torchaudio's last release is 2.11.0, for torch 2.11.0"
    return same, f"torch {torch_version}, torchaudio {audio_version}{advice}"


def gpu_line() -> str:
    """The GPU and what it computes in; bf16 only where it is native (capability 8.0 and later)."""
    here = runtime.hardware()
    if here.device.type == "cpu":
        return "none; computing in float32 on the CPU"
    dtype = str(here.dtype).removeprefix("torch.")
    native = "" if here.dtype == torch.bfloat16 or here.device.type != "cuda" else " (bf16 is emulated here: not used)"
    return f"{here.name}, {here.memory / 1e9:.0f} GB, computing in {dtype}{native}"


def folder_line(name: str) -> tuple[bool, str]:
    """Whether a folder of the shipped data ("": all of it) holds anything, and how much."""
    try:
        path = samples_folder() / name
    except DataError as error:
        return False, str(error)
    shown = path.relative_to(COURSE) if path.is_relative_to(COURSE) else path
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else []
    if not files:
        return False, f"{shown}/ is missing or empty: clone the whole course"
    size = sum(p.stat().st_size for p in files)
    return True, f"{shown}/: {len(files)} files, {size / 1e6:.1f} MB"


def findings() -> list[tuple[str, bool, str]]:
    """(subject, whether all is well, words) for each thing that the course needs."""
    pair_ok, pair = torch_pair()
    python_ok = (3, 11) <= tuple(map(int, platform.python_version_tuple()[:2])) <= (3, 12)
    free, disk = psutil.virtual_memory().available, shutil.disk_usage(COURSE).free
    data_ok, data = folder_line("")
    model_ok, model = folder_line("checkpoints")
    return [
        (
            "python",
            python_ok,
            f"{platform.python_version()} on {platform.system()}" + (" " if python_ok else ": use 3.11 or 3.12"),
        ),
        ("torch", pair_ok, pair),
        ("gpu", True, gpu_line()),
        ("cores", True, f"{runtime.available_cores()}"),
        ("memory", free > 2e9, f"{free / 1e9:.1f} GB free" + ("" if free > 2e9 else ": the labs need 2 GB")),
        ("disk", disk > 2e9, f"{disk / 1e9:.0f} GB free" + ("" if disk > 2e9 else ": training needs 2 GB")),
        ("data", data_ok, data),
        ("checkpoint", model_ok, model),
        ("scale", True, f"{runtime.default_scale()} (override with OMNI_LAB_SCALE)"),
    ]


def doctor() -> None:
    """Say what this machine can run and what is missing; exit code 1 if a lab could not run."""
    print(f"omni_lab {__version__}")
    found = findings()
    for subject, well, words in found:
        print(f"  {'ok' if well else '!!'}  {subject:<10} {words}")
    for module, words in OPTIONAL.items():
        there = importlib.util.find_spec(module) is not None
        print(f"  {'ok' if there else '--'}  {module:<10} {'for' if there else 'absent: no'} {words}")
    if faults := [subject for subject, well, _ in found if not well]:
        raise OmniLabError(f"not ready: {', '.join(faults)} (see above)")
    print("Ready.")


def parts(
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(config.PRESETS)}.")] = "nano",
) -> None:
    """Print the model's parts and their parameters, without allocating them."""
    from .omni import OmniModel

    with torch.device("meta"):
        model = OmniModel(config.preset(preset))
    total = 0
    for name, module in model.named_children():
        for child_name, child in module.named_children():
            count = sum(p.numel() for p in child.parameters())
            if count:
                print(f"  {name + '.' + child_name:<44} {count / 1e6:10.3f} M")
        own = sum(p.numel() for p in module.parameters())
        total += own
        print(f"  {name:<44} {own / 1e6:10.3f} M")
    print(f"  {'in all':<44} {total / 1e6:10.3f} M")
