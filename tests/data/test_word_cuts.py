"""Words cut out of the recorded prompts: where they end, what is made of them, and what is not."""

from dataclasses import replace

import numpy as np
import pytest

from omni_lab.data import recordings, speech, spoken, word_cuts
from omni_lab.data.splits import generator
from omni_lab.evaluate import ears, metrics
from omni_lab.train.recipes import find


def test_warping_finds_what_was_stretched():
    rng = np.random.default_rng(0)
    one = rng.standard_normal((30, 8))
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    often = rng.integers(1, 4, 30)
    path = word_cuts.warp(one, np.repeat(one, often, axis=0))
    last = np.cumsum(often) - 1
    assert (path <= last).all() and (path >= last - often + 1).all()
    assert (np.diff(path) >= 0).all() and len(path) == 30


@pytest.mark.parametrize("lengths", [(5, 9), (9, 5), (1, 4), (4, 1)])
def test_warping_begins_at_the_beginning_and_does_not_go_back(lengths):
    one, other = (np.eye(12)[:n] for n in lengths)
    path = word_cuts.warp(one, other)
    assert path[0] == 0 and (np.diff(path) >= 0).all() and path.max() < lengths[1]


def test_words_of_a_prompt_are_its_recording_in_order():
    for prompt in recordings.prompts("train")[:8]:
        cut = word_cuts.aligned(prompt)[1]
        words = iter(word.strip(",.;!?") for word in prompt.text.split())
        assert all(word in words for word, _, _ in cut)  # in order; one so short that nothing is left of it is dropped
        whole = prompt.wave.tobytes()
        assert all(wave.tobytes() in whole for _, wave, _ in cut)
        assert sum(len(wave) for _, wave, _ in cut) > 0.95 * len(prompt.wave)


def test_an_independent_recogniser_hears_the_words_in_their_new_order():
    rng = generator("cuts", "train", 0, 1)
    made = [word_cuts.in_another_order(rng) for _ in range(24)]
    made = [cut for cut in made if len(cut[1]) > 12_000]  # of less it makes up a line of its own
    texts = [text for text, *_ in made]
    wrong = metrics.word_error_rate(texts, ears.write_all_down([wave for _, wave, _ in made], 16_000))
    halves = [wave[: len(wave) // 2] for _, wave, _ in made]
    cut_wrongly = metrics.word_error_rate(texts, ears.write_all_down(halves, 16_000))
    assert wrong < 0.6 < cut_wrongly, (wrong, cut_wrongly)


def test_none_of_the_tests_prompts_is_said():
    rng = generator("cuts", "train", 0, 2)
    texts = {word_cuts.key_of(word_cuts.in_another_order(rng)[0]) for _ in range(300)}
    assert not texts & {prompt.key for prompt in recordings.prompts("test")}
    assert len(texts) > 150


def test_training_hears_the_recorded_person_mostly_in_cuts_and_the_test_never():
    known = set(recordings.transcripts("train"))
    train = [spoken.asr_recorded(generator("recorded", "train", 0, i), "train").answer for i in range(60)]
    assert (
        25 < sum(text not in known for text in train) < 50
    )  # seven of ten, some of which are a whole prompt of a word
    asked = [spoken.asr_recorded(generator("recorded", "test", 0, i), "test").answer for i in range(60)]
    assert set(asked) <= set(recordings.transcripts("test"))


def test_prompts_by_other_voices_are_as_slow_as_the_person_and_mostly_not_the_sources():
    made = [spoken.prompt(generator("prompts", "train", 0, i), "train") for i in range(40)]
    waves = [next(part["audio"] for part in s.messages[-1]["content"] if part["type"] == "audio") for s in made]
    quick = [len(speech.heard(speech.say(s.answer, "heart", 0))) for s in made]
    longer = np.median([len(wave) / length for wave, length in zip(waves, quick, strict=True)])
    assert 1.1 < longer < 1.6
    assert sum(s.meta["voice"] == "heart" for s in made) < 15


def test_half_the_thinkers_prompts_are_said_by_other_voices():
    recipe = find("thinker_2")
    one = recipe(replace(recipe.scales["smoke"], wordings=0.0), seed=2)
    voices = [one.sample("asr_recorded", "train", place).meta["voice"] for place in range(32)]
    assert 8 < voices.count("recorded") < 24
    assert one.sample("asr_recorded", "test", 0).meta["voice"] == "recorded"
