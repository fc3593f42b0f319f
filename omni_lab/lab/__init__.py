"""What a notebook uses: `from omni_lab import lab`, then `lab.exercise`, `lab.show`, `lab.explore`, `lab.play`, ...

Names load on first use: the set-up cell must be able to import `omni_lab.lab.bootstrap` where torch is missing.
"""

import importlib
from typing import Any

PLACES = {
    "exercise": "exercises",
    "summary": "exercises",
    "start": "scales",
    "need_memory": "scales",
    "key_figure": "scales",
    "show": "plots",
    "figure": "plots",
    "play": "player",
    "explore": "explorers",
    "Slider": "explorers",
    "Choice": "explorers",
    "Text": "explorers",
}
__all__ = list(PLACES)


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in PLACES:
        raise AttributeError(f"module 'omni_lab.lab' has no attribute {name!r}")

    value = getattr(importlib.import_module(f"{__name__}.{PLACES[name]}"), name)
    globals()[name] = value
    return value
