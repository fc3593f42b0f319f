"""A limit on the running time of somebody else's function.

In the main thread of Linux and macOS (where a notebook's cells run) a timer signal interrupts the function, even one
that swallows every exception. (One that nests such handlers goes on: the grader's sandbox ends it.) On Windows, or in
another thread, the function runs in a thread of its own into which the exception is injected; a call that never
returns to Python (a sleep, a long library call) is then abandoned, not ended.
"""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class TimeLimit(BaseException):
    """The function ran longer than it may. No `Exception`, so that `except Exception` in it does not swallow this."""


def run_limited(function: Callable[[], Any], seconds: float) -> Any:
    """`function()`; raises TimeLimit when it runs longer than `seconds`."""
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        return run_with_signal(function, seconds)
    return run_in_thread(function, seconds)


def run_with_signal(function: Callable[[], Any], seconds: float) -> Any:
    """`function()`, stopped after `seconds` by the clock's signal. Raises TimeLimit."""
    armed = True

    def strike(frame: FrameType, event: str, argument: Any) -> Any:
        if armed and event == "line":  # an error in a tracer ends tracing, so not at the swallowed exception itself
            raise TimeLimit
        return strike

    def expired(signum: int, frame: FrameType | None) -> None:
        if not armed:
            return
        # Raised within a `try`, the exception may be swallowed: then the next line, outside that `try`, raises again.
        while frame is not None and frame.f_code is not run_with_signal.__code__:
            frame.f_trace = strike
            frame = frame.f_back
        sys.settrace(strike)
        raise TimeLimit

    before, tracer = signal.signal(signal.SIGALRM, expired), sys.gettrace()
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
        return function()
    finally:
        armed = False  # a signal from here on does nothing
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.settrace(tracer)


def run_in_thread(function: Callable[[], Any], seconds: float) -> Any:
    """`function()` where there is no such signal: waited for `seconds`. Raises TimeLimit."""
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
