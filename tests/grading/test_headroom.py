"""What a cell must leave to others, tried in small processes of their own with the kernel's own limits on them."""

import subprocess
import sys
from pathlib import Path

import pytest

from omni_lab.grading.inside import headroom

INSIDE = Path(headroom.__file__).parent
LIMITS = {"processes": 64, "memory": 1 << 42, "files": 256, "file_size": 1 << 20}
# A user of its own where that can be had, so that nobody else's processes count.
CONFINED = """import mmap, os, resource, sys, tempfile, threading, time
sys.path.insert(0, sys.argv[1])
import headroom
limits, kept = eval(sys.argv[2]), []
if os.geteuid() == 0: os.setuid(1_899_000_000 + os.getpid())
mine = 0
for name in filter(str.isdigit, os.listdir("/proc")):
    try: mine += len(os.listdir(f"/proc/{name}/task")) if os.stat(f"/proc/{name}").st_uid == os.getuid() else 0
    except OSError: pass
resource.setrlimit(resource.RLIMIT_NPROC, (mine + limits["processes"],) * 2)
resource.setrlimit(resource.RLIMIT_NOFILE, (limits["files"],) * 2)
resource.setrlimit(resource.RLIMIT_DATA, (limits["memory"],) * 2)
with tempfile.NamedTemporaryFile() as results:
    exec(sys.argv[3])
    print(headroom.lacking(os.getpid(), limits, results.name))
"""
LEFT_BEHIND = {
    "pass": "None",
    "kept += [threading.Thread(target=time.sleep, args=(9,), daemon=True) for _ in range(40)]\n"
    "for thread in kept: thread.start()": "None",  # many, and yet there is room
    "threading.stack_size(1 << 16)\ntry:\n    while True: threading.Thread(target=time.sleep, args=(9,), "
    "daemon=True).start()\nexcept RuntimeError: pass": "threads",
    "limits['memory'] = 1 << 30\nresource.setrlimit(resource.RLIMIT_DATA, (1 << 30,) * 2)\n"
    "threading.stack_size(32 << 20)\ntry:\n    while True: threading.Thread(target=time.sleep, args=(9,), "
    "daemon=True).start()\nexcept RuntimeError: pass": "memory",  # untouched stacks: addresses alone
    "try:\n    while True: kept.append(open('/dev/null'))\nexcept OSError: kept.pop().close(); kept.pop().close()": (
        "open files"
    ),
    "try:\n    while True: kept.append(mmap.mmap(-1, 4096))\nexcept OSError: del kept[-900:]": "memory mappings",
    "os.truncate(results.name, limits['file_size'])": "room for answers",
}


@pytest.mark.parametrize("code", LEFT_BEHIND, ids=LEFT_BEHIND.values())
def test_what_is_nearly_used_up_is_named(code: str) -> None:
    command = [sys.executable, "-c", CONFINED, str(INSIDE), repr(LIMITS), code]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.stdout.strip() == LEFT_BEHIND[code], ran.stderr


def test_what_has_ended_holds_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert headroom.holdings(ended.pid) == (0, 0)
    assert headroom.memory_of([ended.pid], 0) == 0
