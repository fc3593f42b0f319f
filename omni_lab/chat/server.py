"""A small web page to talk to the model: one WebSocket and one Session a client.

From the client, as JSON text: {"type": "media", "kind": "image" | "audio" | "video" | "frame" | "packet", "rate"?,
"time"?}, followed by one binary message with the file (or, of a packet, 16-bit samples); {"type": "ask", "text"?,
"speaker"?}; {"type": "stop"}. To the client: {"type": "hello" | "text" | "heard" | "end" | "error", ...} and, as
binary messages, 16-bit samples at 24 kHz.

Every event is made on a thread of a fixed pool, one event at a time: a client who is slow, gone or malicious holds no
thread. What is wrong is said to that client, in one line; the service goes on.
"""

import asyncio
import hmac
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..errors import InputError, OmniLabError
from ..streaming import AudioChunk, Session, TextDelta
from .address import LOOPBACK, check_address

LOG = logging.getLogger(__name__)
MEDIA = ("image", "audio", "video", "frame", "packet")
TRY_AGAIN, FORBIDDEN = 1013, 1008  # WebSocket close codes


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the service."""

    upload_bytes: int = 20 * 2**20  # of one file
    text_characters: int = 4000  # of one message
    clients: int = 16  # at once
    idle_seconds: float = 900.0  # without a message
    workers: int = 2  # threads that compute


class Service:
    """The model and its clients."""

    def __init__(
        self,
        model: Any,
        token: str | None = None,
        limits: Limits | None = None,
        framed_by: str = "'none'",
        **how: Any,
    ) -> None:
        """token: what a client must bring as ?token=...; framed_by: which pages may show this one in a frame, as CSP's
        frame-ancestors says it; how: of every Session."""
        self.framed_by = framed_by
        self.model, self.token, self.limits, self.how = model, token, limits or Limits(), how
        self.pool = ThreadPoolExecutor(self.limits.workers, thread_name_prefix="chat")
        self.clients: set[Client] = set()

    def app(self) -> Starlette:
        """The web application: / (the page), /health, /talk (the WebSocket)."""
        routes = [
            Route("/", self.page), Route("/health", self.health), WebSocketRoute("/talk", self.talk)
        ]  # fmt: skip
        return Starlette(routes=routes)

    def allowed(self, token: str | None) -> bool:
        """Whether this token opens the door."""
        return self.token is None or hmac.compare_digest((token or "").encode(), self.token.encode())

    async def page(self, request: Request) -> Response:
        """The page itself, which holds nothing secret but is not for strangers."""
        if not self.allowed(request.query_params.get("token")):
            return JSONResponse({"error": "this service needs its token: open /?token=..."}, status_code=403)
        headers = {"Content-Security-Policy": f"frame-ancestors {self.framed_by}", "Cache-Control": "no-store"}
        page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(page, headers=headers)

    async def health(self, _: Request) -> Response:
        """How many clients there are."""
        return JSONResponse({"clients": len(self.clients)})

    async def talk(self, socket: WebSocket) -> None:
        """One client, from greeting to goodbye."""
        called_right = same_origin(socket) and (self.token is not None or at_home(socket))
        if not self.allowed(socket.query_params.get("token")) or not called_right:
            await socket.close(FORBIDDEN)
            return
        await socket.accept()
        if len(self.clients) >= self.limits.clients:
            await socket.send_json({"type": "error", "message": "too many are talking already: try again later"})
            await socket.close(TRY_AGAIN)
            return
        client = Client(self, socket)
        self.clients.add(client)
        try:
            await client.serve()
        finally:
            self.clients.discard(client)


class Client:
    """One conversation over one WebSocket."""

    def __init__(self, service: Service, socket: WebSocket) -> None:
        self.service, self.socket, self.limits = service, socket, service.limits
        self.session: Any = None  # a Session, once it is made
        self.announced: dict[str, Any] | None = None  # what the next binary message will be
        self.speaking: asyncio.Task | None = None

    async def work(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Run on the pool."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.service.pool, lambda: function(*arguments, **named))

    async def serve(self) -> None:
        """Until the client leaves."""
        try:
            self.session = await self.work(Session, self.service.model, **self.service.how)
            speakers = list(self.service.model.speakers)
            await self.socket.send_json({"type": "hello", "speakers": speakers, "sample_rate": 24000})
            while True:
                message = await asyncio.wait_for(self.socket.receive(), self.limits.idle_seconds)
                if message["type"] == "websocket.disconnect":
                    return
                try:
                    await self.take(message)
                except OmniLabError as error:
                    await self.complain(str(error))
        except (WebSocketDisconnect, ConnectionError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "websocket" not in str(error).lower():
                raise  # a bug of ours, not the client's leaving
        except TimeoutError:
            await self.socket.close(TRY_AGAIN)
        finally:
            await self.hush()
            if self.session is not None:
                await self.work(self.session.close)

    async def take(self, message: Any) -> None:
        """One message of the client. Raises OmniLabError for what it should not have sent."""
        if message.get("bytes") is not None:
            announced, self.announced = self.announced, None
            if announced is None:
                raise InputError("binary data came unannounced: send {'type': 'media', 'kind': ...} before it")
            await self.take_media(announced, message["bytes"])
            return
        request = read_request(message.get("text") or "", self.limits)
        if request["type"] == "media":
            self.announced = request
        elif request["type"] == "stop":
            await self.work(self.session.interrupt)
        else:
            await self.hush()
            if request.get("text"):
                await self.work(self.session.push, text=request["text"])
            how = {}
            if request.get("speaker"):
                how["voice"] = self.service.model.voice(request["speaker"])
            reply = await self.work(self.session.reply, **how)
            self.speaking = asyncio.create_task(self.speak(reply))

    async def take_media(self, announced: dict[str, Any], data: bytes) -> None:
        """A file, a frame, or a packet of samples."""
        if len(data) > self.limits.upload_bytes:
            raise InputError(f"{len(data)} bytes are too many: at most {self.limits.upload_bytes} a file")
        kind, rate, time = announced["kind"], announced.get("rate"), announced.get("time")
        if kind == "packet":
            if not data or len(data) % 2:
                raise InputError(f"a packet of {len(data)} bytes: expected 16-bit samples")
            given: dict[str, Any] = {"audio": np.frombuffer(data, dtype="<i2"), "rate": rate or 16000}
        elif kind == "audio":
            wave = await self.work(self.service.model.processor.hear, data)
            given = {"audio": wave}
        elif kind == "frame":
            given = {"frame": data, "time": time}
        else:
            given = {kind: data}
        await self.hush()
        await self.work(self.session.push, **given)
        if kind != "packet":
            await self.socket.send_json({"type": "heard", "kind": kind})

    async def speak(self, reply: Any) -> None:
        """Send a reply as it comes."""
        try:
            while (event := await self.work(next, reply, None)) is not None:
                if isinstance(event, TextDelta):
                    await self.socket.send_json({"type": "text", "text": event.text})
                elif isinstance(event, AudioChunk):
                    samples = (event.samples.clamp(-1, 1) * 32767).short().numpy()
                    await self.socket.send_bytes(samples.astype("<i2").tobytes())
            account = reply.account
            sources = {name: round(1000 * seconds, 1) for name, seconds in account.sources().items()}
            await self.socket.send_json({"type": "end", "milliseconds": sources, "table": account.table()})
        except OmniLabError as error:
            await self.complain(str(error))
        except (WebSocketDisconnect, ConnectionError, RuntimeError) as error:
            LOG.info("a client left during a reply (%s)", error)
        finally:
            await self.work(reply.close)

    async def hush(self) -> None:
        """Stop a running reply and wait until it has stopped."""
        if self.speaking is None:
            return
        speaking, self.speaking = self.speaking, None
        if self.session is not None:
            await self.work(self.session.interrupt)
        await asyncio.wait([speaking])

    async def complain(self, words: str) -> None:
        """Tell the client what was wrong."""
        await self.socket.send_json({"type": "error", "message": words})


def same_origin(socket: WebSocket) -> bool:
    """Whether the page that opened this came from here: other sites must not talk through a visitor's browser."""
    origin = socket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == socket.headers.get("host")


