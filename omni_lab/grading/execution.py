"""Run one sanitised submission until every exercise has answered, or is known not to.

If the kernel dies or must be ended, what is finished is kept, the cell at fault is left out, and the rest runs again.
"""

import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..lab.check import Outcome
from .hidden import Hidden
from .inside import wire
from .sandbox import Ended, Limits, SandboxError, execute
from .sanitise import InvalidSubmission, Submission, notebook_to_run, read_regular_file
from .scratch import scratch

MAX_RUNS = 6
MAX_DEPTH = 200  # of one answer's lists and tables
REASONS = {
    "timeout": ("timeout", "ran longer than it may"),
    "memory": ("killed", "used more memory than it may"),
    "processes": ("killed", "started more processes than it may"),
    "killed": ("killed", "ended the kernel"),
    "dead": ("killed", "ended the kernel"),
    "wedged": ("timeout", "ran longer than it may and could not be interrupted"),
    "starved": ("killed", "left too little for what comes after it"),
}


@dataclass(frozen=True)
class Room:
    """Where submissions run: the same for all of one grading run."""

    bubblewrap: str | None  # None: trusted submissions, no sandbox
    course: Path  # holds the released package, without the references of the graded exercises
    data: Path | None  # data_samples/, read-only
    limits: Limits
    gpu: bool = False


@dataclass
class Execution:
    """What came out of the sandbox, kept for regrading. Plain data only."""

    lines: dict[str, list[object]] = field(default_factory=dict)  # exercise -> packed outcome of each case, in order
    stopped: dict[str, tuple[str, str]] = field(default_factory=dict)  # exercise -> (status, why)
    errors: dict[str, str] = field(default_factory=dict)  # cell -> its error
    notes: list[str] = field(default_factory=list)
    runs: int = 0
    peak_memory: int = 0
    cpu_seconds: float = 0.0


def run_submission(submission: Submission, hidden: Hidden, room: Room) -> Execution:
    """Execute the cells and probe each attempted exercise. Raises SandboxError if the grader's own part fails."""
    result = Execution()
    remaining = [identifier for identifier in hidden.checks if identifier in submission.attempted]
    without: set[str] = set()
    deadline = time.monotonic() + room.limits.total_seconds
    while remaining and result.runs < MAX_RUNS:
        left = deadline - time.monotonic()
        if left <= 1.0:
            break
        result.runs += 1
        ended, found = _run_once(submission, remaining, without, hidden, room, left)
        result.peak_memory = max(result.peak_memory, ended.peak_memory)
        result.cpu_seconds = round(result.cpu_seconds + ended.cpu_seconds, 2)
        _keep(result, ended, found, hidden)
        # What has answered is done, also where a case ran out of time: the probe then leaves the others.
        remaining = [i for i in remaining if not _complete(result.lines.get(i, []), hidden, i)]
        if any(event["event"] == "finished" for event in ended.events):
            return result
        if not any(event["event"] == "ready" for event in ended.events):
            stopped = next((str(e.get("message")) for e in ended.events if e["event"] == "stopped"), ended.reason)
            raise SandboxError(f"the sandbox did not start ({ended.complaint or stopped})")
        fault = _cell_at_fault(ended)
        told = next((e for e in ended.events if e["event"] in ("dead", "wedged", "starved")), {"event": ended.reason})
        status, why = REASONS.get(told["event"], REASONS["killed"])
        why += f": {one_line(str(told['of']))}" if "of" in told else ""
        if ended.reason == "timeout" and ended.seconds >= left:
            break
        if fault is None:
            break
        remaining = _leave_out(fault, status, why, submission, remaining, without, result)
    used_up = ("timeout", "the notebook's whole time was used up before this exercise")
    again = ("killed", "the kernel ended again and again")
    for identifier in remaining:
        result.stopped.setdefault(identifier, used_up if deadline - time.monotonic() <= 1.0 else again)
    return result


def _run_once(
    submission: Submission,
    remaining: list[str],
    without: set[str],
    hidden: Hidden,
    room: Room,
    seconds: float,
) -> tuple[Ended, dict[str, list[object]]]:
    with scratch("grading") as folder:
        outside, writable = folder / "files", folder / "scratch"
        outside.mkdir()
        writable.mkdir()
        for path, content in (("notebook.ipynb", notebook_to_run(submission.cells, remaining, without)),
                              ("cases", hidden.cases)):  # fmt: skip
            (outside / path).write_bytes(content)
            (outside / path).chmod(0o644)
        results = writable / "results"
        results.touch()
        results.chmod(0o666)
        reads = {"/course": room.course, "/notebook.ipynb": outside / "notebook.ipynb", "/cases": outside / "cases"}
        if room.data is not None:
            reads["/course/data_samples"] = room.data
        job = {"parameters": {"SCALE": "smoke"}}
        ended = execute(job, reads, results, room.limits, room.bubblewrap, seconds, room.gpu)
        try:
            raw = read_regular_file(results, room.limits.file_size)
        except InvalidSubmission:
            raw = b""  # it has been made into something else: nothing has answered
        return ended, read_results(raw, hidden)


