"""Where words and voices are lost: a part that loses everything shows, and what is committed is what was written."""

import numpy as np
import pytest
import torch

from benchmarks import lost_words as benchmark
from omni_lab.data.folders import samples_folder
from omni_lab.omni import OmniModel

WAYS = (
    "the source voice", "its mel, Griffin-Lim", "its mel, vocoder", "its codes, DiT and vocoder",
    "its text: the whole model",
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return OmniModel.from_pretrained(samples_folder() / "checkpoints" / "nano", "cpu", torch.float32)


@torch.no_grad()
def test_a_vocoder_that_is_silent_loses_all_words_and_no_other_row_changes(model, monkeypatch):
    before = benchmark.words_lost(model, benchmark.lines(2))
    vocoder = model.token2wav.code2wav_bigvgan_model
    monkeypatch.setattr(vocoder, "forward", lambda mel: torch.zeros(len(mel), mel.shape[1] * 240))
    after = benchmark.words_lost(model, benchmark.lines(2))
    assert tuple(before) == tuple(after) == WAYS
    assert before["the source voice"] < 0.3 and after["its mel, vocoder"] == 1.0
    for way in WAYS[:2]:
        assert before[way] == after[way]


@torch.no_grad()
def test_voices_as_they_are_are_told_apart_best(model):
    found = benchmark.voices_lost(model, benchmark.lines(1), 3)
    assert len(found) == 3
    assert found["the speaker"] == max(found.values()) > 0.5


def test_sentences_are_those_of_training_and_the_same_each_time():
    assert benchmark.lines(5) == benchmark.lines(5)
    assert len(set(benchmark.lines(5))) == 5


def test_what_is_committed_has_every_row():
    text = benchmark.OUT.read_text()
    for way in WAYS:
        row = next(line for line in text.splitlines() if line.startswith(f"| {way} "))
        figures = [float(cell.strip().removesuffix(" %")) for cell in row.split("|")[2:-1]]
        assert figures and np.isfinite(figures).all()
