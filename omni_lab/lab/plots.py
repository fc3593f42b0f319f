"""The one way to draw a figure: `fig, ax = lab.figure(...)`, draw on it, then `lab.show(fig, alt="...")`.

Colours are Okabe and Ito's (2008), which the colour-blind tell apart; alt text is required and travels in the output.
"""

import base64
import html
import io
from typing import Any

import matplotlib
from cycler import cycler
from IPython.display import HTML, display
from PIL import Image

from ..errors import InputError

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")
COLOURS = 64  # of a picture in a notebook: executed notebooks are kept in the repository
STYLE: Any = {
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": "medium",
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "image.cmap": "cividis",  # even in lightness, and the same to all eyes
    "figure.dpi": 100,
    "figure.figsize": (6.0, 3.4),
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
}
# For the whole process, since much is looked up only while one draws: the colour map of `imshow`, a colour named "C1".
matplotlib.rcParams.update(STYLE)


def figure(rows: int = 1, columns: int = 1, *, width: float = 6.0, height: float = 3.4, **options: Any) -> tuple:
    """(figure, axes) in the course's style, width and height in inches; `options` go to `Figure.subplots`.

    The figure belongs to no window: only `show` displays it, once."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height))
    return made, made.subplots(rows, columns, **options)


def show(made: Any, alt: str) -> None:
    """Display a figure with its alt text: what the picture shows, for who cannot see it. Raises InputError if empty."""
    display(HTML(picture(made, alt)))


def picture(made: Any, alt: str) -> str:
    """The figure as one HTML image with alt text, its data inside. Raises InputError for missing alt text."""
    if len(alt.split()) < 3:
        raise InputError("a figure needs alt text of at least three words: say what it shows")
    buffer = io.BytesIO()
    # Software that writes its version into each file would change the bytes from machine to machine.
    made.savefig(buffer, format="png", metadata={"Software": None})
    data = base64.b64encode(with_few_colours(buffer.getvalue())).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


def with_few_colours(png: bytes) -> bytes:
    """A PNG with a palette of 64 colours chosen for it: a third of the bytes, and a plot looks the same."""
    few = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return min(png, buffer.getvalue(), key=len)
