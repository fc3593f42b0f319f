"""Lab 06: an announcer whose faults are known, a mouth that says in batches, preferences that are learned."""

from pathlib import Path

import numpy as np
import pytest
import torch

from omni_lab.config import preset
from omni_lab.data import speech
from omni_lab.evaluate import metrics
from omni_lab.lab import announcer, judges, mouth
from omni_lab.lab.authoring import load_lab
from omni_lab.thinker import Thinker
from omni_lab.train.preferences import Triple, dpo_loss

LAB = load_lab(Path(__file__).parents[2] / "solutions" / "exercises" / "06_talker_post_training.py")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def voice():
    return announcer.announcer()


@pytest.fixture(scope="module")
def speaking(voice):
    """A thinker and a small talker with random weights."""
    torch.manual_seed(0)
    thinker = Thinker(preset("nano").thinker_config).eval()
    return mouth.small(thinker, announcer.small_talker(1).eval(), voice)


def test_what_the_announcer_says_is_what_the_text_says(voice):
    for text in announcer.texts(12):
        timed = voice.heard(voice.codes(text))
        assert metrics.word_error_rate([text], [" ".join(word for word, _, _ in timed)]) == 0
        assert metrics.pause_errors(text, timed) == (0, 5)
        assert voice.wave(voice.codes(text)).shape == (1920 * len(voice.codes(text)),)


def test_sloppy_labels_hold_twins_and_wrong_pauses_and_no_other_faults(voice):
    rng, errors, pauses, words = np.random.default_rng(0), 0, 0, 0
    for text in announcer.texts(60):
        timed = voice.heard(voice.codes(text, rng, 0.35))
        said, meant = [word for word, _, _ in timed], text.replace(",", "").rstrip(".").split()
        assert all(s in (m, announcer.twin(m)) for s, m in zip(said, meant, strict=True))
        errors += sum(s != m for s, m in zip(said, meant, strict=True))
        words += sum(announcer.twin(m) != m for m in meant)
        pauses += metrics.pause_errors(" ".join(said).replace(said[0], said[0] + ",", 1) + ".", timed)[0]
    assert 0.25 < errors / words < 0.45 and 0.15 < pauses / 300 < 0.35
    assert all(announcer.twin(announcer.twin(word)) == word for word in announcer.PIECES)


def test_test_announcements_are_never_said_in_training():
    rng = np.random.default_rng(1)
    held_out = {announcer.announcement(rng, "test") for _ in range(400)}
    assert len(held_out) >= 100 and not held_out & set(announcer.texts(600))


def test_the_energy_pauses_of_an_announcement_are_at_its_comma(voice):
    energy_pauses, text = LAB.answers["speech.energy_pauses"].solution, announcer.texts(1)[0]
    codes = voice.codes(text)
    begin = announcer.SECONDS * int((codes == voice.silence).nonzero()[0])
    found = energy_pauses(voice.wave(codes), 24_000, 35.0, 0.2)
    assert any(a <= begin + 0.1 and b >= begin + 0.14 for a, b in found)


@torch.no_grad()
def test_a_mouth_says_every_line_as_often_as_asked(speaking):
    lines = announcer.texts(3)
    made = speaking.say(lines, tries=2, seed=1, rows=4)
    assert len(made) == 3 and all(len(rows) == 2 for rows in made)
    assert all(bool((row < speaking.codes).all()) for rows in made for row in rows)
    again = speaking.say(lines, tries=2, seed=1, rows=4)
    assert all(torch.equal(a, b) for x, y in zip(made, again, strict=True) for a, b in zip(x, y, strict=True))
    heard, rows = speaking.hear(lines), [torch.arange(3), torch.arange(7), torch.arange(5)]
    together = speaking.log_probabilities(speaking.talker, heard, rows)
    for i in range(3):  # a row's probability does not depend on its neighbours
        alone = speaking.log_probabilities(speaking.talker, heard.rows(torch.tensor([i])), rows[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-3)


def test_preferences_are_learned_and_the_reference_stays(speaking, voice):
    lines, rng = announcer.texts(4), np.random.default_rng(2)
    pairs = [Triple(line, "", voice.codes(line), voice.codes(line, rng, 0.8)) for line in lines]
    before = [weight.clone() for weight in speaking.talker.parameters()]
    policy, story = mouth.post_train(speaking, pairs, lambda p: dpo_loss(*p.all, 0.1), 12, rate=5e-3)
    assert len(story) == 12 and story[0][1] == pytest.approx(0, abs=1e-5)
    assert story[-1][0] >= 0.75 and story[-1][1] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, speaking.talker.parameters(), strict=True))
    assert mouth.with_talker(speaking, policy).talker is policy and speaking.talker is not policy


def test_stand_ins_judge_what_they_can(voice, capsys):
    judge, ear = judges.voice_judge("smoke"), judges.listener("smoke", voice)
    assert "stands in" in (said := capsys.readouterr().out) and "no independent judgement" in said
    codes = voice.codes("Monday, Victor and Delta saved nine.")
    assert [word for word, _, _ in ear([voice.wave(codes)], [codes])[0]] == [
        "Monday", "Victor", "and", "Delta", "saved", "nine",
    ]  # fmt: skip
    clips = [clip for clip in speech.shipped() if clip.about["speaker"] in ("heart", "otto")]
    first = {name: [c for c in clips if c.about["speaker"] == name][:2] for name in ("heart", "otto")}
    prints = np.stack([judge(clip.wave, 24_000) for name in first for clip in first[name]])
    matrix = metrics.similarity_matrix(prints, prints)
    assert matrix[0, 1] > matrix[0, 2] and matrix[2, 3] > matrix[1, 2]
    assert not judge(np.zeros(24_000, np.float32), 24_000).any()
