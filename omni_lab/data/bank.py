"""Many short sounds in one file: an Ogg Opus stream and a JSON table of where each begins and what it is.

One file is read in one go and compresses far better than five hundred. Between two sounds lies a little silence, so
that a lossy codec cannot smear one into the next.
"""

import importlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, MediaError, OmniLabError

GAP = 0.1  # seconds of silence after each sound


@dataclass(frozen=True)
class Sound:
    """One sound of a bank: its name, its wave float32 (samples,), and what the table says of it."""

    name: str
    wave: np.ndarray
    about: dict[str, Any]


def package(name: str) -> Any:
    """A package that only sound or video files need: most training reads none. Raises OmniLabError if it is missing."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: soundfile without its libsndfile
        raise OmniLabError(f"no {name} ({error}): sound and video files need it, `pip install {name}`") from error


def write(path: str | Path, sounds: list[Sound], rate: int, bit_rate: int = 24_000) -> None:
    """Write `path` (.opus) and its table beside it (.json), each atomically. rate: Hz, 16000 or 24000."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table, pieces, start = [], [], 0
    for sound in sounds:
        piece = np.pad(np.asarray(sound.wave, np.float32), (0, int(GAP * rate)))
        table.append({"name": sound.name, "start": start, "length": len(sound.wave), **sound.about})
        pieces.append(piece)
        start += len(piece)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.ogg")
    encode_opus(temporary, np.concatenate(pieces), rate, bit_rate)
    os.replace(temporary, path)
    text = json.dumps({"rate": rate, "sounds": table}, ensure_ascii=False, indent=0)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.json")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path.with_suffix(".json"))


def encode_opus(path: Path, wave: np.ndarray, rate: int, bit_rate: int) -> None:
    """Write one channel of float32 samples as Ogg Opus."""
    av = package("av")
    with av.open(str(path), "w", format="ogg") as container:
        # Packets of 60 ms: the header of a packet counts when 20 ms of sound are forty bytes.
        packets = {"frame_duration": "60"}
        stream = container.add_stream("libopus", rate=rate, layout="mono", bit_rate=bit_rate, options=packets)
        for begin in range(0, len(wave), rate):
            block = np.clip(wave[begin : begin + rate] * 32767, -32768, 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block[None, :], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, begin
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def read(path: str | Path) -> list[Sound]:
    """All sounds of a bank. Raises DataError when a file is missing or damaged, naming it."""
    path = Path(path)
    try:
        table = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        rate, entries = table["rate"], table["sounds"]
    except OSError as error:
        raise DataError(f"{path.with_suffix('.json')}: missing; make it with `omni-lab data build`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.with_suffix('.json')}: damaged; make it again with `omni-lab data build`") from error
    wave = read_wave(path, rate)
    sounds = []
    for entry in entries:
        about = {k: v for k, v in entry.items() if k not in ("name", "start", "length")}
        piece = wave[entry["start"] : entry["start"] + entry["length"]]
        if len(piece) < entry["length"]:
            raise DataError(f"{path}: ends before {entry['name']!r}; make it again with `omni-lab data build`")
        sounds.append(Sound(entry["name"], piece, about))
    return sounds


def read_wave(path: str | Path, rate: int) -> np.ndarray:
    """Any sound file that libsndfile reads, as one channel, float32 (samples,) at `rate` Hz. Raises MediaError."""
    from .speech import resample

    soundfile = package("soundfile")
    try:
        wave, found = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise MediaError(f"{path}: missing, or not a sound file (WAV, FLAC, MP3, Ogg)") from error
    if not len(wave):
        raise MediaError(f"{path}: no sound in it")
    return resample(wave.mean(1), found, rate)
