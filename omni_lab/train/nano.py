"""The processor that nano's recipes read their samples with."""

from functools import lru_cache
from pathlib import Path

from ..data.folders import samples_folder
from ..processing.processor import OmniProcessor


@lru_cache(maxsize=2)
def processor(folder: Path | None = None) -> OmniProcessor:
    """The nano processor, from `folder` or the shipped checkpoint."""
    return OmniProcessor.from_pretrained(folder or samples_folder() / "checkpoints" / "nano")
