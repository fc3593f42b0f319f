"""Speech whose phonemes are known to the hundredth of a second: when they are heard, and what hearing learns of it."""

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_lab.data import recordings, speech, word_cuts
from omni_lab.data.splits import generator
from omni_lab.errors import DataError
from omni_lab.thinker import Thinker
from omni_lab.train import parts, phoneme_bank, speech_bank, transcripts
from omni_lab.train.recipes import find
from omni_lab.train.recipes.hearing import PHONEMES

LINE = "Please press the red camera, Anna. Then go."


@pytest.fixture(autouse=True)
def own_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A speech bank of its own."""
    torch.set_num_threads(1)
    monkeypatch.setattr(speech_bank, "build_folder", lambda: tmp_path)
    phoneme_bank.shard.cache_clear()
    yield tmp_path
    phoneme_bank.shard.cache_clear()


def spelled(track: np.ndarray) -> str:
    """The phonemes of a track, one a stretch."""
    return "".join(speech.PHONEMES[i - 1] for i, _ in groupby(track) if i)


def as_said(text: str) -> str:
    """The phonemes of a text, without stress and punctuation; two alike beside each other are one stretch."""
    signs = "".join(sign for part in speech.phonemes(text) for sign in part if sign in speech.PHONEMES)
    return "".join(sign for sign, _ in groupby(signs))


@pytest.mark.parametrize("name", ["heart", "hugo"])
def test_a_timed_wave_is_the_wave_and_its_phonemes_are_the_texts_in_order(name):
    speaker = speech.SPEAKERS[name]
    wave, track = speech.timed(LINE, speaker, 3, 0.8)
    assert np.array_equal(wave, speech.utter(LINE, speaker, 3, 0.8))
    assert len(track) == -(-len(wave) // 240) and track.dtype == np.uint8
    assert spelled(track) == as_said(LINE)


def test_a_voice_that_tells_no_times_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(speech, "_ENDS", "/nothing of the kind")
    speech.timing_session.cache_clear()
    with pytest.raises(DataError, match="does not tell when its phonemes end"):
        speech.timed("One.", speech.SPEAKERS["heart"])
    speech.timing_session.cache_clear()


def test_phonemes_are_known_by_name():
    said = {sign for text in recordings.vocabulary() if any(map(str.isalnum, text)) for sign in as_said(text)}
    assert said <= set(speech.PHONEMES) and len(set(speech.PHONEMES)) == len(speech.PHONEMES)


def test_phonemes_lie_where_they_sound():
    """An s hisses: more of its power lies above 4 kHz than of others; an eighth of a second beside it, not."""

    def hiss(shift: int) -> float:
        wave, track = speech.timed("Six sisters saw seven soft sand castles.", speech.SPEAKERS["heart"], 0, 0.7)
        frames = np.lib.stride_tricks.sliding_window_view(wave, 480)[::240]
        power = np.abs(np.fft.rfft(frames * np.hanning(480))) ** 2
        high = power[:, 80:].sum(1) / power.sum(1)
        found = np.roll(track[: len(high)], shift)
        loud = power.sum(1) > 1e-3 * power.sum(1).max()
        is_s = found == speech.PHONEMES.index("s") + 1
        return high[is_s & loud].mean() - high[(found > 0) & ~is_s & loud].mean()

    assert hiss(0) > 0.5 and max(hiss(12), hiss(-12)) < 0.2


def test_silence_before_and_beginnings_cut_move_the_phonemes_along():
    wave, track = speech.timed(LINE, speech.SPEAKERS["heart"], 0)
    wave = speech.heard(wave)
    shifts = set()
    for place in range(12):
        rng = generator("place", "train", 0, place)
        there, moved = phoneme_bank.in_a_place(wave, track, rng)
        assert spelled(moved) == spelled(track) and len(moved) == -(-len(there) // 160)
        shift = int(np.flatnonzero(moved)[0]) - int(np.flatnonzero(track)[0])
        lag = np.correlate(np.abs(there), np.abs(wave), "full").argmax() - len(wave) + 1
        assert abs(lag - 160 * shift) < 1600, (lag, shift)  # echoes move a maximum
        shifts.add(shift)
    assert min(shifts) < 0 < max(shifts)


def test_a_shard_is_a_function_of_its_number(own_speech: Path):
    clips, again = phoneme_bank.shard(2, 3), phoneme_bank.make(2, 3)
    assert len(clips) == 3 and (own_speech / "speech" / "phonemes-train-3-00002.npz").exists()
    for one, other in zip(clips, again, strict=True):
        assert one.text == other.text and spelled(one.phonemes) == as_said(one.text)
        assert np.array_equal(one.wave, other.wave) and np.array_equal(one.phonemes, other.phonemes)
        assert -1 <= len(one.phonemes) - len(one.wave) / 160 < 1
    (own_speech / "speech" / "phonemes-train-3-00004.npz").write_bytes(b"PK not a shard")
    with pytest.raises(DataError, match=r"phonemes-train-3-00004\.npz: damaged"):
        phoneme_bank.shard(4, 3)


def test_the_recorded_persons_phonemes_are_their_prompts():
    """In order, and few are lost where two words meet."""
    from torchaudio.functional import edit_distance

    edits = length = 0
    for prompt in recordings.prompts("train")[:24]:
        track, cuts = word_cuts.aligned(prompt)
        assert len(track) == -(-len(prompt.wave) // 160)
        wanted = "".join(as_said(word) for word, *_ in cuts)
        edits, length = edits + edit_distance(spelled(track), wanted), length + len(wanted)
        assert all(len(piece) == -(-len(wave) // 160) for _, wave, piece in cuts)
    assert edits / length < 0.15
    rng = generator("cuts", "train", 0, 3)
    for _ in range(8):
        _, wave, track = word_cuts.in_another_order(rng)
        assert len(track) * 160 == len(wave)


def test_every_half_token_is_asked_for_the_phoneme_in_its_middle(tmp_path: Path):
    find_hearing = find("hearing")
    hearing = find_hearing(replace(find_hearing.scales["smoke"], recorded=0.0, timed=1.0, batch_size=2), seed=1)
    track = np.repeat(np.arange(1, 26, dtype=np.uint8), 4)  # another phoneme every 40 ms
    wave = np.zeros(16_000, np.float32)
    batch = hearing.pack([(wave, "one", track), (wave, "two", None)])
    assert batch["phonemes"][:25].tolist() == [[i, i] for i in range(1, 26)]
    assert (batch["phonemes"][25:] == transcripts.NOTHING).all() and len(batch["phonemes"]) == 50


def test_the_loss_of_phonemes_is_of_those_that_are_known(tmp_path: Path):
    find_hearing = find("hearing")
    settings = replace(
        find_hearing.scales["smoke"], recorded=0.5, timed=0.5, batch_size=4, music=0.0, prompts=0.0, questions=0.0,
        start=str(tmp_path),
    )  # fmt: skip
    hearing = find_hearing(settings, seed=1)
    from omni_lab.config import preset

    parts.save_part(tmp_path, "hearing", Thinker(preset("nano").thinker_config))
    model, batch = hearing.build(), hearing.batch(0)
    assert (batch["phonemes"] >= 0).all() and batch["phonemes"].max() < PHONEMES
    torch.nn.init.zeros_(model["phonemes"].weight)
    torch.nn.init.zeros_(model["phonemes"].bias)
    loss, figures = hearing.loss(model, batch, "main")
    assert figures["phonemes"].item() == pytest.approx(np.log(PHONEMES), rel=1e-5)
    every_other = batch["phonemes"].clone()
    every_other[::2] = -100
    half = hearing.loss(model, batch | {"phonemes": every_other}, "main")
    assert half[1]["phonemes"].item() == pytest.approx(np.log(PHONEMES), rel=1e-5)
    loss.backward()
    assert model["phonemes"].weight.grad.abs().max() > 0
    none = batch | {"phonemes": torch.full_like(batch["phonemes"], -100)}
    assert hearing.loss(model, none, "main")[1]["phonemes"].item() == 0
