"""omni_lab: build, train and talk to an omni model of the Qwen2.5-Omni kind.

Importing this package is cheap: torch and the model are loaded when a name below is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["OmniModel", "OmniProcessor", "tmrope"]

LAZY = {"OmniModel": ("omni_lab.omni", "OmniModel"), "OmniProcessor": ("omni_lab.processing", "OmniProcessor")}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name == "tmrope":
        return importlib.import_module("omni_lab.tmrope")
    if name in LAZY:
        module, attribute = LAZY[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'omni_lab' has no attribute {name!r}")
