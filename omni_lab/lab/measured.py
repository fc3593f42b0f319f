"""What each lab takes at each scale, as measured: `omni-lab notebooks run NN --scale S --record` writes it here beside,
and the lab's first cell reads it (`lab.start(..., lab="NN")`).

Time is that of the processors, all cores together: unlike the clock, it is the same on a machine that is busy.
"""

import datetime
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InputError
from .stored import folder_of, replace_file

FILE = Path(__file__).parent / "measured.json"


def file_of(course: Path) -> Path:
    """Where the record of the course in that folder lies: in its own copy of the package, else in this one."""
    return folder_of(course).parent / FILE.name


@dataclass(frozen=True)
class Measurement:
    """One run of one lab at one scale."""

    date: str  # "2026-11-22"
    machine: str  # in words, as `runtime.hardware().name` gives it
    cpu_seconds: float  # of the kernel and all that it started, all cores together
    peak_gb: float  # 1e9 bytes, the largest sum over the kernel and its children
    figure: str = ""  # the figure by which that run is judged, in words: "letters wrong: 26 %"

    @property
    def words(self) -> str:
        """Time, memory, machine and date, as a lab's header states them."""
        minutes, seconds = divmod(round(self.cpu_seconds), 60)
        time = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        return f"{time} of processor time, {self.peak_gb:.1f} GB (on {self.machine}, {self.date})"


def read(path: Path = FILE) -> dict[str, dict[str, Measurement]]:
    """All that is on record, by lab ("05") and scale. Raises InputError for a damaged record."""
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {lab: {scale: Measurement(**one) for scale, one in scales.items()} for lab, scales in known.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a record of measurements ({error}); restore it from the repository") from error


def record(
    lab: str, scale: str, machine: str, cpu_seconds: float, peak: int, figure: str = "", path: Path = FILE
) -> Measurement:
    """Put one run on record, in place of an earlier one of the same lab and scale. peak: bytes; figure: in words."""
    known = read(path)
    date = datetime.date.today().isoformat()
    made = Measurement(date, machine, round(cpu_seconds, 1), round(peak / 1e9, 2), figure)
    known.setdefault(lab, {})[scale] = made
    plain = {name: {s: asdict(one) for s, one in sorted(scales.items())} for name, scales in sorted(known.items())}
    replace_file(path, (json.dumps(plain, indent=1) + "\n").encode())
    return made


def told(lab: str, scales: tuple[str, ...], path: Path = FILE) -> str:
    """What the lab takes at each of the scales, a line each, with what came of it where something is learned, and the
    scales that nobody has measured."""
    known = read(path).get(lab, {})
    lines = []
    for scale in (scale for scale in scales if scale in known):
        lines.append(f"  {scale:<5} {known[scale].words}")
        if known[scale].figure and scale != "smoke":
            lines.append(f"        {known[scale].figure}")
    if missing := [scale for scale in scales if scale not in known]:
        lines.append(f"  not measured yet: {', '.join(missing)}")
    return "\n".join(lines)
