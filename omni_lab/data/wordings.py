"""Other ways to ask for the same: a model that has met one wording of a request alone answers no other.

The tests of the suite ask in the first wording; `HELD_OUT` are never trained on, and show whether the sense is known.
"""

from dataclasses import replace

import numpy as np

from . import music, rendered, sounds, spoken, videos
from .sample import Sample
from .splits import pick

# The wording that the nano world uses -> others that mean the same.
OTHERS: dict[str, tuple[str, ...]] = {
    spoken.TRANSCRIBE: (
        "What do you hear?", "What was said?", "What did the person say?", "Please write down every word.",
        "Write what is said.", "Which words do you hear?",
    ),
    music.ASK: (
        "What key, metre and tempo is this?", "Tell me about this music.", "What music is this?",
        "Describe the music that you hear.",
    ),
    sounds.ASK: ("What is this sound?", "What sound do you hear?", "What is making the sound?", "Which sound is it?"),
    rendered.READ: ("What does it say?", "Which word is it?", "What is written here?", "Read it to me."),
    rendered.READ_ALL: ("Read everything.", "What is written on the page?", "Read the text on this page."),
    rendered.SOLVE: (
        "What is the answer?", "Solve what is in the picture.", "How much is it?", "What does it make?",
        "Please solve this.",
    ),
    videos.WHO: ("Who said what?", "What did each person say?", "What do the people on the left and on the right say?"),
}  # fmt: skip
HELD_OUT: dict[str, tuple[str, ...]] = {
    spoken.TRANSCRIBE: ("Write down what is said.", "What words did you hear?"),
    music.ASK: ("What can you say about this music?", "Describe the key, metre and tempo."),
    sounds.ASK: ("What sound is this?", "What do you think makes this sound?"),
    rendered.READ: ("What word is this?", "Please read the word."),
    rendered.READ_ALL: ("Please read the page.", "Read what is on the page."),
    rendered.SOLVE: ("Please solve it.", "Solve the picture."),
    videos.WHO: ("What did they say?", "What did the two people say?"),
}


def in_other_words(sample: Sample, rng: np.random.Generator, known: dict[str, tuple[str, ...]] | None = None) -> Sample:
    """`sample` with its last request in one of the other wordings of `known` (OTHERS by default); as it is, where the
    request has none."""
    known = OTHERS if known is None else known
    *before, last = sample.messages
    content = [
        {**part, "text": pick(rng, known[part["text"]])} if part.get("text") in known else part
        for part in last["content"]
    ]
    return replace(sample, messages=[*before, {**last, "content": content}])
