"""Loaders and scorers on a few items in the published layouts, made here."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from omni_lab.data import readers
from omni_lab.errors import DataError
from omni_lab.evaluate import published

RATE = 16_000


@pytest.fixture
def bench(tmp_path):
    """OmniBench's layout with three questions, the last of which names a picture that is not there."""
    for kind in ("image", "audio"):
        (tmp_path / "mm_data" / kind).mkdir(parents=True)
    Image.new("RGB", (32, 24), "red").save(tmp_path / "mm_data/image/a.png")
    soundfile.write(tmp_path / "mm_data/audio/a.wav", np.sin(np.arange(RATE) / 9).astype(np.float32), RATE)
    common = {"audio_path": "a.wav", "audio type": "speech", "audio content": "", "image content": ""}
    options = ["a dog", "a red bus", "two birds", "a bell"]
    lines = [
        {"index": 0, "task type": "Object", "question": "What is it?", "options": options, "answer": "a red bus"},
        {"index": 1, "task type": "Action", "question": "Who sings?", "options": options, "answer": "two birds"},
        {"index": 2, "task type": "Action", "question": "Gone?", "options": options, "answer": "a dog"},
    ]
    pictures = ["a.png", "a.png", "missing.png"]
    path = tmp_path / "batch.jsonl"
    path.write_text("\n".join(json.dumps(r | common | {"image_path": p}) for r, p in zip(lines, pictures, strict=True)))
    return path, tmp_path / "mm_data"


def test_omnibench_items_hold_picture_sound_and_options(bench):
    report = readers.Report()
    samples = list(published.omnibench(*bench, report))
    assert len(report.bad) == 1 and report.bad[0].startswith("line 3") and "missing.png" in report.bad[0]
    assert [s.answer for s in samples] == ["B", "C"]
    picture, sound, text = samples[0].messages[0]["content"]
    assert picture["image"].size == (32, 24) and sound["audio"].shape == (RATE,)
    assert text["text"].splitlines()[:3] == ["What is it?", "A. a dog", "B. a red bus"]
    outcome = published.score_choices(samples, ["B. a red bus", "I hear a dog."])
    assert outcome.value == 0.5 and outcome.parts == {"Action": 0.0, "Object": 1.0} and outcome.chance == 0.25


def test_broken_sets_are_one_line(bench, tmp_path):
    path, folder = bench
    path.write_text(path.read_text().replace("a red bus", "a bus", 1))
    with pytest.raises(DataError, match="the answer 'a red bus' is none of 4 options"):
        list(published.omnibench(path, folder))
    with pytest.raises(DataError, match="cannot be read"):
        list(published.omnibench(tmp_path / "nowhere", folder))
    path.write_bytes('{"index": "café"}'.encode("latin-1"))
    with pytest.raises(DataError, match="line 1 is not UTF-8"):
        list(published.omnibench(path, folder))


@pytest.mark.parametrize("broken", ["no json", "[]", '{"index": 0}'])
def test_a_broken_line_is_a_bad_record(bench, broken):
    path, folder = bench
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0]] * 120 + [broken] + [lines[1]]))
    report = readers.Report()
    assert len(list(published.omnibench(path, folder, report))) == 121
    assert len(report.bad) == 1 and report.bad[0].startswith("line 121")


def test_only_newlines_end_a_record(tmp_path):
    """JSON may hold a line separator as it is; `str.splitlines` cut there."""
    path = tmp_path / "lines.txt"
    path.write_bytes('{"text": "one\u2028two\x85three"}\r\n\r\n{"text": "four"}\r\n'.encode())
    assert [(n, json.loads(line)["text"]) for n, line in published.written(path)] == [
        (1, "one\u2028two\x85three"),
        (3, "four"),
    ]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("(C) two birds", "C"),
        ("D.", "D"),
        ("The answer is A", "A"),
        ("the correct option is: b", "B"),
        ("The answer is a red bus.", "B"),
        ("answer: a", "A"),
        ("The answer is c), two birds", "C"),
        ("It is a red bus!", "B"),
        ("<think>A or B?</think> C", "C"),
        ("A dog barks at two birds.", ""),
        ("A dog, I think", "A"),
        ("nothing", ""),
    ],
)
def test_a_reply_means_one_option_or_none(reply, letter):
    assert published.chosen_letter(reply, ["a dog", "a red bus", "two birds", "a bell"]) == letter


def test_librispeech_is_scored_over_all_words(tmp_path):
    chapter = tmp_path / "1089" / "134686"
    chapter.mkdir(parents=True)
    (chapter / "1089-134686.trans.txt").write_text("1089-134686-0000 HE HOPED\n1089-134686-0001 A B C D E F\n")
    for name in ("0000", "0001"):
        soundfile.write(chapter / f"1089-134686-{name}.flac", np.full(RATE // 4, 0.1, np.float32), RATE)
    samples = list(readers.librispeech(tmp_path))
    heard = ["he hoped so", samples[1].answer]
    assert published.score_librispeech(samples, heard).value == pytest.approx(1 / 8)


def test_seed_tts_is_a_mean_over_utterances(tmp_path):
    (tmp_path / "prompt-wavs").mkdir()
    wave = np.full(RATE // 4, 0.1, np.float32)
    lines = []
    for i, text in enumerate(("red bus", "big dogs sing well")):
        soundfile.write(tmp_path / f"prompt-wavs/p{i}.wav", wave * (i + 1), RATE)
        soundfile.write(tmp_path / f"u{i}.wav", wave * (i + 1), RATE)
        lines.append(f"u{i}|said before|prompt-wavs/p{i}.wav|{text}")
    meta = tmp_path / "meta.lst"
    meta.write_text("\n".join([lines[0], "", lines[1] + "|wavs/u1.wav", " ", ""]))
    utterances = published.seed_tts(meta)
    assert utterances[1].text == "big dogs sing well" and utterances[0].prompt.is_file()
    heard = iter(["red", "big dogs sing well"])
    found = published.score_seed_tts(
        utterances, tmp_path, lambda wave, rate: next(heard), lambda wave, rate: np.array([1.0, float(wave.mean())])
    )
    assert found["WER"] == pytest.approx(0.25) and found["SIM"] == pytest.approx(1.0) and found["n"] == 2
    chinese = published.Utterance("u0", "", tmp_path / "prompt-wavs/p0.wav", "今天天气很好。")
    rate = published.score_seed_tts([chinese], tmp_path, lambda w, r: "今天天汽很好", lambda w, r: np.ones(2))["WER"]
    assert rate == pytest.approx(1 / 6), "one character of six"
    (tmp_path / "u1.wav").unlink()
    with pytest.raises(DataError, match="u1.wav: missing"):
        published.score_seed_tts(utterances, tmp_path, lambda w, r: "", lambda w, r: np.ones(2))
    meta.write_text("u0|only two")
    with pytest.raises(DataError, match="line 1 has 2 fields"):
        published.seed_tts(meta)
