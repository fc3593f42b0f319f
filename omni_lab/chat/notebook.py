"""Talk in a notebook: `Chat(model)` as widgets, `page(model)` as the web page, with its microphone, inside a cell."""

import base64
import html
import io
import socket
import threading
from typing import Any
from urllib.parse import quote

import numpy as np
import soundfile
from IPython.display import HTML, IFrame, Javascript, display

from ..errors import OmniLabError
from ..processing.thoughts import told_apart
from ..streaming import AudioChunk, Session, TextDelta
from .address import LOOPBACK
from .uploads import emptied

# Chunks are put one behind the other on the page's own clock; a player per chunk would leave gaps.
PLAY = """(() => {{
  const player = window.omniPlayer ??= {{ context: new AudioContext({{ sampleRate: 24000 }}), until: 0 }};
  const bytes = Uint8Array.from(atob("{data}"), (c) => c.charCodeAt(0));
  const samples = Float32Array.from(new Int16Array(bytes.buffer), (s) => s / 32768);
  const buffer = player.context.createBuffer(1, samples.length, 24000);
  buffer.copyToChannel(samples, 0);
  const source = player.context.createBufferSource();
  source.buffer = buffer;
  source.connect(player.context.destination);
  player.until = Math.max(player.until, player.context.currentTime + 0.02);
  source.start(player.until);
  player.until += buffer.duration;
}})();"""


class Chat:
    """One conversation as widgets: type, add files, choose a speaker, stop; it is displayed when it is made."""

    def __init__(self, model: Any, **how: Any) -> None:
        """how: of the Session."""
        import ipywidgets

        self.model, self.session = model, Session(model, **how)
        self.lines: list[tuple[str, str]] = []  # (who, words)
        self.thread: threading.Thread | None = None
        self.words = ipywidgets.Text(placeholder="Ask something", layout={"width": "60%"})
        self.files = ipywidgets.FileUpload(accept="image/*,audio/*,video/*", multiple=True, description="Add")
        self.speaker = ipywidgets.Dropdown(options=list(model.speakers), description="Speaker")
        self.send = ipywidgets.Button(description="Send")
        self.halt = ipywidgets.Button(description="Stop")
        self.text = ipywidgets.HTML()
        self.sound = ipywidgets.Output()
        self.last = ipywidgets.Output()
        self.send.on_click(lambda _: self.ask())
        self.words.on_submit(lambda _: self.ask())
        self.halt.on_click(lambda _: self.session.interrupt())
        row = ipywidgets.HBox([self.words, self.send, self.halt])
        more = ipywidgets.HBox([self.files, self.speaker])
        self.box = ipywidgets.VBox([self.text, self.last, row, more, self.sound])
        display(self.box)

    def ask(self) -> threading.Thread | None:
        """Send what stands in the widgets; the reply comes on a thread, so that Stop can be pressed."""
        words, files = self.words.value.strip(), emptied(self.files)
        self.words.value = ""
        self.session.interrupt()
        if self.thread is not None:
            self.thread.join()
        try:
            for file in files:
                self.push(file)
            if words:
                self.session.push(text=words)
            voice = self.model.voice(self.speaker.value) if self.speaker.value else None
            reply = self.session.reply(voice=voice)
        except OmniLabError as error:
            self.write("error", str(error))
            return None
        self.write("you", " ".join([f"[{file['name']}]" for file in files] + [words]))
        self.write("model", "")
        self.thread = threading.Thread(target=self.listen, args=(reply,), daemon=True)
        self.thread.start()
        return self.thread

    def push(self, file: Any) -> None:
        """One uploaded file. Raises InputError or MediaError."""
        kind, data = file["type"].split("/")[0], file["content"]
        given: Any = self.model.processor.hear(data) if kind == "audio" else data
        self.session.push(**{kind: given})

    def listen(self, reply: Any) -> None:
        """Show and play a reply as it comes."""
        heard = []
        try:
            for event in reply:
                if isinstance(event, TextDelta):
                    who, words = self.lines.pop()
                    self.write(who, words + event.text)
                elif isinstance(event, AudioChunk):
                    heard.append(event.samples.numpy())
                    self.play(heard[-1])
        except OmniLabError as error:
            self.write("error", str(error))
        if heard:
            wave = io.BytesIO()
            soundfile.write(wave, np.concatenate(heard), 24000, format="WAV")
            data = base64.b64encode(wave.getvalue()).decode()
            self.last.outputs = ()
            label = "The last reply, to be heard again"
            player = f'<audio controls aria-label="{label}" src="data:audio/wav;base64,{data}"></audio>'
            self.last.append_display_data(HTML(player))

    def play(self, samples: np.ndarray) -> None:
        """Let the page play samples behind those before."""
        data = base64.b64encode((samples.clip(-1, 1) * 32767).astype("<i2").tobytes()).decode()
        self.sound.outputs = ()
        self.sound.append_display_data(Javascript(PLAY.format(data=data)))

    def write(self, who: str, words: str) -> None:
        """Add a line and show all of them."""
        self.lines.append((who, words))
        self.text.value = "".join(f"<p><b>{who}</b> {shown(said)}</p>" for who, said in self.lines)


def shown(said: str) -> str:
    """A line as HTML, its thoughts in faint italics."""
    parts = [(thought, html.escape(words)) for thought, words in told_apart(said)]
    return " ".join(f'<i style="opacity:.65">{words}</i>' if thought else words for thought, words in parts)


def page(model: Any, height: int = 520, **how: Any) -> "Served":
    """Show the web page, with microphone, in this cell; `close()` on what comes back ends the service."""
    served = Served(model, **how)
    display(IFrame(served.page, "100%", height, extras=['allow="microphone; autoplay"']))
    return served


NOTEBOOKS = "http://localhost:* http://127.0.0.1:* https://localhost:* https://127.0.0.1:*"  # that may frame the page


class Served:
    """A Service on a free port of the loopback, on a thread of its own, until `close`; notebooks here may frame it."""

    def __init__(self, model: Any, token: str | None = None, limits: Any = None, **how: Any) -> None:
        import uvicorn

        from .server import Service  # what only those need who serve

        self.service = Service(model, token, limits, NOTEBOOKS, **how)
        self.socket = socket.socket()
        self.socket.bind((LOOPBACK[0], 0))
        self.socket.listen(128)  # from here on a visitor waits instead of being refused
        self.port = self.socket.getsockname()[1]
        self.address = f"http://{LOOPBACK[0]}:{self.port}/"
        self.page = self.address + (f"?token={quote(token, safe='')}" if token else "")
        size = self.service.limits.upload_bytes + 1024
        config = uvicorn.Config(self.service.app(), log_level="warning", ws_max_size=size, lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """End the service and its threads."""
        self.server.should_exit = True
        self.thread.join(30)
        self.service.pool.shutdown()
        self.socket.close()

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
