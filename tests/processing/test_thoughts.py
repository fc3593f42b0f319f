"""Thoughts are written and not spoken."""

import pytest

from omni_lab.processing.thoughts import Spoken, thoughtful, told_apart, without_thoughts


class Tags:
    """A tokenizer that knows the tags as 1 and 2, or does not know them."""

    def __init__(self, known: bool) -> None:
        self.known = known

    def get_vocab(self) -> dict[str, int]:
        return {"<think>": 1, "</think>": 2} if self.known else {}


@pytest.mark.parametrize(
    "ids, spoken",
    [
        ([7, 8], [7, 8]),
        ([1, 5, 6, 2, 7], [7]),
        ([7, 1, 5, 2, 8, 1, 2, 9], [7, 8, 9]),
        ([1, 5, 6], []),
        ([2, 7], [2, 7]),  # ends nothing
    ],
)
def test_what_stands_between_the_tags_is_not_spoken(ids, spoken):
    speaks = Spoken(Tags(True))
    assert [token for token in ids if speaks(token)] == spoken
    for nothing in (Spoken(Tags(False)), Spoken(None)):
        assert all(nothing(token) for token in ids)


def test_a_reply_and_its_answer():
    assert thoughtful("dog red", "red") == "<think> dog red</think>red" and thoughtful("", "red") == "red"
    assert without_thoughts("<think> dog red</think>red").strip() == "red"
    assert without_thoughts("red <think> never ended").strip() == "red"


def test_a_reply_is_told_apart_into_thoughts_and_words():
    assert told_apart("<think> dog red</think>red") == [(True, " dog red"), (False, "red")]
    assert told_apart("hm <think> never ended") == [(False, "hm "), (True, " never ended")]
    assert told_apart("no thought") == [(False, "no thought")]
    assert told_apart("") == []
