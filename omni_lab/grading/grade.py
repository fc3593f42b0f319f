"""Grade a folder of submissions: many workers, one store, and a run that nothing in a submission can stop."""

import compileall
import contextlib
import hashlib
import importlib.util
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ..errors import DataError, InputError
from .artefacts import MAX_BYTES as MAX_ARTEFACT
from .artefacts import grade_artefacts, read_artefacts
from .collect import Collected, collect
from .execution import Execution, Room, from_json, one_line, run_submission, to_json
from .gradebook import kept_by_hand, write_gradebook
from .hidden import Hidden, draw, find_lab
from .release import write_package
from .sandbox import Limits, SandboxError, check_sandbox, need_hidden
from .sanitise import MAX_BYTES, InvalidSubmission, Submission, read_regular_file, sanitise
from .scratch import scratch
from .store import Store, read_store, write_whole
from .verdicts import grade_answers, same_for_all

Runner = Callable[[Submission], Execution]
# What runs a notebook inside, and this process need not have imported.
MACHINERY = "ipykernel, IPython, jupyter_client, nbclient, nbformat, papermill, tornado, traitlets, zmq"


@dataclass(frozen=True)
class Settings:
    """How a class is graded."""

    root: Path  # the course, instructor's side: omni_lab/, solutions/, data_samples/
    lab: str  # "01" or "01_clip"
    out: Path
    workers: int = 2
    limits: Limits = field(default_factory=Limits)
    trust_submissions: bool = False  # run without a sandbox
    gpu: bool = False
    seed: int | None = None  # of the hidden cases; default: secret, kept in the store
    scheduler: str | None = None  # address of a Dask scheduler, "tcp://host:8786"; None: this machine does the work


