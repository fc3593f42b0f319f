"""How a notebook starts, what it says about the machine, and what it reports at the end."""

from dataclasses import dataclass
from typing import Any

import torch
from IPython.display import display

from .. import runtime
from ..errors import ConfigError, OmniLabError
from . import measured

KEY_FIGURE = "application/vnd.omni-lab.key-figure+json"  # how a notebook hands its figure to `omni-lab notebooks run`


@dataclass(frozen=True)
class Start:
    """What a notebook runs with."""

    scale: str  # one of runtime.SCALES
    seed: int
    here: runtime.Hardware
    generator: torch.Generator  # on the CPU, seeded

    @property
    def device(self) -> torch.device:
        """Where the lab computes."""
        return self.here.device

    def pick(self, **by_scale: Any) -> Any:
        """The value for this scale: `pick(smoke=20, cpu=600, t4=5000)`. A scale that is not named takes the nearest
        smaller one that is. Raises ConfigError for an unknown scale's name."""
        for name in by_scale:
            runtime.check_scale(name)
        for name in reversed(runtime.SCALES[: runtime.SCALES.index(self.scale) + 1]):
            if name in by_scale:
                return by_scale[name]
        raise ConfigError(f"pick: no value for scale {self.scale!r} or a smaller one")


def start(scale: str | None = None, seed: int = 0, lab: str | None = None) -> Start:
    """Choose the scale, seed everything, set the threads, and print hardware, scale and what the lab takes.

    scale: one of runtime.SCALES; None: OMNI_LAB_SCALE, else what the hardware carries. lab: the lab's number, "05", to
    print what it was measured to take. Raises ConfigError for an unknown scale, or a GPU scale where there is no GPU.
    """
    chosen = runtime.check_scale(scale) if scale else runtime.default_scale()
    if chosen in ("t4", "gpu") and not torch.cuda.is_available():
        raise ConfigError(f"scale {chosen!r} needs an NVIDIA GPU and there is none here: choose 'cpu'")
    here = runtime.hardware("cpu" if chosen in ("smoke", "cpu") else None)
    # Toy tensors want one thread, training all cores: this is the one place where a notebook's threads are set.
    runtime.set_threads(1 if chosen == "smoke" else None)
    free = runtime.free_memory(here) / 1e9
    print(f"Running on {here.name}, {free:.1f} GB free, in {str(here.dtype).removeprefix('torch.')}.")
    print(f"Scale {chosen!r}, seed {seed}.")
    if lab:
        print(f"What this lab takes, measured at each scale:\n{measured.told(lab, runtime.SCALES)}")
    return Start(chosen, seed, here, runtime.seed_everything(seed))


def need_memory(gigabytes: float, here: runtime.Hardware | None = None) -> None:
    """Call before a heavy cell. Raises OmniLabError, with what to do, when less than this is free."""
    here = here or runtime.hardware()
    free = runtime.free_memory(here) / 1e9
    if free < gigabytes:
        raise OmniLabError(
            f"this cell needs {gigabytes:g} GB and {free:.1f} GB are free on {here.name}: close other notebooks, "
            "restart the kernel, or set SCALE to a smaller scale in the parameters cell"
        )


def key_figure(name: str, value: float, unit: str = "") -> None:
    """Show the one figure by which a run of this notebook is judged; `omni-lab notebooks run` tabulates it."""
    text = f"{name}: {value:.4g}{' ' + unit if unit else ''}"
    display({"text/plain": text, KEY_FIGURE: {"name": name, "value": float(value), "unit": unit}}, raw=True)
