"""Each token of a picture is told what it lies on: the word for the thing and for its card's colour, or letters.

The classifier of words is the language model's embedding table, as it is and without a gradient, so that a picture's
token comes to lie where the word's embedding lies, and as loud: what the decoder does with words it can do with
pictures at once. Supervising every place at once is what detectors do (Redmon et al. 2016, section 2); tokens that are
mixtures of word embeddings are those of AlignVLM (Masry et al. 2025).
The vision encoder learns this in a recipe of its own (recipes/seeing.py), and goes on with it while the thinker learns
from answers: left to them alone it forgot half the names within 940 steps (names right, held out: 0.88 -> 0.46).
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import pictures, rendered, scenes
from ..data.splits import pick
from ..data.words import COLOURS, CONCEPTS
from .nano import processor
from .recipe import Batch

SIDE = 28  # pixels of a picture that become one token
SLICES = 4  # upright strips of a token, each with room for the middle of one letter
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789+-=,?"  # what is read, small and large letters alike; 0 is none
NOTHING = -100
EMPTY = " no"  # what a place with neither thing nor letter says
# Of the cosine with a word's embedding, as a logit. At 20 two words shared a token at cosines of 0.4, where any other
# noun has 0.28, and were told apart: nothing drew them on. The decoder, which copies what stands out, needs more.
SHARPNESS = 10.0
WRITING = 0.35  # share of pictures that are pages of writing
MOST = 7  # things in a scene


def some(count: int, rng: np.random.Generator) -> Batch:
    """`count` pictures of training's side with their labels, as `pack` puts them together."""
    return pack([example(rng, "train") for _ in range(count)])


def example(
    rng: np.random.Generator, split: str, style: str | None = None, writing: float = WRITING, most: int = MOST
) -> tuple[Any, dict[str, Tensor]]:
    """A picture and what its tokens must say: of at most `most` things that have names, or of writing."""
    if style is None and rng.random() < writing:
        written = pick(rng, (rendered.ocr, rendered.picture_arithmetic))(rng, split)
        page = next(part["image"] for part in written.messages[0]["content"] if part["type"] == "image")
        return page, read_at(written.meta["glyphs"], page.size)
    words = pictures.some_words(rng, int(rng.integers(1, most + 1)))
    words = [pick(rng, words) for _ in words] if rng.random() < 0.4 else words  # several of a kind, as one counts
    scene = scenes.compose(rng, words, split, style, cards=0.6)
    return scenes.draw(scene, rng if split == "train" else None), named_at(scene)


def pack(examples: Sequence[tuple[Any, dict[str, Tensor]]]) -> Batch:
    """Pictures and their tokens' labels, one picture after another."""
    made = processor().pictures([picture for picture, _ in examples])
    labels = {name: torch.cat([label[name] for _, label in examples]) for name in examples[0][1]}
    pixels, grids = torch.cat([pixels for pixels, _ in made]), torch.tensor([grid for _, grid in made])
    return {"pixel_values": pixels, "image_grid_thw": grids, **labels}


def loss(thinker: Any, named: Batch) -> Tensor:
    """What it costs the thinker's vision encoder to name a `pack` of pictures, in nats; scalar."""
    tokens = thinker.visual(named["pixel_values"], named["image_grid_thw"])  # (tokens, hidden_size)
    logits = words_of(thinker, tokens)
    return naming_loss(logits, named["words"]) + 0.3 * emptiness_loss(logits, named["words"])


def words_of(thinker: Any, tokens: Tensor, ids: Tensor | slice = slice(None)) -> Tensor:
    """Which word's embedding a token of a picture is like: (tokens, hidden_size) -> logits (tokens, words), the cosines
    times SHARPNESS. ids: of the words that are compared; default: the vocabulary."""
    words = F.normalize(thinker.model.embed_tokens.weight.detach()[ids].float(), dim=-1)
    return SHARPNESS * F.normalize(tokens.float(), dim=-1) @ words.t()