@contextlib.contextmanager
def open_room(settings: Settings, source: Path) -> Iterator[Room]:
    """The sandbox's surroundings: a package without the lab's answers, in a folder that lives as long as the run."""
    bubblewrap = None if settings.trust_submissions else check_sandbox()
    with scratch("course") as folder:
        course = folder / "course"
        write_package(settings.root, course, [source])
        # Byte code once, here: inside, nothing can be written.
        compileall.compile_dir(str(course / "omni_lab"), quiet=2)
        compile_machinery()
        data = (settings.root / "data_samples").resolve()
        if bubblewrap is None and data.is_dir():
            (course / "data_samples").symlink_to(data)
        else:
            (course / "data_samples").mkdir()
        for path in (course, *course.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
        yield Room(bubblewrap, course, data if data.is_dir() else None, settings.limits, settings.gpu)


def compile_machinery() -> None:
    """Byte code of `MACHINERY` where there is none yet: a fresh environment would make it anew in every sandbox."""
    for name in MACHINERY.split(", "):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            compileall.compile_dir(str(Path(spec.origin).parent), quiet=2)


@contextlib.contextmanager
def open_runner(settings: Settings, source: Path, hidden: Hidden) -> Iterator[tuple[Runner, int]]:
    """(what runs a submission, how many run at a time): sandboxes of this machine, or of a cluster's."""
    if settings.scheduler is not None:
        from .cluster import cluster

        with cluster(settings, hidden) as opened:
            yield opened
        return
    with open_room(settings, source) as room:
        yield (lambda submission: run_submission(submission, hidden, room)), settings.workers


def grade(submissions: Path, settings: Settings, roster: Path | None = None, progress: bool = True) -> dict:
    """Grade everything in `submissions` that the store in `settings.out` does not hold yet; write the gradebook and the
    feedback pages; return the gradebook. Raises InputError, DataError, SandboxError before any work is done."""
    source = find_lab(settings.root, settings.lab)
    if not settings.trust_submissions:
        need_hidden(course=settings.root, out=settings.out, submissions=submissions)
    with scratch("collect") as unpacked:
        entries = collect(submissions, unpacked, roster)
        seed = settings.seed if settings.seed is not None else secrets.randbits(63)
        if settings.scheduler is None and not settings.trust_submissions:
            check_sandbox()  # before anything is written
        store = Store(settings.out / "store.jsonl", {"lab": source.stem, "seed": seed, "format": 1})
        try:
            hidden = draw(source, store.run["seed"])
            waiting = [(entry, digest_of(entry)) for entry in entries]
            cases = cases_of(hidden)
            waiting = [(entry, digest) for entry, digest in waiting if not _known(store, entry, digest, cases)]
            with open_runner(settings, source, hidden) as (run, workers):
                _grade_all(waiting, hidden, run, workers, store, settings, progress)
        finally:
            store.close()
    return write_gradebook(settings.out, store.run, store.records, *kept_by_hand(settings.out))


def _known(store: Store, entry: Collected, digest: str, cases: str) -> bool:
    record = store.records.get(entry.name)
    if record is None or record["digest"] != digest or record.get("cases", cases) != cases:
        return False
    return all(exercise["status"] != "infrastructure" for exercise in record["exercises"].values())


def _grade_all(
    waiting: list, hidden: Hidden, run: Runner, workers: int, store: Store, settings: Settings, progress: bool
) -> None:
    lock = threading.Lock()

    def work(entry: Collected, digest: str) -> None:
        record, execution, artefacts = grade_one(entry, digest, hidden, run)
        with lock:  # answers first: a record without them could not be regraded
            write_whole(answers_path(settings.out, entry.name), to_json(execution))
            for identifier, content in artefacts.items():
                write_whole(answers_path(settings.out, entry.name, identifier), content)
            store.add(record)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, entry, digest) for entry, digest in waiting]
        bar = tqdm(as_completed(futures), total=len(futures), unit="submission", disable=not progress, file=sys.stderr)
        try:
            for future in bar:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def grade_one(entry: Collected, digest: str, hidden: Hidden, run: Runner) -> tuple[dict, Execution, dict[str, bytes]]:
    """One work unit: (the record for the store, what came out of the sandbox, artefacts as handed in). Nothing in a
    submission makes it fail."""
    started = time.monotonic()
    execution, submission = Execution(), None
    artefacts: dict[str, bytes] = {}
    try:
        if entry.trouble:
            raise OSError(entry.trouble)
        submission, notes = choose_notebook(entry, hidden)
        execution = run(submission)
        execution.notes = [*notes, *submission.notes, *execution.notes]
        exercises = grade_answers(submission, execution, hidden)
    except InvalidSubmission as error:
        exercises = same_for_all(hidden, "missing" if not entry.files else "invalid", str(error))
    except (SandboxError, OSError, MemoryError) as error:  # ours, or the machine's: to be graded again, not a zero
        message = f"could not be graded: {type(error).__name__}: {error}"
        exercises = same_for_all(hidden, "infrastructure", message)
    except Exception as error:  # a mistake of the grader's, met in one submission: the class goes on
        exercises = same_for_all(hidden, "infrastructure", _our_mistake(error))
    if not entry.trouble:  # else the artefacts may be among what could not be unpacked
        graded, artefacts = _measure(entry, hidden)
        exercises |= graded
    record = {
        "submission": entry.name, "digest": digest, "late": entry.late, "platform_id": entry.platform_id,
        "student_id": entry.student_id, "email": entry.email, "exercises": exercises, "notes": execution.notes,
        "sources": submission.attempted if submission else {}, "runs": execution.runs,
        "seconds": round(time.monotonic() - started, 2), "cpu_seconds": execution.cpu_seconds,
        "cases": cases_of(hidden),
    }  # fmt: skip
    return record, execution, artefacts


def _measure(entry: Collected, hidden: Hidden) -> tuple[dict[str, dict], dict[str, bytes]]:
    """(an entry for each artefact of the lab, the artefacts as handed in)."""
    try:
        artefacts, faults = read_artefacts(hidden.artefacts, entry.artefacts)
        return grade_artefacts(hidden.artefacts, artefacts, faults, hidden.seed), artefacts
    except Exception as error:  # the machine's fault, or a mistake of the lab's metric: no zero, either
        nothing = same_for_all(hidden, "infrastructure", _our_mistake(error))
        return {identifier: nothing[identifier] for identifier in hidden.artefacts}, {}


def _our_mistake(error: Exception) -> str:
    return f"the grader failed ({type(error).__name__}: {one_line(str(error))}): please report it"


def cases_of(hidden: Hidden) -> str:
    """Identifies the cases, by which a changed lab is told from a repaired tolerance or message."""
    return hashlib.sha256(hidden.cases).hexdigest()[:16]


