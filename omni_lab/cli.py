"""`omni-lab`: one door to every room. A room is imported only when it is asked for, so that the door opens at once.

A user's mistake gives one line on the error stream and exit code 1; Ctrl-C gives 130; a bug of ours, its traceback.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import typer

from . import __version__
from .errors import ConfigError, OmniLabError

# name: (module, attribute, what it does). The attribute is a typer app (a group of commands) or a function (one).
ROOMS = {
    "doctor": ("omni_lab.doctor", "doctor", "say what this machine can run, and what is missing"),
    "parts": ("omni_lab.doctor", "parts", "table of the model's parts and their parameters"),
    "data": ("omni_lab.data.commands", "app", "make or check data_samples/"),
    "train": ("omni_lab.train.commands", "train", "train by a recipe: omni-lab train RECIPE --scale S [--resume]"),
    "eval": ("omni_lab.evaluate.commands", "evaluate", "run the mini suite on a checkpoint"),
    "results": ("omni_lab.evaluate.commands", "results", "set results of eval side by side: a page and a radar plot"),
    "chat": ("omni_lab.chat.commands", "chat", "talk to a model here, or on a web page (--web)"),
    "notebooks": ("omni_lab.lab.commands", "app", "build, check and run the notebooks of the labs"),
    "release": ("omni_lab.grading.commands", "release", "make what students get of a graded lab"),
    "grade": ("omni_lab.grading.commands", "grade", "grade a folder of submissions"),
    "regrade": ("omni_lab.grading.commands", "regrade", "grade some submissions of a gradebook again"),
    "report": ("omni_lab.grading.commands", "report", "summarise a gradebook"),
    "bench": ("omni_lab.bench", "bench", "run the benchmarks"),
    "export": ("omni_lab.export", "export", "write a checkpoint for other programs"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return 0
    if given[0] == "--version":
        print(f"omni-lab {__version__}")
        return 0
    try:
        return run(given[0], given[1:])
    except OmniLabError as error:
        print(f"omni-lab {given[0]}: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        print(f"omni-lab {given[0]}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own, for a wrong option or argument
            raise
        print(f"omni-lab {given[0]}: {error.format_message()} (see omni-lab {given[0]} --help)", file=sys.stderr)
        return 1


def overview() -> str:
    """What `omni-lab` alone prints."""
    lines = [f"omni-lab {__version__}: usage: omni-lab COMMAND [ARGUMENTS], omni-lab COMMAND --help", ""]
    return "\n".join(lines + [f"  {name:<10} {words}" for name, (_, _, words) in ROOMS.items()])


def run(name: str, arguments: list[str]) -> int:
    """Import the room of `name` and run its command. Raises ConfigError for a name that is no command."""
    if name not in ROOMS:
        near = difflib.get_close_matches(name, ROOMS, 1)
        advice = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(ROOMS)}"
        raise ConfigError(f"unknown command: {advice}")
    module, attribute, _ = ROOMS[name]
    result = command(getattr(importlib.import_module(module), attribute)).main(
        args=arguments, prog_name=f"omni-lab {name}", standalone_mode=False
    )
    if result == 130:  # how typer reports Ctrl-C
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def command(room: Any) -> Any:
    """A room's typer app, or its one function, as a command that can be run."""
    if not isinstance(room, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command()(room)
        return typer.main.get_command(app)
    room._add_completion = False
    return typer.main.get_command(room)


if __name__ == "__main__":
    sys.exit(main())
