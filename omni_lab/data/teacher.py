"""The teacher of LLaVA's method: a language model that is told captions and boxes and asked for instruction data.

Any server with the OpenAI chat interface will do (vLLM, llama.cpp, Ollama, ...). The three system prompts follow the
method of the LLaVA paper (Liu et al. 2023, tables 13 to 15), in our own words.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from . import dialogues
from .dialogues import Turns
from .scenes import Scene
from .splits import generator
from .words import BY_WORD, plural

_SEEN = (
    "You look at one picture. You cannot see it here: instead you get sentences that describe it, and a list of the "
    "things in it with their boxes [x1, y1, x2, y2] as shares of its width and height, from the upper left corner. "
    "Speak as if you saw the picture itself; never mention the sentences, the list or numbers of a box. Ask and answer "
    "only what can be told for certain from what you are given. "
)
SYSTEM = {
    "conversation": _SEEN
    + "Write a conversation between a person who asks about the picture and an assistant who answers: what things "
    "there are, how many, their colours, where they are relative to one another. ",
    "detail": _SEEN + "Write one request for a detailed description, and the description: every thing, its place, "
    "and how the things lie to one another. ",
    "reasoning": _SEEN
    + "Write one question that takes thinking, beyond what is merely seen: knowledge about the things, "
    "causes, consequences, advice; and an answer that gives its reasons step by step. ",
}
PLURALS = {word: plural(word) for word in BY_WORD}
FORM = 'Reply with JSON alone: {"turns": [{"question": "...", "answer": "..."}]}.'


def context(captions: list[str], boxes: list[str]) -> str:
    """What the teacher is told of a picture: the captions, an empty line, the boxes (LLaVA, table 1)."""
    return "\n".join([*captions, "", *boxes])


def messages(system: str, examples: Sequence[tuple[str, str]], query: str) -> list[dict[str, str]]:
    """A few-shot chat (LLaVA, table 13): the system prompt, each example's context and reply, then the query."""
    shots = [
        {"role": role, "content": text}
        for pair in examples
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return [{"role": "system", "content": system}, *shots, {"role": "user", "content": query}]


def prompt(
    kind: str, captions: list[str], boxes: list[str], examples: Sequence[tuple[str, str]] = ()
) -> list[dict[str, str]]:
    """The chat messages that ask for instruction data of `kind` (conversation, detail or reasoning).

    captions, boxes: as `dialogues.captions` and `dialogues.boxes` write them; examples: (context, reply) pairs shown
    before. Raises DataError for another kind."""
    if kind not in SYSTEM:
        raise DataError(f"no instruction data of kind {kind!r}: choose {', '.join(SYSTEM)}")
    return messages(SYSTEM[kind] + FORM, examples, context(captions, boxes))


def examples(kind: str, count: int = 2) -> list[tuple[str, str]]:
    """(context, reply) pairs of `kind` to show before the query: training scenes, told by rule, the same each time."""
    found = []
    for index in range(count):
        rng = generator("teacher's example", "train", 0, index)
        _, scene = dialogues.scene_of(rng, "train")
        turns = [{"question": asked, "answer": answer} for asked, answer in dialogues.teach(kind, scene, rng)]
        told = context(dialogues.captions(scene), dialogues.boxes(scene))
        found.append((told, json.dumps({"turns": turns})))
    return found


def absent(answer: str, present: Sequence[str], plurals: Mapping[str, str]) -> list[str]:
    """Things that an answer mentions though they are not `present`; [] for an answer that may stay.

    plurals: each known thing -> its plural. Either form counts, in any case, as a whole word: "catch" is no cat. In the
    order of `plurals`."""
    said = set(re.findall(r"\w+", answer.lower()))
    return [word for word, many in plurals.items() if word not in present and {word, many} & said]


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server: `url` ends in /v1."""

    url: str
    model: str
    key: str = ""
    timeout: float = 60.0  # seconds

    def complete(
        self,
        messages: list[dict[str, str]],
        seed: int = 0,
        temperature: float = 0.7,
        max_tokens: int | None = None,
    ) -> str:
        """The server's reply to a chat, of at most `max_tokens` (default: as the server likes); "" where it has none.

        Raises DataError with what went wrong."""
        try:
            import httpx  # only those need it who ask a server
        except ImportError:
            raise DataError(f"teacher at {self.url}: to ask it takes httpx (pip install httpx)") from None
        body = {"model": self.model, "messages": messages, "seed": seed, "temperature": temperature}
        body |= {} if max_tokens is None else {"max_tokens": max_tokens}
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            reply = httpx.post(
                f"{self.url.rstrip('/')}/chat/completions", json=body, headers=headers, timeout=self.timeout
            )
            reply.raise_for_status()
            return str(reply.json()["choices"][0]["message"]["content"] or "")  # null: all was spent on thinking
        except httpx.HTTPError as error:
            raise DataError(f"teacher at {self.url}: {str(error).splitlines()[0]}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(f"teacher at {self.url}: the reply is no chat completion") from error


def read_turns(reply: str) -> Turns:
    """The turns of a reply in the form asked for, with or without a fence around it. Raises DataError."""
    begin, end = reply.find("{"), reply.rfind("}")
    try:
        turns = json.loads(reply[begin : end + 1])["turns"]
        found = [(str(turn["question"]).strip(), str(turn["answer"]).strip()) for turn in turns]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the teacher did not reply in the form asked for: {reply[:60]!r}") from error
    if not found or not all(question and answer for question, answer in found):
        raise DataError("the teacher replied with an empty question or answer")
    return found


def teach(kind: str, scene: Scene, rng: np.random.Generator, server: Server | None = None) -> Turns:
    """Turns of `kind` about `scene`: by rule, or from `server` with the same facts and two examples before them.

    Raises DataError, also when a server's answer tells of things that are not in the scene."""
    if server is None:
        return dialogues.teach(kind, scene, rng)
    asked = prompt(kind, dialogues.captions(scene), dialogues.boxes(scene), examples(kind))
    turns = read_turns(server.complete(asked, seed=int(rng.integers(2**31))))
    present = [thing.word for thing in scene.things]
    for _, answer in turns:
        if invented := absent(answer, present, PLURALS):
            raise DataError(f"the teacher tells of {', '.join(invented)}, which the picture does not show")
    return turns
