"""Where data lies: what ships (`data_samples/`), and what is made on the way (`build/`)."""

import os
from pathlib import Path

from ..errors import DataError

_CHECKOUT = Path(__file__).resolve().parents[2]


def samples_folder() -> Path:
    """The shipped data: `OMNI_LAB_DATA`, else `data_samples/` of the checkout or of the working directory.

    Raises DataError when there is none."""
    chosen = os.environ.get("OMNI_LAB_DATA")
    candidates = [Path(chosen)] if chosen else [_CHECKOUT / "data_samples", Path("data_samples")]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise DataError(f"no data in {candidates[0]}: run from a checkout, or set OMNI_LAB_DATA to its data_samples folder")


def build_folder() -> Path:
    """Downloads and whatever else can be made again: `build/` of the checkout. Created when missing."""
    folder = _CHECKOUT / "build"
    folder.mkdir(exist_ok=True)
    return folder
