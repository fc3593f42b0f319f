"""The vision encoder alone learns to name what each token of a picture lies on, before a language model looks.

Next-token loss would have a decoder find out by itself which stretch of a picture belongs to which word of an answer.
Here every token is told: the name of the thing under it and the colour of its card, or the letters that have their
middle in it, *in the language model's own words*; how far away the thing's edges are; and which letter stands in which
strip of it. The classifier of words is the frozen embedding table, so that a picture's token comes to lie where the
word's embedding lies, and as loud: what the decoder does with words it can do with pictures at once. The two heads that
measure and read are thrown away. Supervising every place at once is what detectors do (Redmon et al. 2016, section 2);
tokens that are mixtures of word embeddings are those of AlignVLM (Masry et al. 2025).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import preset
from ...data import pictures, rendered, scenes
from ...data.splits import generator, pick
from ...data.words import COLOURS, CONCEPTS
from ...thinker import Thinker
from ..balance import beyond
from ..optimise import decay_groups
from ..parts import need_part, save_part
from ..recipe import Batch, Recipe, Settings
from .thinker import processor

SIDE = 28  # pixels of a picture that become one token
SLICES = 4  # upright strips of a token, each with room for the middle of one letter
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789+-=,?"  # what is read, small and large letters alike; 0 is none
NOTHING = -100
EMPTY = " no"  # what a place with neither thing nor letter says
SHARPNESS = 20.0  # of the cosine with a word's embedding, as a logit


@dataclass(frozen=True)
class SeeingSettings(Settings):
    writing: float = 0.35  # share of pictures that are pages of writing
    most: int = 7  # things in a scene


CPU = SeeingSettings(steps=2000, batch_size=32, learning_rate=2e-3, ema=0.998, evaluate_every=500, workers=1)


class Seeing(Recipe):
    """Picture -> names, colours, edges and letters, place by place, through the thinker's vision encoder."""

    name: ClassVar[str] = "seeing"
    reads: ClassVar[tuple[str, ...]] = ("hearing",)
    writes: ClassVar[tuple[str, ...]] = ("seeing",)
    scales: ClassVar[Mapping[str, Settings]] = {
        "smoke": replace(CPU, steps=2, batch_size=2, workers=0, evaluate_every=0, log_every=1, ema=0.5),
        "cpu": CPU,
        "t4": replace(CPU, batch_size=64, workers=2),
        "gpu": replace(CPU, batch_size=128, workers=12),
    }
    settings: SeeingSettings

    def build(self) -> nn.Module:
        config = preset(self.settings.preset).thinker_config
        thinker = Thinker(config)
        need_part(self.parts, "hearing", thinker, self.name)
        width = config.vision_config.out_hidden_size
        heads = {"edges": nn.Linear(width, 4), "letters": nn.Linear(width, SLICES * (len(SIGNS) + 1))}
        return nn.ModuleDict({"thinker": thinker, **heads})

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        learning = [model["thinker"].visual, model["edges"], model["letters"]]
        return {"main": decay_groups([p for part in learning for p in part.named_parameters()], self.settings)}

    def blocks(self, model: Any) -> list[nn.Module]:
        return [*model["thinker"].visual.blocks]

    def compile(self, model: Any) -> None:
        """Nothing: its pictures have many sizes."""

    def batch(self, index: int) -> Batch:
        rng = generator("seeing batch", "train", self.seed, index)
        return self.pack([self.example(rng, "train") for _ in range(self.settings.batch_size)])

    def example(self, rng: np.random.Generator, split: str, style: str | None = None) -> tuple[Any, dict[str, Tensor]]:
        """A picture and what its tokens must say: of things that have names, or of writing."""
        if style is None and rng.random() < self.settings.writing:
            written = pick(rng, (rendered.ocr, rendered.picture_arithmetic))(rng, split)
            page = next(part["image"] for part in written.messages[0]["content"] if part["type"] == "image")
            return page, read_at(written.meta["glyphs"], page.size)
        words = pictures.some_words(rng, int(rng.integers(1, self.settings.most + 1)))
        words = [pick(rng, words) for _ in words] if rng.random() < 0.4 else words  # several of a kind, as one counts
        scene = scenes.compose(rng, words, split, style, cards=0.6)
        return scenes.draw(scene, rng if split == "train" else None), named_at(scene)

    def pack(self, examples: Sequence[tuple[Any, dict[str, Tensor]]]) -> Batch:
        """Pictures and their tokens' labels, one picture after another."""
        made = processor().pictures([picture for picture, _ in examples])
        labels = {name: torch.cat([label[name] for _, label in examples]) for name in examples[0][1]}
        pixels, grids = torch.cat([pixels for pixels, _ in made]), torch.tensor([grid for _, grid in made])
        return {"pixel_values": pixels, "image_grid_thw": grids, **labels, "samples": len(examples)}

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        tokens = model["thinker"].visual(batch["pixel_values"], batch["image_grid_thw"])  # (tokens, hidden_size)
        logits = words_of(model, tokens)
        names, empty = naming_loss(logits, batch["words"]), emptiness_loss(logits, batch["words"])
        loudness = beyond(tokens, model["thinker"].model.embed_tokens.weight[concept_ids()]).square().mean()
        tokens = F.rms_norm(tokens, tokens.shape[-1:])  # what measures and reads does not hear how loud they are
        misses = (model["edges"](tokens).float() - batch["edges"]).abs() * batch["things"]
        edges = misses.sum() / (4 * batch["things"].sum()).clamp(min=1)
        letters = model["letters"](tokens).float().unflatten(-1, (SLICES, -1))  # (tokens, slices, signs)
        reading = F.cross_entropy(letters.flatten(0, 1), batch["letters"].flatten(), ignore_index=NOTHING)
        reading = reading if batch["letters"].ne(NOTHING).any() else letters.sum() * 0.0
        parts = {"names": names, "empty": empty, "edges": edges, "reading": reading, "loudness": loudness}
        return names + 0.3 * empty + edges + 2 * reading + 0.1 * loudness, parts

    def evaluate(self, model: Any) -> dict[str, float]:
        """Shares of tokens right: names in known styles and in the one never trained on, colours; of letters read."""
        count = 4 if self.settings.steps < 100 else 100
        figures = {}
        nothing = processor().tokenizer(EMPTY)["input_ids"][0]
        for title, style in (("names", None), ("names, unseen style", pictures.UNSEEN_STYLE)):
            rng, examples = generator("seeing evaluation", "test", 0, 0), []
            plain = type(self)(replace(self.settings, writing=0.0))
            batch = plain.pack([plain.example(rng, "test", style) for _ in range(count)])
            logits, wanted = self.seen(model, batch)
            for what, ids, column in (("", concept_ids(), 0), (", colours", colour_ids(), 1)):
                there = wanted[:, column] != NOTHING
                said = torch.tensor(ids)[logits[there][:, ids].argmax(-1).cpu()]
                figures[title + what] = (said == wanted[there][:, column].cpu()).float().mean().item()
            empty = (wanted == NOTHING).all(1)
            figures[f"{title}, empty places"] = (logits[empty].argmax(-1) == nothing).float().mean().item()
        rng = generator("seeing evaluation", "test", 0, 1)
        pages = type(self)(replace(self.settings, writing=1.0))
        examples = [pages.example(rng, "test") for _ in range(count)]
        batch, device = pages.pack(examples), model["letters"].weight.device
        tokens = model["thinker"].visual(batch["pixel_values"].to(device), batch["image_grid_thw"].to(device))
        said = model["letters"](F.rms_norm(tokens, tokens.shape[-1:])).unflatten(-1, (SLICES, -1)).argmax(-1).cpu()
        letters, signs = batch["letters"] > 0, torch.tensor(sign_ids())
        best = signs[words_of(model, tokens)[:, signs].argmax(-1).cpu()]  # the likeliest sign of each token
        figures["letters, as words"] = (best[:, None] == batch["words"]).any(1)[letters.any(1)].float().mean().item()
        figures["letters"] = (said == batch["letters"])[letters].float().mean().item()
        return figures

    def seen(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """(word logits of all tokens, their wanted words)."""
        device = model["letters"].weight.device
        tokens = model["thinker"].visual(batch["pixel_values"].to(device), batch["image_grid_thw"].to(device))
        return words_of(model, tokens), batch["words"]

    def finish(self, model: Any) -> None:
        save_part(self.parts, self.name, model["thinker"])


def words_of(model: Any, tokens: Tensor) -> Tensor:
    """Which word's embedding a token of a picture is like: (tokens, hidden_size) -> logits (tokens, vocabulary), the
    cosines times SHARPNESS."""
    words = F.normalize(model["thinker"].model.embed_tokens.weight.float(), dim=-1)
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
    return -logits[empty].log_softmax(-1)[:, processor().tokenizer(EMPTY)["input_ids"][0]].mean()


def concept_ids() -> list[int]:
    """Tokens of the words table, each one token behind a space."""
    return [processor().tokenizer(f" {concept.word}")["input_ids"][0] for concept in CONCEPTS]


def colour_ids() -> list[int]:
    """Tokens of the cards' colours."""
    return [processor().tokenizer(f" {colour}")["input_ids"][0] for colour in sorted(COLOURS)]


def sign_ids() -> list[int]:
    """Tokens of what is read."""
    return [processor().tokenizer(sign)["input_ids"][0] for sign in SIGNS]


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
        name = processor().tokenizer(f" {thing.word}")["input_ids"][0]
        card = processor().tokenizer(f" {thing.colour}")["input_ids"][0] if thing.colour else NOTHING
        one = processor().tokenizer(" one")["input_ids"][0]
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
            labels["words"][token, strip] = processor().tokenizer(letter.lower())["input_ids"][0]
    return labels
