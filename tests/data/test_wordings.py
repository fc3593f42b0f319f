"""Other ways to ask for the same: what is drawn, what is kept, and what stays for the test."""

from dataclasses import replace

from omni_lab.data import wordings, world
from omni_lab.data.splits import generator
from omni_lab.train.recipes import find


def request(sample):
    return next(part["text"] for part in sample.messages[-1]["content"] if part["type"] == "text")


def test_a_request_in_other_words_asks_for_the_same():
    rng = generator("wordings", "train", 0, 0)
    for task in ("asr", "music", "sound_events", "ocr", "page", "picture_arithmetic", "who_said_what"):
        sample = world.sample(task, "train", 0, 0)
        told = wordings.in_other_words(sample, rng)
        assert request(sample) in wordings.OTHERS and request(told) in wordings.OTHERS[request(sample)]
        assert (told.answer, told.meta, told.task) == (sample.answer, sample.meta, sample.task)
        media, kept = ([p for p in s.messages[-1]["content"] if p["type"] != "text"] for s in (sample, told))
        assert all(a is b for a, b in zip(media, kept, strict=True))


def test_a_request_without_other_words_stays():
    sample = world.sample("text_qa", "train", 0, 0)
    assert wordings.in_other_words(sample, generator("wordings", "train", 0, 0)) == sample


def test_no_two_requests_share_a_wording_and_none_of_the_tests_is_trained_on():
    said = [text for table in (wordings.OTHERS, wordings.HELD_OUT) for texts in table.values() for text in texts]
    assert len(set(said)) == len(said) and not set(said) & set(wordings.OTHERS)
    assert set(wordings.HELD_OUT) == set(wordings.OTHERS)


def test_training_asks_in_other_words_as_often_as_it_is_told_and_the_test_never():
    recipe = find("thinker_2")
    for share, low, high in ((0.0, 0, 0), (0.5, 8, 24), (1.0, 32, 32)):
        one = recipe(replace(recipe.scales["smoke"], wordings=share), seed=3)
        asked = [request(one.sample("sound_events", "train", place)) for place in range(32)]
        assert low <= sum(text not in wordings.OTHERS for text in asked) <= high
        assert request(one.sample("sound_events", "test", 0)) in wordings.OTHERS
