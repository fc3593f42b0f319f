"""The terminal and the notebook's widgets: the same conversation through other doors."""

import io
import json
from datetime import datetime

import numpy as np
import soundfile
from PIL import Image

from omni_lab import cli
from omni_lab.chat import uploads
from omni_lab.chat.notebook import Chat, shown
from omni_lab.chat.terminal import Terminal

from .conftest import HOW


def test_a_conversation_in_the_terminal(model, tmp_path):
    Image.fromarray(np.zeros((56, 56, 3), dtype=np.uint8)).save(tmp_path / "dot.png")
    soundfile.write(tmp_path / "tone.wav", np.sin(np.arange(8000) / 5), 16000)
    out = io.StringIO()
    lines = [
        "/help", "/time", "/fly", f"What is @{tmp_path}/dot.png this?", f"@{tmp_path}/tone.wav", "/time",
        "/speaker Zoe", "/speaker Ben", "/quiet", "Hello.", "@nothing.txt", "/new", "", "/quit", "never read",
    ]  # fmt: skip
    Terminal(model, out, tmp_path / "replies", **HOW).run(lines)
    said = out.getvalue()
    for words in ("/speaker NAME", "no reply yet", "no command /fly", "no speaker named 'Zoe'", "expected a picture"):
        assert words in said
    assert "1 input processing" in said and "never read" not in said
    files = sorted((tmp_path / "replies").glob("*.wav"))
    assert [path.name for path in files] == ["reply_001.wav", "reply_002.wav"], "the quiet reply has no sound"
    assert soundfile.info(files[0]).samplerate == 24000


def test_sound_of_earlier_conversations_stays(model, tmp_path):
    for _ in range(2):
        Terminal(model, io.StringIO(), tmp_path / "replies", **HOW).run(["Hello."])
    assert sorted(path.name for path in (tmp_path / "replies").iterdir()) == ["reply_001.wav", "reply_002.wav"]
    out, blocked = io.StringIO(), tmp_path / "replies" / "reply_001.wav"  # a file where the folder should be
    Terminal(model, out, blocked, **HOW).run(["Hello.", "/time"])
    assert "reply_001.wav: the reply's sound cannot be kept" in out.getvalue()
    assert "1 input processing" in out.getvalue(), "the conversation goes on"


def test_a_conversation_in_a_notebook(model):
    chat = Chat(model, **HOW)
    chat.words.value = "Hello <b>you</b>."
    chat.ask().join()
    assert [who for who, _ in chat.lines] == ["you", "model"]
    assert "&lt;b&gt;" in chat.text.value
    assert chat.session.messages[-1]["content"] == chat.lines[-1][1]
    played = json.dumps(chat.sound.outputs)
    assert "AudioContext" in played and "audio/wav" in json.dumps(chat.last.outputs)
    assert chat.ask() is None and chat.lines[-1][0] == "error"


def test_files_are_taken_from_both_versions_of_the_widget():
    import ipywidgets
    from traitlets import Dict

    class Seven(ipywidgets.Widget):  # as version 7 has it
        value = Dict({}, read_only=True)

    chosen = {"name": "a.png", "type": "image/png", "content": b"pixels"}
    old, new = Seven(), ipywidgets.FileUpload()
    old.set_trait("value", {"a.png": {"metadata": {"name": "a.png", "type": "image/png"}, "content": b"pixels"}})
    new.value = ({**chosen, "size": 6, "last_modified": datetime.now(), "content": memoryview(b"pixels")},)
    for upload in (old, new):
        [file] = uploads.emptied(upload)
        assert {name: file[name] for name in chosen} == chosen
        assert not upload.value and uploads.emptied(upload) == []


def test_thoughts_are_shown_faintly(model):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    reply = "<think> dog <red></think>red"
    assert Terminal(model, Screen(), **HOW).dimmed(reply) == "\033[2m dog <red>\033[0m red"
    assert Terminal(model, io.StringIO(), **HOW).dimmed(reply) == reply, "a file gets what the model wrote"
    assert shown(reply) == '<i style="opacity:.65"> dog &lt;red&gt;</i> red'


def test_the_command_says_in_one_line_what_is_wrong(tmp_path, capsys):
    for arguments, words in (
        (["--model", str(tmp_path)], "config.json"),
        (["--web", "--host", "0.0.0.0"], "set a token"),
        (["--loud"], "No such option"),
    ):
        assert cli.main(["chat", *arguments]) == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


def test_the_shipped_model_lies_in_the_chosen_data_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMNI_LAB_DATA", str(tmp_path))
    assert cli.main(["chat"]) == 1
    said = capsys.readouterr()
    assert f"loading {tmp_path / 'checkpoints' / 'nano'}" in said.out and said.err.count("\n") == 1
