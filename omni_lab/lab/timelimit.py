"""A limit on the running time of somebody else's function.

In the main thread of Linux and macOS (where a notebook's cells run) a timer signal interrupts the function, and again
every 50 ms should it swallow the first. On Windows, or in another thread, the function runs in a thread of its own into
which the exception is injected; a call that never returns to Python (a sleep, a long library call) is then abandoned,
not ended.
"""

import ctypes
import signal
import threading
from collections.abc import Callable
from typing import Any


class TimeLimit(BaseException):
    """The function ran longer than it may. No `Exception`, so that `except Exception` in it does not swallow this."""


def run_limited(function: Callable[[], Any], seconds: float) -> Any:
    """`function()`; raises TimeLimit when it runs longer than `seconds`."""
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        return run_with_signal(function, seconds)
    return run_in_thread(function, seconds)


def run_with_signal(function: Callable[[], Any], seconds: float) -> Any:
    armed = True

    def expired(signum: int, frame: Any) -> None:
        if armed:
            raise TimeLimit

    before = signal.signal(signal.SIGALRM, expired)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
        return function()
    finally:
        armed = False  # a signal from here on does nothing
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_in_thread(function: Callable[[], Any], seconds: float) -> Any:
    result: dict[str, Any] = {}

    def work() -> None:
        try:
            result["value"] = function()
        except BaseException as error:  # handed to the caller's thread, which raises it
            result["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TimeLimit))
        thread.join(0.5)
        raise TimeLimit
    if "error" in result:
        raise result["error"]
    return result["value"]
