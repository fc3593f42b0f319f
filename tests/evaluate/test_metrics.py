"""The measures on cases worked out by hand, and the independent ears on the source voice."""

import numpy as np
import pytest

from omni_lab.data import sentences, speech
from omni_lab.data.splits import generator
from omni_lab.evaluate import ears, metrics


def test_wer_counts_words_not_spelling_of_numbers():
    assert metrics.word_error_rate(["Two dogs, and a cat."], ["2 dogs and a cat"]) == 0
    assert metrics.word_error_rate(["twenty-one grey dogs"], ["21 gray dogs"]) == 0
    assert metrics.word_error_rate(["two dogs and a cat"], ["two logs and cat"]) == pytest.approx(2 / 5)
    assert metrics.word_error_rate(["one word", "three words here"], ["one word", ""]) == pytest.approx(3 / 5)
    assert metrics.word_error_rate(["a cat"], ["a cat a cat a cat"]) == 2.0
    assert metrics.word_error_rate(["..."], ["something"]) == 1.0


@pytest.mark.parametrize("answer, reply, same", [
    ("yes", "Yes.", True), ("7", "seven", True), ("der Hund", "Der Hund.", True), ("der Hund", "die Hund", False),
    ("16", "<think>8 + 8 = 16.</think>16", True), ("16", "<think>8 + 8", False), ("a mammal", "mammal", True),
    ("el ratón", "el raton", False), ("left", "", False), ("A", "a.", True), ("the cat", "Cat", True),
    ("A", "", False), ("A", "the", False), ("A", "...", False), ("A", "<think> cow, mammal", False),
])  # fmt: skip
def test_short_answers_are_compared_by_what_matters(answer, reply, same):
    assert metrics.same_answer(answer, reply) is same


def test_boxes():
    assert metrics.read_box("(10,20),(30,40)") == (0.1, 0.2, 0.3, 0.4)
    assert metrics.read_box("no box") is None and metrics.read_box("1,2,3") is None
    assert metrics.intersection_over_union((0, 0, 1, 1), (0.5, 0, 1.5, 1)) == pytest.approx(1 / 3)
    assert metrics.intersection_over_union((0, 0, 1, 1), (1, 1, 2, 2)) == 0
    assert metrics.intersection_over_union((0, 0, 1, 1), (1, 1, 0, 0)) == 0


def test_pause_errors_are_missing_and_misplaced_pauses():
    def timed(*gaps):
        clock, found = 0.0, []
        for word, gap in zip(["first", "the", "cat", "then", "the", "dog"], (*gaps, 0), strict=True):
            found.append((word, clock, clock + 0.3))
            clock += 0.3 + gap
        return found

    text = "First the cat, then the dog."
    assert metrics.pause_errors(text, timed(0, 0, 0.3, 0, 0)) == (0, 5)
    assert metrics.pause_errors(text, timed(0, 0, 0, 0, 0)) == (1, 5)  # no pause at the comma
    assert metrics.pause_errors(text, timed(0, 0.3, 0.3, 0, 0)) == (1, 5)  # a pause after "the"
    assert metrics.pause_errors(text, []) == (0, 0)
    misheard = [("worst", 0.0, 0.3), *timed(0, 0, 0.3, 0, 0)[1:]]
    assert metrics.pause_errors(text, misheard) == (0, 4)


def test_ears_understand_the_source_voice_and_tell_speakers_apart():
    lines = [sentences.sentence(generator("ears", "test", 0, i), "test") for i in range(3)]
    waves = [speech.say(line, seed=1) for line in lines]
    assert metrics.word_error_rate(lines, [ears.write_down(wave, 24_000) for wave in waves]) < 0.1
    heart, again = (ears.voiceprint(wave, 24_000) for wave in waves[:2])
    other = ears.voiceprint(speech.say(lines[1], "otto", seed=1), 24_000)
    assert metrics.similarity(heart, again) > metrics.similarity(heart, other) + 0.1


def test_ears_do_not_say_a_sentence_twice():
    # With windows of 10 s they did: "... three cameras. Zoe has a yellow crab and three", ten words wrong of eight.
    line = "Zoe has a yellow crab and three cameras."
    assert ears.write_down(speech.say(line, "heart", seed=90), 24_000).lower().count("three") == 1


def test_ears_hear_nothing_in_nothing():
    for wave in (np.zeros(0, np.float32), np.zeros(24_000, np.float32), np.full(24_000, np.nan, np.float32)):
        assert ears.words(wave, 24_000) == []
        assert not ears.voiceprint(wave, 24_000).any()


def test_many_waves_are_heard_as_each_alone():
    lines = ["Two dogs and a cat.", "First the boat, then the drum, and at last the old grey house by the sea."]
    waves = [np.zeros(24_000, np.float32), *(speech.say(line, seed=1) for line in lines)]
    silence, short, long = ears.all_words(waves, 24_000)
    assert silence == [] and len(short) == 5 and short[1][0].lower() == "dogs"
    assert all(begin <= end for _, begin, end in long) and long[-1][2] <= len(waves[2]) / 24_000 + 0.1
    assert ears.write_all_down(waves, 24_000)[1:] == [ears.write_down(wave, 24_000) for wave in waves[1:]]
    ages = np.concatenate([waves[2]] * 12)  # more than the 30 s of one window
    assert len(ages) > 31 * 24_000 and ears.write_down(ages, 24_000).lower().count("drum") >= 10
