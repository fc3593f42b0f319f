"""First process in the sandbox: gives up what it still may do, then executes the notebook by papermill.

It reads its job from standard input and reports on standard output, one JSON line an event. It imports nothing of the
submission and shares no process with it. A cell that outlives its time is interrupted; one that ignores that, one that
leaves no room to the others, or a kernel that has died, ends the run with the cell's name, so that the grader can run
the rest again without it.
"""

import ctypes
import gc
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time

gc.disable()  # it lives for one notebook, and leaves nothing behind that would be worth the looking
JOB = json.loads(sys.stdin.buffer.read())
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import headroom  # noqa: E402

GRACE = 2.0  # seconds that a cell has to end after it was interrupted
STARTING = (
    300.0  # seconds that the kernel has to start, before any code of the submission: a busy machine is not its fault
)


def path_of(name: str) -> str:
    """Where a path of the sandbox lies: itself, except for trusted submissions, which run without one."""
    return JOB.get("paths", {}).get(name, name)


def report(event: str, **details: object) -> None:
    """One event as a line on standard output."""
    os.write(1, json.dumps({"event": event, **details}).encode() + b"\n")


def confine() -> None:
    """Change to the sandbox's own user, set limits, and close this process to inspection by the student's."""
    limits = JOB["limits"]
    if JOB["uid"]:
        os.setgroups([])
        os.setgid(JOB["uid"])
        os.setuid(JOB["uid"])
    if "paths" not in JOB:  # outside a sandbox the user's other processes would be counted
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"],) * 2)
        resource.setrlimit(resource.RLIMIT_DATA, (limits["memory"],) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_size"],) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits["files"],) * 2)
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no ptrace, no /proc/<pid>/fd for the kernel's process


def start_kernel() -> tuple[subprocess.Popen, str]:
    """Start the kernel on Unix sockets in the scratch; (its process, its connection file)."""
    folder = os.path.join(path_of("/scratch"), ".kernel")
    os.makedirs(folder, exist_ok=True)
    connection = os.path.join(folder, "connection.json")
    ports = {f"{name}_port": number for number, name in enumerate(("shell", "iopub", "stdin", "hb", "control"), 1)}
    with open(connection, "w") as file:
        json.dump({**ports, "transport": "ipc", "ip": os.path.join(folder, "s"), "key": os.urandom(16).hex(),
                   "signature_scheme": "hmac-sha256", "kernel_name": "python3"}, file)  # fmt: skip
    settings = {"output": JOB["limits"]["output"], "case_seconds": JOB["limits"]["case_seconds"],
                "cases": path_of("/cases"), "results": path_of("/results")}  # fmt: skip
    environment = {**os.environ, "OMNI_LAB_KERNEL": json.dumps(settings)}
    kernel = subprocess.Popen(
        [sys.executable, os.path.join(HERE, "kernel.py"), connection], env=environment, cwd=path_of("/scratch"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return kernel, connection


def lacking(kernel: subprocess.Popen) -> str | None:
    """What the kernel has nearly used up; None outside a sandbox, where it has no limits."""
    return None if "paths" in JOB else headroom.lacking(kernel.pid, JOB["limits"], path_of("/results"))


class Stopped(Exception):
    """The kernel died, cannot be stopped, or has no room to go on: the run is over."""


class KernelSession:
    """A kernel and its messages, with time limits."""

    def __init__(self, kernel: subprocess.Popen, connection: str) -> None:
        from jupyter_client import BlockingKernelClient

        self.kernel = kernel
        self.client = BlockingKernelClient(connection_file=connection)
        self.client.load_connection_file()
        self.client.start_channels(stdin=False, hb=False, control=False)
        self._handshake(time.monotonic() + STARTING)

    def _handshake(self, deadline: float) -> None:
        """Ask for the kernel's description until it answers on both channels: then no later message can be lost."""
        while time.monotonic() < deadline:
            request = self.client.kernel_info()
            until = time.monotonic() + 2
            while time.monotonic() < until:
                message = self._next(0.2)
                if message is not None and message["parent_header"].get("msg_id") == request:
                    return
        raise Stopped("the kernel did not start")

    def _next(self, wait: float) -> dict | None:
        import queue

        try:
            return self.client.get_iopub_msg(timeout=wait)
        except queue.Empty:
            if self.kernel.poll() is not None:
                raise Stopped("dead") from None
            return None

    def run(self, source: str, seconds: float) -> tuple[str, str]:
        """Execute one cell; ("ok" | "error" | "timeout", message)."""
        request = self.client.execute(source, store_history=False, allow_stdin=False, stop_on_error=False)
        deadline, interrupted, error = time.monotonic() + seconds, False, ""
        while True:
            message = self._next(min(0.2, max(0.01, deadline - time.monotonic())))
            if message is not None and message["parent_header"].get("msg_id") == request:
                content = message["content"]
                if message["msg_type"] == "error":
                    error = f"{content.get('ename', '')}: {content.get('evalue', '')}"[:300]
                if message["msg_type"] == "status" and content.get("execution_state") == "idle":
                    return ("timeout" if interrupted else "error" if error else "ok"), error
            if time.monotonic() > deadline:
                if interrupted:
                    raise Stopped("wedged")
                interrupted, deadline = True, time.monotonic() + GRACE
                self.kernel.send_signal(signal.SIGINT)


def execute_by_papermill(kernel: subprocess.Popen, connection: str) -> None:
    """Papermill with an engine of our own: no error and no time-out ends the run."""
    # Optional imports of papermill and jsonschema that take seconds and that no submission needs.
    for heavy in ("rfc3987_syntax", "isoduration", "pyarrow", "webcolors", "boto3", "azure", "gcsfs"):
        sys.modules.setdefault(heavy, None)  # type: ignore[arg-type]  # None: an import of it fails at once
    import papermill
    from papermill.engines import Engine, papermill_engines

    class GradingEngine(Engine):
        """Runs the cells in our kernel, each with its time limit, whatever they do."""

        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, **kwargs):
            session = KernelSession(kernel, connection)
            if scarce := lacking(kernel):
                raise Stopped(f"the limits leave too little of this to begin with: {scarce}")
            report("ready")
            for index, cell in enumerate(nb_man.nb.cells):
                if cell.cell_type != "code" or not cell.source.strip():
                    continue
                name = cell.metadata.get("omni_lab", "parameters")
                nb_man.cell_start(cell, index)
                report("start", cell=name)
                started = time.monotonic()
                try:
                    status, message = session.run(cell.source, JOB["limits"]["cell_seconds"])
                except Stopped as stopped:
                    report(str(stopped), cell=name)
                    raise
                if scarce := lacking(kernel):
                    report("starved", cell=name, of=scarce)
                    raise Stopped("starved")
                nb_man.cell_complete(cell, index)
                report("end", cell=name, status=status, message=message, seconds=round(time.monotonic() - started, 3))

    logging.disable(logging.WARNING)  # papermill's remark that there is no parameters cell
    papermill_engines.register("grading", GradingEngine)
    papermill.execute_notebook(
        path_of("/notebook.ipynb"), None, parameters=JOB["parameters"], engine_name="grading", kernel_name="python3",
        progress_bar=False, log_output=False,
    )  # fmt: skip


def main() -> int:
    """Return 0 when every cell was run, 3 when the kernel had to be given up."""
    confine()
    kernel, connection = start_kernel()
    try:
        execute_by_papermill(kernel, connection)
    except Stopped as stopped:
        report("stopped", message=str(stopped))
        return 3
    finally:
        kernel.kill()
    report("finished")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # without waiting for threads of libraries
