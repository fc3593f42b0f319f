"""Token ids -> text, as they come: a letter may be spread over several tokens, a word is not to be shown twice."""

from typing import Any

UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no letter yet


class TextStream:
    """Pieces of text that join to what the tokenizer makes of all ids at once; only the newest ids are decoded."""

    def __init__(self, processor: Any) -> None:
        """processor: an OmniProcessor, or None: then there is no text."""
        self.processor = processor
        self.ids: list[int] = []
        self.start = self.shown = 0  # ids from `start` are decoded again, up to `shown` they have been given out

    def add(self, token: int) -> str:
        """The text that `token` completes, perhaps none."""
        self.ids.append(token)
        return self.new(False)

    def finish(self) -> str:
        """What is left: bytes that never became a letter."""
        return self.new(True)

    def new(self, last: bool) -> str:
        """Text of the ids not yet shown, decoded behind those before them, which decide about spaces."""
        if self.processor is None or self.shown == len(self.ids):
            return ""
        before = self.processor.decode(self.ids[self.start : self.shown])
        now = self.processor.decode(self.ids[self.start :])
        if now.endswith(UNFINISHED) and not last:
            return ""
        self.start, self.shown = self.shown, len(self.ids)
        return now[len(before) :]
