"""A voice into a notebook: what the page sends is heard, damage is told, nothing stays behind."""

import base64
import datetime
import io

import numpy as np
import pytest
import soundfile

from omni_lab.errors import InputError
from omni_lab.lab import recorder


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, and that somebody is at the controls."""
    found = []
    monkeypatch.delenv("OMNI_LAB_HEADLESS", raising=False)
    monkeypatch.setattr("IPython.display.display", found.append)
    return found


def tone():
    """0.5 s of a tone as the bytes of a WAV file at 24 kHz."""
    data = io.BytesIO()
    soundfile.write(data, 0.5 * np.sin(np.arange(12_000) / 10), 24_000, format="WAV")
    return data.getvalue()


def test_what_the_page_sends_is_heard_and_not_kept(shown):
    heard = []
    recorder.ask_for_voice(heard.append)
    page, box = shown
    file, letters, _ = box.children
    name = next(c for c in letters._dom_classes if c.startswith("omni-lab-recorder-"))
    assert f'id="{name}"' in page.data and f".{name} textarea" in page.data and "{" not in name
    letters.value = base64.b64encode(tone()).decode()
    assert [wave.shape for wave in heard] == [(8000,)] and 0.3 < np.abs(heard[0]).max() < 0.7
    assert letters.value == "", "the notebook would keep the voice among its widgets"
    about = {"name": "me.wav", "type": "audio/wav", "size": 1, "last_modified": datetime.datetime.now()}
    file.value = (about | {"content": memoryview(tone())},)
    assert len(heard) == 2


def test_each_recorder_of_a_page_has_a_name_of_its_own(shown):
    for _ in range(2):
        recorder.ask_for_voice(print)
    names = {box.children[1]._dom_classes[-1] for box in shown[1::2]}
    assert len(names) == 2


@pytest.mark.parametrize("sent", ["no base64!", base64.b64encode(b"no sound").decode()])
def test_what_is_no_sound_is_told_in_one_line(shown, sent, capsys):
    recorder.ask_for_voice(lambda wave: pytest.fail("nothing was heard"))
    _, letters, _ = shown[1].children
    letters.value = sent
    said = capsys.readouterr().out.strip()
    assert said and "\n" not in said


def test_damaged_letters_are_refused():
    with pytest.raises(InputError, match="record it again"):
        recorder.from_base64("%%%")


def test_nothing_is_asked_where_nobody_is(shown, monkeypatch):
    monkeypatch.setenv("OMNI_LAB_HEADLESS", "1")
    recorder.ask_for_voice(print)
    assert shown == []
