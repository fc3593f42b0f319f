"""One question to three kinds of models: ours, the same weights through transformers' auto classes, and a server."""

import base64
import io
import json
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from omni_lab.cli import main
from omni_lab.config import preset
from omni_lab.data.folders import samples_folder
from omni_lab.data.sample import Sample, audio, image, user, video
from omni_lab.errors import CheckpointError, DataError, InputError
from omni_lab.evaluate import asking, backends, suite
from omni_lab.omni import OmniModel

PICTURE = Image.fromarray(np.arange(56 * 56 * 3, dtype=np.uint8).reshape(56, 56, 3))
WAVE = np.sin(np.arange(16_000) / 7).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A nano thinker with random weights, and the shipped processor, as exported."""
    torch.manual_seed(3)
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("exported")
    OmniModel(replace(preset("nano"), enable_audio_output=False, speech_tokenizer_config=None)).save_pretrained(path)
    for file in (samples_folder() / "checkpoints" / "nano").glob("*.json"):
        if file.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copy(file, path)
    return path


def conversations():
    return [
        [user("What is this?")],
        [user("What do you see?", image(PICTURE))],
        [user("What do you hear?", audio(WAVE))],
    ]


def test_a_hub_model_answers_as_ours_does(folder):
    ours, theirs = backends.open_backend("ours", folder), backends.open_backend(f"transformers:{folder}")
    for messages in conversations():
        mine = asking.ask(ours, [Sample([*messages], "any", "x")], 6)
        other = asking.ask(theirs, [Sample([*messages], "any", "x")], 6)
        assert mine[0].strip() == other[0] and other[0]


class Protocol(BaseHTTPRequestHandler):
    asked: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Protocol.asked.append((self.path, self.headers.get("Authorization"), body))
        raw = json.dumps({"choices": [{"message": {"role": "assistant", "content": " a dog "}}]}).encode()
        self.send_response(200 if body["model"] == "m" else 404)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    Protocol.asked = []
    server = HTTPServer(("127.0.0.1", 0), Protocol)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_server_gets_pictures_and_sound_in_its_protocol(address):
    film = video(np.zeros((20, 8, 8, 3), np.uint8), 4.0, WAVE)
    backend = backends.open_backend(f"openai:{address}#m", key="secret")
    assert backend.replies([*conversations(), [user("And now?", film)]], 8) == ["a dog"] * 4
    path, key, body = Protocol.asked[1]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["temperature"] == 0
    assert body["max_tokens"] == 8
    picture, text = body["messages"][0]["content"]
    sent = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].split(",")[1])))
    assert np.array_equal(np.asarray(sent), np.asarray(PICTURE)) and text["text"] == "What do you see?"
    sound = Protocol.asked[2][2]["messages"][0]["content"][0]["input_audio"]
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(sound["data"])), dtype="float32")
    assert rate == 16_000 and np.abs(heard - WAVE).max() < 1e-4
    kinds = [part["type"] for part in Protocol.asked[3][2]["messages"][0]["content"]]
    assert kinds == ["image_url"] * backends.FRAMES + ["input_audio", "text"]


def test_the_suite_runs_on_a_server(address):
    found = suite.run(backends.open_backend(f"openai:{address}#m"), ["text_qa", "picture_qa", "speech_wer"], items=2)
    assert set(found) == {"text_qa", "picture_qa", "speech_wer"} and len(Protocol.asked) == 4
    assert found["speech_wer"]["value"] is None and not found["speech_wer"]["failed"]


def test_what_cannot_answer_says_so_in_a_line(address, tmp_path):
    with pytest.raises(InputError, match="behind a #"):
        backends.open_backend(f"openai:{address}")
    for name in ("hub:any", "ours", "transformers:", "openai:ftp://x#m", address):
        with pytest.raises(InputError, match="unknown backend"):
            backends.open_backend(name)
    with pytest.raises(DataError):
        backends.open_backend(f"openai:{address}#other").replies([[user("hello")]], 4)
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        backends.open_backend(f"transformers:{tmp_path}")


def test_the_command_puts_the_suite_to_a_server_and_pages_set_it_beside_others(address, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    file, page = tmp_path / "served.json", tmp_path / "results.md"
    asked = ["eval", "--backend", f"openai:{address}#m", "--tasks", "text_qa,ocr,science_choice", "--items", "2"]
    assert main([*asked, "--json", str(file)]) == 0
    assert {key for _, key, _ in Protocol.asked} == {"Bearer secret"} and len(Protocol.asked) == 6
    assert main([*asked, "--json", str(file), "--resume"]) == 0 and len(Protocol.asked) == 6
    assert "3 tasks stand in" in capsys.readouterr().out
    assert main(["results", str(file), str(file), "--out", str(page)]) == 0
    assert page.read_text().count(f"openai:{address}#m") == 4 and page.with_suffix(".png").stat().st_size > 1000
    assert "![Radar plot" in page.read_text()
