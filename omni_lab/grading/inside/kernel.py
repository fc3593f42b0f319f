"""The kernel in which a submission runs: IPython's, without history, debugger or file-descriptor capture.

Three things are its own: what a cell prints is cut at a limit; a cell marked by the grader hands over the function it
defines; a probe cell calls such a function, past any transformer that the student's code may have installed.
"""

import gc
import json
import os
import sys
from collections.abc import Callable

gc.disable()  # while a thousand modules load: nothing of them is garbage, and looking for it costs a tenth of the time
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
for _heavy in ("debugpy", "matplotlib_inline.backend_inline"):
    sys.modules.setdefault(_heavy, None)  # type: ignore[arg-type]  # None: an import of it fails at once

import probe  # noqa: E402  (and torch with it: before any of the student's code, and not in a cell's time)
from ipykernel.iostream import IOPubThread, OutStream  # noqa: E402
from ipykernel.ipkernel import IPythonKernel  # noqa: E402
from ipykernel.kernelapp import IPKernelApp  # noqa: E402
from marks import CAPTURE, PROBE  # noqa: E402

from omni_lab.lab import check, exercises, stored  # noqa: E402

gc.enable()
gc.freeze()  # nor shall later collections look through them
_settings = json.loads(os.environ.pop("OMNI_LAB_KERNEL"))
_printed = 0
_write = OutStream.write


def _limited_write(stream: OutStream, text: str) -> int:
    global _printed
    room = _settings["output"] - _printed
    _printed += len(text)
    if room > 0:
        _write(stream, text[:room])
    return len(text)


OutStream.write = _limited_write  # type: ignore[method-assign, assignment]
# It would listen on loopback for what forked children print; a sandbox has no internet sockets at all.
IOPubThread._setup_pipe_in = lambda thread: setattr(thread, "_pipe_flag", False)  # type: ignore[method-assign]


class GradingKernel(IPythonKernel):
    """IPython's kernel with the two marks that the grader puts into a notebook."""

    functions: dict[str, Callable] = {}  # captured answers by exercise id

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        # `exit()` would stop the kernel a moment later, in the middle of a cell that is not to blame.
        self.shell.ask_exit = lambda: None  # type: ignore[union-attr]

    async def do_execute(self, code, silent, *args, **kwargs):
        global _printed
        _printed = 0
        first, _, _ = code.partition("\n")
        if first.startswith(PROBE):
            return self._probe(first[len(PROBE) :].strip())
        marks = [line[len(CAPTURE) :].split() for line in code.splitlines() if line.startswith(CAPTURE)]
        before = {name: self.shell.user_ns.get(name) for _, name in marks}
        reply = await super().do_execute(code, silent, *args, **kwargs)
        for exercise, name in marks:
            found = self.shell.user_ns.get(name)
            if found is not None and (found is not before[name] or reply["status"] == "ok"):
                self.functions[exercise] = found
                self._install(exercise, found)
        return reply

    def _install(self, exercise: str, function: Callable) -> None:
        """Do what the lab's decorator does: a function that passes the lab's own check goes into the package."""
        try:
            checks = stored.find_checks(exercise)
            if checks.exercise.target and check.check(function, checks).solved:
                exercises.install(checks.exercise.target, function)
        except BaseException:
            return  # student code may do anything here; what it costs is that later cells lack this function

    def _probe(self, exercise: str) -> dict:
        if exercise in self.functions:
            try:
                probe.run(exercise, self.functions[exercise], _settings)
            except BaseException as error:  # not the function's, which the probe catches: the runner shall know of it
                content = {"ename": type(error).__name__, "evalue": str(error)[:300], "traceback": []}
                self.send_response(self.iopub_socket, "error", content)
        return {"status": "ok", "execution_count": 0, "payload": [], "user_expressions": {}}


if __name__ == "__main__":
    IPKernelApp.launch_instance(
        ["-f", sys.argv[1], "--quiet", "--HistoryManager.enabled=False"],
        kernel_class=GradingKernel,
        capture_fd_output=False,
    )
