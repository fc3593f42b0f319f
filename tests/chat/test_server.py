"""The web service: right answers to the right client, patience with bad ones, nothing left behind."""

import asyncio
import io
import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import nullcontext
from socket import SHUT_RDWR, create_connection

import numpy as np
import psutil
import pytest
from PIL import Image
from starlette.requests import Request
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from omni_lab.chat.address import check_address
from omni_lab.chat.notebook import Served
from omni_lab.chat.server import Limits, Service
from omni_lab.errors import InputError
from omni_lab.streaming import AudioChunk, Session, TextDelta

from .conftest import HOW, answer, read, talk


def expected(model, text):
    """What this question gets without a server."""
    session = Session(model, **HOW)
    session.push(text=text)
    events = list(session.reply())
    sound = b"".join(
        (e.samples.clamp(-1, 1) * 32767).short().numpy().tobytes() for e in events if isinstance(e, AudioChunk)
    )
    return "".join(e.text for e in events if isinstance(e, TextDelta)), sound


def picture():
    data = io.BytesIO()
    Image.fromarray(np.zeros((56, 56, 3), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


def test_page_and_health(served):
    page = urllib.request.urlopen(served.address).read().decode()
    assert "<title>Talk to the model</title>" in page
    alone = asyncio.run(Service(None).page(Request({"type": "http", "query_string": b""})))
    assert alone.headers["content-security-policy"] == "frame-ancestors 'none'", "only a notebook's own may be framed"
    assert "clients" in json.load(urllib.request.urlopen(served.address + "health"))


def test_eight_at_once_each_get_their_own_answer(served, model):
    questions = [f"Question number {i}: what is this?" for i in range(8)]
    answers = {}

    def client(question):
        socket, hello = talk(served)
        assert hello["speakers"] == ["Ada", "Ben"]
        answers[question] = answer(socket, text=question)
        socket.close()

    threads = [threading.Thread(target=client, args=(question,)) for question in questions]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for question in questions:
        text, sound, last = answers[question]
        assert (text, sound) == expected(model, question)
        assert last["type"] == "end" and "1 input processing" in last["milliseconds"]


def test_media_packets_and_a_second_turn(served):
    socket, _ = talk(served)
    socket.send(json.dumps({"type": "media", "kind": "image"}))
    socket.send(picture())
    assert json.loads(socket.recv(30)) == {"type": "heard", "kind": "image"}
    for _ in range(3):
        socket.send(json.dumps({"type": "media", "kind": "packet", "rate": 48000}))
        socket.send(np.zeros(9600, dtype="<i2").tobytes())
    assert answer(socket, text="What?", speaker="Ben")[2]["type"] == "end"
    assert answer(socket, text="And?")[2]["type"] == "end"
    socket.close()


def test_mistakes_are_told_to_their_client_and_service_goes_on(served):
    socket, _ = talk(served)
    for sent, words in (
        ("no json", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("7", "expected a table"),
        ('{"type": "fly"}', "expected a table"),
        ('{"type": "ask"}', "nothing to answer"),
        ('{"type": "ask", "text": 5}', "must be strings"),
        (json.dumps({"type": "ask", "text": "x" * 5000}), "5000 characters"),
        (json.dumps({"type": "ask", "text": "Hi", "speaker": "Zoe"}), "no speaker named"),
        ('{"type": "media", "kind": "smell"}', "one of image"),
        ('{"type": "media", "kind": "packet", "rate": "fast"}', "must be a number"),
        (b"\x00\xff" * 50, "unannounced"),
    ):
        socket.send(sent)
        event = json.loads(socket.recv(30))
        assert event["type"] == "error" and words in event["message"], (sent[:40], event)
        assert "\n" not in event["message"]
    for kind in ("image", "audio", "video", "frame", "packet"):
        for data in (b"", b"\x00garbage." * 9, bytes(range(256)) * 3 + b"x"):
            socket.send(json.dumps({"type": "media", "kind": kind}))
            socket.send(data)
            assert json.loads(socket.recv(30))["type"] == "error", kind
    assert answer(socket, text="Still there?")[2]["type"] == "end"
    socket.close()


def test_too_large_a_file_closes_the_client_alone(served):
    socket, _ = talk(served)
    socket.send(json.dumps({"type": "media", "kind": "image"}))
    with pytest.raises(ConnectionClosed):
        socket.send(bytes(400_000))
        socket.recv(30)
    other, _ = talk(served)
    assert answer(other, text="Hi.")[2]["type"] == "end"
    other.close()


def test_stop_and_barge_in(served):
    socket, _ = talk(served)
    socket.send(json.dumps({"type": "ask", "text": "A story."}))
    socket.send(json.dumps({"type": "stop"}))
    assert read(socket)[2]["type"] == "end"
    socket.send(json.dumps({"type": "ask", "text": "Another."}))
    socket.send(json.dumps({"type": "ask", "text": "No, this one."}))
    assert [read(socket)[2]["type"] for _ in range(2)] == ["end", "end"]
    socket.close()


def test_clients_who_vanish_mid_stream_leave_nothing(served):
    """Connections cut during a reply, some without a goodbye."""
    warm = 5
    for i in range(warm + 20):
        socket, _ = talk(served)
        socket.send(json.dumps({"type": "ask", "text": f"Tell me {i}."}))
        socket.recv(30)
        if i % 2:
            socket.close()
        else:
            socket.socket.shutdown(SHUT_RDWR)  # no goodbye
        if i == warm:
            threads, files = threading.active_count(), psutil.Process().num_fds()
    for _ in range(200):
        if not served.service.clients:
            break
        time.sleep(0.05)
    assert not served.service.clients
    time.sleep(0.3)
    assert threading.active_count() <= threads + 2 and psutil.Process().num_fds() <= files + 4


def test_token_origin_and_number_of_clients(model):
    with Served(model, token="secret", limits=Limits(clients=1), **HOW) as served:
        for path in ("talk", "talk?token=wrong"):
            with pytest.raises(Exception, match="403"):
                talk(served, path)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(served.address)
        with pytest.raises(Exception, match="403"):
            talk(served, "talk?token=secret", origin="http://evil.example")
        first, hello = talk(served, "talk?token=secret")
        assert hello["type"] == "hello"
        assert "too many" in talk(served, "talk?token=secret")[1]["message"]
        first.close()
    with Served(model, **HOW) as served:
        for name in ("localhost", "evil.example"):  # both point here
            where = f"{name}:{served.port}"
            line = create_connection(("127.0.0.1", served.port))
            with nullcontext() if name == "localhost" else pytest.raises(Exception, match="403"):
                connect(f"ws://{where}/talk", origin=f"http://{where}", sock=line).close()
    with pytest.raises(InputError, match="token"):
        check_address("0.0.0.0", None)
    check_address("0.0.0.0", "secret")
    check_address("127.0.0.1", None)
