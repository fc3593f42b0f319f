"""`omni-lab chat`: talk to a checkpoint in the terminal, or on a local web page."""

import importlib.util
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.folders import samples_folder
from ..errors import ConfigError
from .address import LOOPBACK, check_address
from .terminal import HELP, Terminal


def chat(
    model: Annotated[str, typer.Option(help="Folder or hub id of a checkpoint (default: the shipped nano).")] = "",
    web: Annotated[bool, typer.Option(help="Serve a web page instead of talking here.")] = False,
    host: Annotated[str, typer.Option(help="Address to serve on; any but the loopback needs a token.")] = LOOPBACK[0],
    port: Annotated[int, typer.Option(help="Port to serve on.")] = 7860,
    token: Annotated[str, typer.Option(help="Token that visitors must bring ('new': make one).")] = "",
    speaker: Annotated[str, typer.Option(help="Who speaks (default: the checkpoint's first).")] = "",
    speak: Annotated[bool, typer.Option(help="Answer aloud.")] = True,
    keep: Annotated[Path, typer.Option(help="Folder for the replies' sound.")] = Path("replies"),
    device: Annotated[str, typer.Option(help="cpu, cuda, ... (default: the best there is).")] = "",
) -> None:
    """Talk to the model. Text, pictures, sounds and videos in; text and speech out, while they are made."""
    token = secrets.token_urlsafe(16) if token == "new" else token
    if web:
        check_address(host, token)
        if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("uvicorn") is None:
            raise ConfigError("the web page needs more: pip install 'omni_lab[chat]'")
    from ..omni import OmniModel

    model = model or str(samples_folder() / "checkpoints" / "nano")
    print(f"loading {model}", flush=True)
    loaded = OmniModel.from_pretrained(model, device=device or None)
    how: dict[str, Any] = {"speaker": speaker or None, "speak": speak}
    if web:
        print(f"open http://{host}:{port}/{'?token=' + token if token else ''} (Ctrl-C ends it)", flush=True)
        from .server import serve

        serve(loaded, host, port, token or None, **how)
        return
    print(f"{HELP}\n", flush=True)
    Terminal(loaded, folder=keep, **how).run(typed_lines())


def typed_lines() -> Iterator[str]:
    """Lines from the keyboard (or a pipe), with a prompt where someone sits."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line
