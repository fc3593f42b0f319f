"""What a run tells: a progress bar, a CSV log that survives a kill, and TensorBoard when its package is there."""

import csv
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm


class RunLog:
    """Rows (step, seconds, name, value) in `log.csv`: long form, so that a new metric needs no new column."""

    FIELDS = ("step", "seconds", "name", "value")

    def __init__(self, folder: Path, start: int, steps: int, title: str, progress: bool, board: bool, first: bool):
        """Continue the log in `folder` after step `start`: rows of later steps, lost in a kill, are dropped.

        board: to TensorBoard too. Of several processes only the first writes.
        """
        path = folder / "log.csv" if first else Path(os.devnull)
        if first:
            drop_rows_after(path, start)
        self.file = path.open("a", newline="")
        self.writer = csv.writer(self.file)
        off = not (progress and first)
        self.bar = tqdm(
            total=steps, initial=start, desc=title, unit="step", dynamic_ncols=True, mininterval=0.5, disable=off
        )
        self.board = None
        if board and first:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)

    def write(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """Log `values` after `step` steps and `seconds` of training."""
        for name, value in values.items():
            self.writer.writerow((step, f"{seconds:.2f}", name, f"{value:.6g}"))
            if self.board is not None:
                self.board.add_scalar(name, value, step)
        self.file.flush()
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in values.items() if k in ("loss", "samples/s", "skipped")})

    def advance(self) -> None:
        """One step further on the progress bar."""
        self.bar.update(1)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if not self.bar.disable:
            self.bar.write(line)

    def close(self) -> None:
        """End the bar and the files."""
        self.bar.close()
        self.file.close()
        if self.board is not None:
            self.board.close()


def drop_rows_after(path: Path, step: int) -> None:
    """Rewrite the log with the rows up to `step` (a new log gets its header)."""
    part = path.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, RunLog.FIELDS)
        writer.writeheader()
        writer.writerows(row for row in read_log(path) if row["step"] <= step)
    os.replace(part, path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a `log.csv`; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["value"] is None or not (row["step"] or "").isdigit():
                continue
            rows.append({**row, "step": int(row["step"])})
    return rows
