"""Loops without end, exits, kills: what is finished keeps its points, what stands after it is run all the same."""

from .make import DOUBLE, FULL, IMPORTS, NONE, TOTAL, Expected, honest, notebook

DIES = """import os
@exercise("toy.mean_square")
def mean_square(values):
    if len(values) > 1: os._exit(1)
    return values[0] ** 2"""
SWALLOW = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
KILL_ALL = """import os, signal
for name in sorted(os.listdir("/proc"), reverse=True):
    if name.isdigit() and int(name) != os.getpid():
        try: os.kill(int(name), signal.SIGKILL)
        except OSError: pass
os.kill(-1, signal.SIGKILL)"""


def inside(body: str, identifier: str = "toy.mean_square") -> str:
    """An answer that does `body` when it is called, by default to the second exercise."""
    indented = body.replace("\n", "\n    ")
    name = identifier.partition(".")[2]
    return f'@exercise("{identifier}")\ndef {name}(*args, **kwargs):\n    {indented}\n    return 1.0'


SUBMISSIONS = {
    "endless-loop-and-sys-exit": Expected(
        honest("while True: pass", "import sys\nsys.exit(0)", "exit()", "raise SystemExit"), FULL
    ),
    "sleeps-exits-raises-in-answers": Expected(
        notebook(
            IMPORTS, inside("import time; time.sleep(3600)", "toy.double"), inside("import sys; sys.exit(0)"),
            inside("return nowhere", "toy.running_total"),
        ),
        NONE,
        ("timeout", "error", "error"),
    ),
    "swallows-interrupts-and-os-exit-in-answers": Expected(
        notebook(IMPORTS, DOUBLE, inside(SWALLOW), inside("import os; os._exit(0)", "toy.running_total")),
        (5.0, 0.0, 0.0),
        ("ok", "timeout", "killed"),
    ),
    "os-exit-crash-and-swallowed-interrupts": Expected(
        honest(
            "import os\nos._exit(0)", "import ctypes\nctypes.string_at(0)",
            f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{SWALLOW}",
        ),
        FULL,
    ),
    "kills-every-process-then-dies-after-three-cases": Expected(
        notebook(IMPORTS, KILL_ALL, DOUBLE, DIES, TOTAL), (5.0, 6.0, 5.0), ("ok", "killed", "ok")
    ),
}  # fmt: skip
