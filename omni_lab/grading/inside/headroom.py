"""What a cell leaves behind for those after it. One that takes nearly all of something is at fault itself, at once:
otherwise an honest answer fails later on, by luck, for want of a few kilobytes or of one thread.

Used inside, by the runner (which shares the kernel's user and process namespace, and so its limits), and by the watch
outside. Linux only, as the sandbox is.
"""

import os
import threading

KEPT = 8  # a cell must leave one part in eight of each limit
FEW = 4  # a sandbox with less than one part in four of its threads has used up nobody's
STACK = 256 << 10  # bytes of stack of a thread that is started on trial


def lacking(kernel: int, limits: dict, results: str) -> str | None:
    """What process `kernel` and its like have nearly used up; None while everybody has room. results: the file of
    answers. limits: fields of `Limits`."""
    everybody = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    threads = sum(_status(pid, (b"Threads",)) for pid in everybody)
    # A container may allow fewer than our own limit: so it is tried. Whoever holds few is not to blame for others.
    if threads > limits["processes"] // FEW and not can_start(max(1, limits["processes"] // KEPT)):
        return "threads"
    # Stacks that were never touched count here, and not below: RLIMIT_DATA limits addresses, not pages.
    if _status(kernel, (b"VmData",)) * 1024 > most(limits["memory"]):
        return "memory"
    if memory_of(everybody, most(limits["memory"])) > most(limits["memory"]):
        return "memory"
    mappings, files = holdings(kernel)
    with open("/proc/sys/vm/max_map_count") as file:
        if mappings > most(int(file.read())):
            return "memory mappings"
    if files > most(limits["files"]):
        return "open files"
    if os.stat(results).st_size > most(limits["file_size"]):
        return "room for answers"
    return None


def holdings(pid: int) -> tuple[int, int]:
    """(memory mappings, open files) of a process; (0, 0) if it has ended."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as maps:
            return sum(1 for _ in maps), len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0, 0


def most(limit: int) -> int:
    """How much of a limit may be in use when a cell has ended."""
    return limit - limit // KEPT


def can_start(count: int) -> bool:
    """Whether so many more threads can run at once; afterwards none of them does."""
    before, release, started = threading.stack_size(STACK), threading.Event(), []
    try:
        for _ in range(count):
            thread = threading.Thread(target=release.wait, daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):  # "can't start new thread"
        return False
    finally:
        release.set()
        for thread in started:
            thread.join()
        threading.stack_size(before)
    return True


def memory_of(processes: list[int], enough: int) -> int:
    """Bytes of all the processes together; exact only where it matters, above `enough`: after a fork both sides show
    the same pages, and counting each once is slow."""
    total = sum(resident_memory(pid) for pid in processes)
    return total if total <= enough else sum(proportional_memory(pid) for pid in processes)


def resident_memory(pid: int) -> int:
    """Bytes that the process alone makes resident: anonymous and shared memory, not mapped files (which are shared)."""
    return _status(pid, (b"RssAnon", b"RssShmem")) * 1024


def proportional_memory(pid: int) -> int:
    """Like `resident_memory`, but a page that n processes share counts for one n-th. Slower to read."""
    try:
        return _sum_of(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon", b"Pss_Shmem")) * 1024
    except (OSError, ValueError, IndexError):
        return resident_memory(pid)


def _status(pid: int, fields: tuple[bytes, ...]) -> int:
    """The sum of some fields of a process's status (kilobytes, where it is memory); 0 if it has ended."""
    try:
        return _sum_of(f"/proc/{pid}/status", fields)
    except (OSError, ValueError, IndexError):
        return 0


def _sum_of(path: str, fields: tuple[bytes, ...]) -> int:
    """The numbers of these lines of a file of /proc, added up."""
    with open(path, "rb") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(fields))