def read_results(raw: bytes, hidden: Hidden) -> dict[str, list[object]]:
    """The packed outcomes in `raw` by exercise, in the order of the cases up to the first that is absent; what is no
    answer to one of our cases is passed over, and of two answers to one the first counts."""
    found: dict[tuple[str, int], object] = {}
    for line in raw.split(b"\n"):
        try:
            data = json.loads(line)
            need_flat(data)
            exercise, case = data["exercise"], data["case"]
            mine = exercise in hidden.checks and type(case) is int and data["nonce"] == hidden.nonce(exercise, case)
            if mine and (exercise, case) not in found:
                found[exercise, case] = data["outcome"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    lists: dict[str, list[object]] = {}
    for exercise, checks in hidden.checks.items():
        for index in range(len(checks.cases)):
            if (exercise, index) not in found:
                break
            lists.setdefault(exercise, []).append(found[exercise, index])
    return lists


def need_flat(data: object, most: int = MAX_DEPTH) -> None:
    """Raise RecursionError for lists and tables within each other more than `most` deep: nobody's answer is, and what
    could still be read here might not be written down again."""
    layer = [data]
    while layer:
        if most < 0:
            raise RecursionError(f"more than {MAX_DEPTH} levels")
        most -= 1
        inside = [entry for entry in layer if isinstance(entry, list | dict)]
        layer = [part for entry in inside for part in (entry.values() if isinstance(entry, dict) else entry)]


def outcome_of(packed: object) -> Outcome:
    """A case's outcome from what the sandbox wrote; anything malformed is an outcome of the kind "invalid"."""
    try:
        raw = wire.decode(packed)
        if not isinstance(raw, dict) or set(raw) != {"value", "gradients", "mutated", "kind", "fault"}:
            raise InputError("not an outcome")
        proper = isinstance(raw["gradients"], dict) and isinstance(raw["kind"], str)
        proper = proper and isinstance(raw["mutated"], list) and all(isinstance(m, str) for m in raw["mutated"])
        if not proper or not (raw["fault"] is None or isinstance(raw["fault"], str)):
            raise InputError("not an outcome")
    except (InputError, ValueError, RecursionError, OverflowError, MemoryError) as error:
        return Outcome(fault=f"gave a result that is no plain data ({one_line(str(error))})", kind="invalid")
    fault = one_line(raw["fault"]) if raw["fault"] is not None else None
    if fault is None and raw["kind"] != "value":
        fault = "gave no value"
    return Outcome(raw["value"], raw["gradients"], tuple(raw["mutated"]), fault, raw["kind"])


def one_line(text: str, length: int = 300) -> str:
    """Text of unknown origin as one printable line, without addresses of memory, which differ from run to run."""
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "0x...", text[: 4 * length])
    return "".join(c if c.isprintable() else " " for c in text)[:length].strip()


def _keep(result: Execution, ended: Ended, found: dict[str, list[object]], hidden: Hidden) -> None:
    for exercise, lines in found.items():
        if len(lines) > len(result.lines.get(exercise, [])):
            result.lines[exercise] = lines
    for event in ended.events:
        if event["event"] == "end" and event.get("status") in ("error", "timeout"):
            message = "ran longer than it may" if event["status"] == "timeout" else event.get("message", "")
            result.errors.setdefault(one_line(str(event.get("cell"))), one_line(str(message)))


def _complete(lines: list[object], hidden: Hidden, exercise: str) -> bool:
    if len(lines) == len(hidden.checks[exercise].cases):
        return True
    return bool(lines) and outcome_of(lines[-1]).kind in ("timeout", "interrupted")


def _cell_at_fault(ended: Ended) -> str | None:
    """The cell that was begun last and has not ended."""
    last = None
    for event in ended.events:
        if event["event"] == "start":
            last = event.get("cell")
        elif event["event"] == "end":
            last = None
    return last if isinstance(last, str) else None


def _leave_out(
    fault: str,
    status: str,
    why: str,
    submission: Submission,
    remaining: list[str],
    without: set[str],
    result: Execution,
) -> list[str]:
    """Leave the cell or exercise at fault out of the next run; the exercises that remain."""
    if fault.startswith("probe "):
        exercise = fault.removeprefix("probe ")
        result.stopped[exercise] = (status, f"the function {why}")
        return [i for i in remaining if i != exercise]
    without.add(fault)
    result.notes.append(f"{fault} {why}; the others were run again without it")
    kept = {i for cell in submission.cells if cell.name not in without for i in cell.answers}
    for exercise in remaining:
        if exercise not in kept:
            result.stopped[exercise] = (status, f"{fault}, which holds it, {why}")
    return [i for i in remaining if i in kept]


def to_json(result: Execution) -> bytes:
    """For the folder of answers."""
    return json.dumps(vars(result), sort_keys=True).encode()


def from_json(raw: bytes) -> Execution:
    """What `to_json` was given (it was written by the grader itself)."""
    data = json.loads(raw)
    data["stopped"] = {exercise: tuple(pair) for exercise, pair in data["stopped"].items()}
    return Execution(**data)
