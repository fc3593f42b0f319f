"""Execute notebooks: through papermill, at a scale, with a progress bar, measured; and the table at the end."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
import psutil
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from .. import runtime
from ..errors import OmniLabError
from . import measured
from .build import MAX_BYTES, clean, course_of, lab_sources, notebook, notebook_path, number_of, write_notebook
from .lint import check_outputs
from .scales import KEY_FIGURE
from .stored import replace_file

CELL_SECONDS = {"smoke": 240, "cpu": 3600, "t4": 7200, "gpu": 7200}  # a cell that takes longer hangs


@dataclass(frozen=True)
class Result:
    """What running one lab gave."""

    name: str
    seconds: float
    peak: int  # bytes: the largest sum over the kernel and its children
    cpu_seconds: float  # of the kernel and all that it started, all cores together
    figure: str  # the key figure, in words
    fault: str = ""


@contextmanager
def environment(scale: str) -> Iterator[None]:
    """Kernels started within run at `scale`, with nobody at the controls."""
    settings = {"OMNI_LAB_SCALE": scale, "OMNI_LAB_HEADLESS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Meter(threading.Thread):
    """Samples what this process's children take, five times a second: memory and processor time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.cpu_seconds, self.ended = 0, 0.0, threading.Event()

    def run(self) -> None:
        """Look at the processes that this one started, five times a second, until `ended`."""
        while not self.ended.wait(0.2):
            memory, spent = 0, 0.0
            for child in psutil.Process().children(recursive=True):
                try:
                    memory += child.memory_info().rss
                    spent += sum(
                        child.cpu_times()[:4]
                    )  # user and system, its own and those of children that have ended
                except psutil.Error:  # ended between listing and asking
                    continue
            self.peak, self.cpu_seconds = max(self.peak, memory), max(self.cpu_seconds, spent)


def execute(source: Path, target: Path, scale: str, parameters: dict | None = None, solved: bool = True) -> Result:
    """Run one lab (its form as the source gives it now) to `target`; a failing cell becomes the result's fault."""
    target.parent.mkdir(parents=True, exist_ok=True)
    plain = target.with_name(f".{target.stem}.input.ipynb")
    write_notebook(plain, notebook(source, solved))
    meter, began, fault = Meter(), time.monotonic(), ""
    meter.start()
    try:
        with environment(scale):
            papermill.execute_notebook(
                str(plain), str(target), parameters=parameters, kernel_name="python3", progress_bar=True,
                cwd=str(source.parent), execution_timeout=CELL_SECONDS[scale], log_output=False,
                extra_arguments=["--IPKernelApp.log_level=40"],
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        fault = f"cell {error.exec_count} raised {error.ename}: {error.evalue}"
    except (DeadKernelError, CellTimeoutError) as error:  # killed for its memory, or hanging
        fault = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    finally:
        meter.ended.set()
        plain.unlink(missing_ok=True)
    seconds = time.monotonic() - began
    return Result(source.stem, seconds, meter.peak, meter.cpu_seconds, key_figure_of(target), fault)


def key_figure_of(path: Path) -> str:
    """The last key figure that an executed notebook shows, in words; "" where it was never written."""
    found = ""
    if not path.is_file():
        return found
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if KEY_FIGURE in output.get("data", {}):
                found = output.data["text/plain"]
    return found


def build_executed(source: Path) -> Result:
    """Execute the solved form at smoke scale and keep it beside its source. Raises OmniLabError if it cannot stay."""
    target = notebook_path(source, solved=True)
    scratch = target.with_name(f".{target.stem}.executed.ipynb")
    try:
        result = execute(source, scratch, "smoke")
        if result.fault:
            raise OmniLabError(f"{source}: {result.fault}")
        executed = clean(nbformat.read(scratch, as_version=4))
        size = write_notebook(scratch, executed)
        if size > MAX_BYTES:
            raise OmniLabError(f"{source}: {size / 1e6:.2f} MB executed, the limit is {MAX_BYTES / 1e6:g} MB")
        faults = check_outputs(source, executed)
        if faults:
            raise OmniLabError(faults[0])
        os.replace(scratch, target)
        return result
    finally:
        scratch.unlink(missing_ok=True)


def write_html(path: Path) -> Path:
    """Write the notebook as a web page beside it."""
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_filename(str(path))
    target = path.with_suffix(".html")
    replace_file(target, page.encode())
    return target


def run_labs(
    root: Path, names: list[str], scale: str, seed: int | None, out: Path, record: bool = False
) -> list[Result]:
    """Run solved labs through papermill with SCALE (and SEED) injected; executed copies and HTML under `out`.

    record: keep what each took (`measured.py`), for the lab's header."""
    results = []
    for source in lab_sources(root, names):
        print(f"{source.stem} at scale {scale}", flush=True)
        target = out / f"{source.stem}.ipynb"
        parameters = {"SCALE": scale} | ({} if seed is None else {"SEED": seed})
        result = execute(source, target, scale, parameters)
        results.append(result)
        if target.is_file():
            write_html(target)
        if record and not result.fault:
            keep(source, scale, result)
    return results


def keep(source: Path, scale: str, result: Result) -> None:
    """Put what a run took, and what came of it, on its course's record, for the lab's header."""
    here = runtime.hardware("cpu" if scale in ("smoke", "cpu") else None)
    record = measured.file_of(course_of(source))
    measured.record(number_of(source), scale, here.name, result.cpu_seconds, result.peak, result.figure, record)


def table(results: list[Result]) -> str:
    """Lab, time, peak memory, key figure."""
    width = max([len(r.name) for r in results] + [3])
    lines = [f"{'lab':<{width}}  {'time':>7}  {'memory':>8}  key figure"]
    for r in results:
        lines.append(f"{r.name:<{width}}  {r.seconds:5.0f} s  {r.peak / 1e9:5.2f} GB  {r.fault or r.figure or '-'}")
    lines.append(
        f"{len(results)} labs, {sum(r.seconds for r in results):.0f} s, {sum(bool(r.fault) for r in results)} failed"
    )
    return "\n".join(lines)
