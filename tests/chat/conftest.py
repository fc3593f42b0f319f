"""The model of tests/streaming, served on a free port; replies are short and their sound is quick to make."""

import json

import pytest
from websockets.sync.client import connect

from omni_lab.chat.notebook import Served
from omni_lab.chat.server import Limits
from omni_lab.sampling import Sampling
from tests.streaming.conftest import QUICK, model  # noqa: F401 - a fixture

HOW = {"max_new_tokens": 6, "max_codes": 26, "sampling": Sampling(1.0, 50), **QUICK}  # words, not newlines


@pytest.fixture(scope="module")
def served(model):  # noqa: F811
    with Served(model, limits=Limits(upload_bytes=200_000, clients=10), **HOW) as served:
        yield served


def talk(served, path="talk", **how):
    """A client that has been greeted."""
    socket = connect(served.address.replace("http", "ws") + path, max_size=None, **how)
    return socket, json.loads(socket.recv(30))


def answer(socket, **request):
    """Ask and read to the end: text, samples' bytes, the last message."""
    socket.send(json.dumps({"type": "ask", **request}))
    return read(socket)


def read(socket):
    text, sound = "", b""
    while True:
        message = socket.recv(60)
        if isinstance(message, bytes):
            sound += message
            continue
        event = json.loads(message)
        if event["type"] == "text":
            text += event["text"]
        elif event["type"] in ("end", "error"):
            return text, sound, event