def at_home(socket: WebSocket) -> bool:
    """Whether the service was called by a name of the loopback: a stranger's page may let its own name point here (DNS
    rebinding), and then comes from "the same" origin."""
    return urlsplit(f"//{socket.headers.get('host')}").hostname in LOOPBACK


def read_request(text: str, limits: Limits) -> dict[str, Any]:
    """A client's JSON, checked. Raises InputError."""
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("that was no JSON") from None
    if not isinstance(request, dict) or request.get("type") not in ("ask", "media", "stop"):
        raise InputError("expected a table with a type: ask, media or stop")
    words, speaker = request.get("text"), request.get("speaker")
    if not isinstance(words, str | None) or not isinstance(speaker, str | None):
        raise InputError("text and speaker must be strings")
    if words is not None and len(words) > limits.text_characters:
        raise InputError(f"{len(words)} characters are too many: at most {limits.text_characters}")
    if request["type"] == "media":
        if request.get("kind") not in MEDIA:
            raise InputError(f"a medium must be one of {', '.join(MEDIA)}")
        for name in ("rate", "time"):
            value = request.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise InputError(f"{name} must be a number")
            if value is not None and not 0 <= value <= 1e6:
                raise InputError(f"{name} {value} makes no sense")
    return request


def serve(model: Any, host: str = LOOPBACK[0], port: int = 7860, token: str | None = None, **how: Any) -> None:
    """Serve until Ctrl-C. how: of every Session. Raises InputError for an open address without a token."""
    import uvicorn

    check_address(host, token)
    service = Service(model, token, **how)
    uvicorn.run(
        service.app(), host=host, port=port, log_level="warning", ws_max_size=service.limits.upload_bytes + 1024
    )
