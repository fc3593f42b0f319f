"""Something to touch: a function of a few controls, redrawn as they move; a still picture where nobody can move them.

    lab.explore(draw, alt="...", temperature=lab.Slider(0.01, 1.0, 0.07), which=lab.Choice("a", "b"))

`draw(temperature, which)` returns a figure (`lab.figure`), or prints. Where OMNI_LAB_HEADLESS is set (by
`omni-lab notebooks`, the tests and the grader) it is drawn once, with the starting values.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython.display import HTML, display

from .plots import picture


@dataclass(frozen=True)
class Slider:
    """A number between two limits; an integer if all three are."""

    low: float
    high: float
    value: float
    step: float | None = None


@dataclass(frozen=True, init=False)
class Choice:
    """One of several values; the first is the starting one."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        object.__setattr__(self, "options", options)

    @property
    def value(self) -> Any:
        """What is chosen at first."""
        return self.options[0]


@dataclass(frozen=True)
class Text:
    """A line that one types; redrawn on Enter."""

    value: str


Control = Slider | Choice | Text


def headless() -> bool:
    """Whether nobody can move a control: set by `omni-lab notebooks`, the tests and the grader."""
    return bool(os.environ.get("OMNI_LAB_HEADLESS"))


def explore(function: Callable[..., Any], alt: str, **controls: Control) -> None:
    """Draw `function(**values)` with a control for each argument, redrawn on every change.

    alt: alt text of the picture; `{name}` in it is replaced by the value of that control."""
    if headless():
        draw(function, alt, {name: control.value for name, control in controls.items()})
        return
    import ipywidgets

    made = {name: widget(ipywidgets, name, control) for name, control in controls.items()}
    out = ipywidgets.interactive_output(lambda **values: draw(function, alt, values), made)
    display(ipywidgets.VBox([*made.values(), out]))


def draw(function: Callable[..., Any], alt: str, values: dict[str, Any]) -> None:
    """Call and show: a figure with its alt text; anything else as it displays itself."""
    result = function(**values)
    if hasattr(result, "savefig"):
        display(HTML(picture(result, alt.format(**values))))
    elif result is not None:
        display(result)


def widget(ipywidgets: Any, name: str, control: Control) -> Any:
    """The ipywidgets control of one of ours; it reacts when let go, since a picture may take a moment."""
    label = name.replace("_", " ")
    common = {"description": label, "continuous_update": False, "style": {"description_width": "initial"}}
    if isinstance(control, Slider):
        whole = all(isinstance(v, int) for v in (control.low, control.high, control.value))
        step = control.step or (1 if whole else (control.high - control.low) / 100)
        kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        more = {} if whole else {"readout_format": ".3g"}
        return kind(value=control.value, min=control.low, max=control.high, step=step, **more, **common)
    if isinstance(control, Choice):
        del common["continuous_update"]
        return ipywidgets.Dropdown(options=list(control.options), value=control.value, **common)
    return ipywidgets.Text(value=control.value, layout={"width": "90%"}, **common)
