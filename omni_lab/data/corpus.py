"""The world's language alone: every line that a tokenizer or a language model of it should know."""

from collections.abc import Iterator

from . import dialogues, recordings, sentences, texts, videos
from .music import propose as propose_piece
from .splits import generator, pick
from .words import CONCEPTS

KINDS = ("sentence", "question", "chat", "dialogue", "translation", "prompt", "phrase", "music")


def lines(count: int, seed: int = 0) -> Iterator[str]:
    """`count` lines of training text: sentences, questions with answers, letters, captions, translations, prompts."""
    for index in range(count):
        rng = generator("corpus", "train", seed, index)
        kind = KINDS[index % len(KINDS)]
        if kind == "sentence":
            yield sentences.sentence(rng, "train")
        elif kind in ("question", "chat"):
            made = (texts.text_qa if kind == "question" else texts.text_chat)(rng, "train")
            yield f"{made.meta['question']} {made.answer}"
        elif kind == "dialogue":
            _, scene = dialogues.scene_of(rng, "train")
            turns = dialogues.teach(pick(rng, dialogues.KINDS), scene, rng)
            yield " ".join([*dialogues.captions(scene), *(f"{question} {answer}" for question, answer in turns)])
        elif kind == "translation":
            english, _, translation = sentences.sentence_pair(rng, "train")
            yield f"{english} {translation}"
        elif kind == "prompt":
            yield pick(rng, recordings.transcripts("train"))
        elif kind == "phrase":
            yield f"left: {videos.phrase(rng)}. right: {videos.phrase(rng)}. {pick(rng, CONCEPTS).word}"
        else:
            yield propose_piece(rng)[1].words
