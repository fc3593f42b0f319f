"""A voice into a notebook: recorded in the browser, or chosen as a file; both end in one call of a function.

The page records with the browser's MediaRecorder and writes what it has, as base64, into a hidden text widget whose
value travels to the kernel. So it needs no server of ours and works wherever widgets do: JupyterLab, Notebook, Colab.
A browser gives its microphone only to https and to this machine itself; elsewhere the page says so and a file remains.
"""

import base64
import binascii
import html
import itertools
from collections.abc import Callable

import numpy as np

from ..chat.uploads import files_of
from ..errors import InputError, OmniLabError
from ..processing.audio import load_audio
from .explorers import headless

RATE = 16_000  # Hz
SECONDS = 20  # a recording ends by itself
_numbers = itertools.count(1)  # several recorders may stand on one page

PAGE = """<button type="button" id="{name}" class="jupyter-button" aria-pressed="false">Record</button>
<span id="{name}-said" role="status"></span>
<script>(() => {{
  const button = document.getElementById("{name}"), said = document.getElementById("{name}-said");
  let recorder = null;
  function show(pressed, words) {{
    button.setAttribute("aria-pressed", pressed);
    button.textContent = pressed ? "Stop" : "Record";
    said.textContent = words;
  }}
  async function send(parts) {{
    const bytes = new Uint8Array(await new Blob(parts).arrayBuffer());
    let letters = "";
    for (let i = 0; i < bytes.length; i += 32768) letters += String.fromCharCode(...bytes.subarray(i, i + 32768));
    const box = document.querySelector(".{name} textarea");
    box.value = btoa(letters);
    for (const kind of ["input", "change"]) box.dispatchEvent(new Event(kind, {{ bubbles: true }}));
    show(false, "sent");
  }}
  button.onclick = async () => {{
    if (recorder) return recorder.stop();
    try {{
      const stream = await navigator.mediaDevices.getUserMedia({{ audio: true }}), parts = [];
      recorder = new MediaRecorder(stream);
      const mine = recorder;
      recorder.ondataavailable = (event) => parts.push(event.data);
      recorder.onstop = () => {{
        stream.getTracks().forEach((track) => track.stop());
        recorder = null;
        send(parts);
      }};
      recorder.start();
      show(true, "recording, at most {seconds} s");
      setTimeout(() => mine.state === "recording" && mine.stop(), {seconds} * 1000);
    }} catch (error) {{
      show(false, "No microphone here (" + error.message + "): choose a file.");
    }}
  }};
}})();</script>"""


def ask_for_voice(then: Callable[[np.ndarray], None], rate: int = RATE) -> None:
    """A button that records and one that takes a file; `then` gets the samples (samples,) at `rate` Hz.

    What `then` prints and shows stands beneath. Nothing is displayed where nobody can press (OMNI_LAB_HEADLESS). A
    sound that cannot be read is told in one line. The recording is forgotten by the page once it was heard."""
    if headless():
        return
    import ipywidgets
    from IPython.display import HTML, display

    name = f"omni-lab-recorder-{next(_numbers)}"
    letters = ipywidgets.Textarea(layout={"display": "none"})
    letters.add_class(name)
    file = ipywidgets.FileUpload(accept="audio/*,video/*", description="Choose a file")
    out = ipywidgets.Output()

    def hear(data: bytes | str) -> None:
        out.clear_output()
        with out:
            try:
                then(load_audio(from_base64(data) if isinstance(data, str) else data, rate))
            except OmniLabError as error:
                print(error)

    def recorded(change: dict) -> None:
        if change["new"]:
            letters.value = ""  # else the notebook would keep the voice among its widgets
            hear(change["new"])

    def chosen(change: dict) -> None:
        for one in files_of(change["new"]):
            hear(one["content"])

    letters.observe(recorded, names="value")
    file.observe(chosen, names="value")
    display(HTML(PAGE.format(name=html.escape(name), seconds=SECONDS)))
    display(ipywidgets.VBox([file, letters, out]))


def from_base64(letters: str) -> bytes:
    """What the page sent. Raises InputError for what is no base64."""
    try:
        return base64.b64decode(letters, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"the recording came damaged ({error}): record it again") from error
