"""Thoughts between <think> tags: part of a reply that is written before the answer, and not spoken.

The tags are tokens of the nano tokenizer, as reasoning models have them; a tokenizer without them has no thoughts.
"""

import re
from typing import Any

BEGIN, END = "<think>", "</think>"


def thoughtful(thought: str, answer: str) -> str:
    """ "dog red", "red" -> "<think> dog red</think>red"; the answer alone where there is no thought.

    Behind a space the first word is the one token that stands for it everywhere else."""
    return f"{BEGIN} {thought}{END}{answer}" if thought else answer


def without_thoughts(text: str) -> str:
    """A reply without its thoughts, one that never ended included."""
    return re.sub(rf"{BEGIN}.*?({END}|$)", " ", text, flags=re.S)


def told_apart(text: str) -> list[tuple[bool, str]]:
    """A reply's stretches in order, (whether it is a thought, its words): for those who show both."""
    parts, thought = [], False
    for part in re.split(f"({BEGIN}|{END})", text):
        if part in (BEGIN, END):
            thought = part == BEGIN
        elif part:
            parts.append((thought, part))
    return parts


class Spoken:
    """Says of each token of a reply, from the first on, whether it is spoken."""

    def __init__(self, tokenizer: Any | None) -> None:
        """tokenizer: the model's, or None where there is none: then all is spoken."""
        known = tokenizer.get_vocab() if tokenizer is not None else {}
        self.begin, self.end = known.get(BEGIN), known.get(END)
        self.thinking = False

    def __call__(self, token: int) -> bool:
        """token: its id. The tags belong to the thought."""
        if token == self.begin:
            self.thinking = True
        elif token == self.end and self.thinking:
            self.thinking = False
            return False
        return not self.thinking