def choose_notebook(entry: Collected, hidden: Hidden) -> tuple[Submission, list[str]]:
    """The notebook that attempts most exercises; of equals the last by name. Raises InvalidSubmission."""
    if not entry.files:
        raise InvalidSubmission(entry.fault or "no notebook was handed in")
    best: Submission | None = None
    chosen, fault = entry.files[-1], ""
    for path in entry.files:
        try:
            candidate = sanitise(read_regular_file(path), hidden.functions)
        except InvalidSubmission as error:
            fault = str(error)
            continue
        if best is None or len(candidate.attempted) >= len(best.attempted):
            best, chosen = candidate, path
    if best is None:
        raise InvalidSubmission(fault)
    several = [f"{len(entry.files)} notebooks were handed in; {chosen.name[:100]} was graded"]
    unread = [entry.fault] if entry.fault else []
    return best, (several if len(entry.files) > 1 else []) + unread


def digest_of(entry: Collected) -> str:
    """Identifies what was handed in, so that a changed submission is graded again."""
    total = hashlib.sha256((entry.fault + entry.trouble).encode())
    for path in (*entry.files, *entry.artefacts):
        total.update(path.name.encode("utf-8", "surrogateescape") + b"\0")
        with contextlib.suppress(InvalidSubmission):
            limit = MAX_ARTEFACT if path in entry.artefacts else MAX_BYTES
            total.update(hashlib.sha256(read_regular_file(path, limit)).digest())
    return total.hexdigest()


def answers_path(out: Path, name: str, artefact: str = "") -> Path:
    """Where a submission's answers lie, or one artefact of it; its name is of unknown origin, so that the file is
    called by its hash."""
    number = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:32]
    return out / "answers" / (f"{number}.{artefact}.safetensors" if artefact else f"{number}.json")


def regrade(settings: Settings, names: list[str]) -> dict:
    """Compare the stored answers again (after a repaired tolerance or message), running nothing of a submission.

    names: submissions; none: all. Raises DataError if the cases themselves have changed: then grade again."""
    run, records = read_store(settings.out / "store.jsonl")
    unknown = [name for name in names if name not in records]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not in the gradebook")
    hidden = draw(find_lab(settings.root, run["lab"]), run["seed"])
    store = Store(settings.out / "store.jsonl", run)
    try:
        for name in names or sorted(records):
            record = records[name]
            if record.get("cases", cases_of(hidden)) != cases_of(hidden):
                raise DataError(f"the cases of lab {run['lab']} have changed since {name!r} was graded: grade it again")
            exercises = record["exercises"] | _measured_again(settings.out, record, hidden)
            if record["sources"]:
                exercises |= _compared_again(settings.out, record, hidden)
            if exercises != record["exercises"]:
                store.add({**record, "exercises": exercises})
    finally:
        store.close()
    return write_gradebook(settings.out, store.run, store.records, *kept_by_hand(settings.out))


def _compared_again(out: Path, record: dict, hidden: Hidden) -> dict[str, dict]:
    path = answers_path(out, record["submission"])
    if not path.is_file():
        raise DataError(f"{path}: the answers of {record['submission']!r} are gone; grade it again")
    submission = Submission([], record["sources"], record["notes"])
    exercises = grade_answers(submission, from_json(path.read_bytes()), hidden)
    for identifier, entry in exercises.items():
        old = record["exercises"].get(identifier)
        if old is not None and (old["status"] == "infrastructure" or entry["status"] == old["status"] == "error"):
            exercises[identifier] = old  # there was no answer to compare; of an error its message names the cell
    return exercises


def _measured_again(out: Path, record: dict, hidden: Hidden) -> dict[str, dict]:
    """The artefacts that were handed in and could be read; what is kept of the others is their entry."""
    paths = {identifier: answers_path(out, record["submission"], identifier) for identifier in hidden.artefacts}
    contents = {identifier: path.read_bytes() for identifier, path in paths.items() if path.is_file()}
    graded = grade_artefacts(hidden.artefacts, contents, {}, hidden.seed)
    old = {identifier: entry["status"] for identifier, entry in record["exercises"].items()}
    return {i: entry for i, entry in graded.items() if i in contents and old.get(i) != "infrastructure"}