def naming_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Mean cross-entropy to all words that hold at a place, in nats: (tokens, vocabulary), (tokens, n) -> scalar.

    words: name of the thing and colour of its card, or letters; NOTHING where there is none. Places without a word
    count nothing.
    """
    there = words != NOTHING
    if not there.any():
        return logits.sum() * 0.0
    chosen = logits.log_softmax(-1).gather(1, words.clamp(min=0))
    return -((chosen * there).sum(1) / there.sum(1).clamp(min=1)).sum() / there.any(1).sum()


def emptiness_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Mean cross-entropy to EMPTY at the places without a word, in nats: (tokens, vocabulary), (tokens, n) -> scalar.

    Left to themselves they name what paper is like (clouds, mostly), and are counted and read like the others."""
    empty = (words == NOTHING).all(1)
    if not empty.any():
        return logits.sum() * 0.0
    return -logits[empty].log_softmax(-1)[:, empty_id()].mean()


@functools.cache
def first_id(text: str) -> int:
    """The first token of `text`. Kept: the tokenizer takes 0.1 ms a word, and many are asked for at every step."""
    return processor().tokenizer(text)["input_ids"][0]


def empty_id() -> int:
    """Token of EMPTY."""
    return first_id(EMPTY)


def concept_ids() -> tuple[int, ...]:
    """Tokens of the words table, each one token behind a space."""
    return tuple(first_id(f" {concept.word}") for concept in CONCEPTS)


def colour_ids() -> tuple[int, ...]:
    """Tokens of the cards' colours."""
    return tuple(first_id(f" {colour}") for colour in sorted(COLOURS))


def sign_ids() -> tuple[int, ...]:
    """Tokens of what is read."""
    return tuple(first_id(sign) for sign in SIGNS)


def nothing_at(width: int, height: int) -> dict[str, Tensor]:
    """Labels of an empty picture, `height` x `width` tokens, row by row."""
    tokens = width * height
    return {
        "words": torch.full((tokens, SLICES), NOTHING),
        "things": torch.zeros(tokens, 1, dtype=torch.bool),
        "edges": torch.zeros(tokens, 4),
        "letters": torch.full((tokens, SLICES), NOTHING),
    }


def named_at(scene: scenes.Scene) -> dict[str, Tensor]:
    """A token says the thing that covers most of it, if that is a third of it or the thing's middle lies in it; the
    one with the middle also says "one", for a thing has many tokens and counts once.

    edges: left, top, right and lower edge of the thing, seen from the token's middle, in halves of a picture."""
    across = scene.size // SIDE
    labels, covered = nothing_at(across, across), np.full(across * across, 0.3)
    for thing in scene.things:
        x1, y1, x2, y2 = thing.box
        name, one = first_id(f" {thing.word}"), first_id(" one")
        card = first_id(f" {thing.colour}") if thing.colour else NOTHING
        for token in range(across * across):
            left, top = token % across * SIDE, token // across * SIDE
            wide, high = min(x2, left + SIDE) - max(x1, left), min(y2, top + SIDE) - max(y1, top)
            middle = left <= thing.centre[0] < left + SIDE and top <= thing.centre[1] < top + SIDE
            share = max(wide, 0) * max(high, 0) / SIDE**2 + middle
            if share > covered[token]:
                covered[token] = share
                said = [name, card, one if middle else NOTHING]
                labels["words"][token, : len(said)], labels["things"][token] = torch.tensor(said), True
                seen_from = torch.tensor([left, top, left, top]) + SIDE / 2
                labels["edges"][token] = (torch.tensor(thing.box) - seen_from) / (scene.size / 2)
    return labels


def read_at(glyphs: Sequence[rendered.Glyph], size: tuple[int, int]) -> dict[str, Tensor]:
    """The strip in which a letter's middle lies says the letter; every other strip of the page says that none does.

    Letters are words too: each is a token of the language model, which so finds them as if they had been typed."""
    across = size[0] // SIDE
    labels = nothing_at(across, size[1] // SIDE)
    labels["letters"][:] = 0
    for letter, x, y in glyphs:
        if letter.lower() in SIGNS:
            token = int(y // SIDE) * across + int(x // SIDE)
            strip = int(x % SIDE * SLICES // SIDE)
            labels["letters"][token, strip] = SIGNS.index(letter.lower()) + 1
            labels["words"][token, strip] = first_id(letter.lower())
    return labels
