"""CLIP on emoji: two artists' drawings of a thing and a caption, and the test is an artist never seen.

Notable:
- each concept of a batch comes in two styles, so that pictures are pulled to their caption and to each other;
- half of a batch are runs of neighbours in Unicode's order (faces beside faces, trains beside trains): the negatives
  that a caption must be told from;
- every picture is redrawn at random (data/restyle.py).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ... import clip
from ...bpe import read_tokenizer, tokenize, train_tokenizer
from ...clip_config import CLIPConfig, ImageTowerConfig, TextTowerConfig
from ...data import captioned, emoji, restyle
from ...errors import ConfigError
from ..recipe import Batch, Recipe, Settings

TEMPLATES = ("{}", "a picture of {}", "an emoji of {}", "a drawing of {}", "{} emoji")
RUN = 8  # neighbours in Unicode's order that enter a batch together
TOWERS = {
    "tiny": CLIPConfig(64, ImageTowerConfig(32, 16, (1, 1, 1), 4), TextTowerConfig(1024, 16, 64, 2, 1)),
    "nano": CLIPConfig(192, ImageTowerConfig(48, 32, (2, 2, 2), 8), TextTowerConfig(2048, 12, 128, 4, 2)),
    "vit": CLIPConfig(192, ImageTowerConfig(48, 192, (6,), 6, patch_size=8), TextTowerConfig(2048, 12, 128, 4, 2)),
    "small": CLIPConfig(512, ImageTowerConfig(64, 64, (3, 4, 6), 16), TextTowerConfig(2048, 24, 384, 6, 4)),
}


@dataclass(frozen=True)
class ClipSettings(Settings):
    """`batch_size` counts concepts; each comes in two styles."""

    styles: tuple[str, ...] = ()  # to train on; (): all training styles and extras
    tests: tuple[str, ...] = (emoji.TEST_STYLE,)  # to evaluate on; never among `styles`
    between_styles: float = 0.5  # weight of the loss that pulls two drawings of a thing together
    restyled: bool = True  # redraw pictures at random
    start: str = ""  # folder of a CLIP to go on from; "": fresh weights
    captioned: str = ""  # folder or hub name of captioned pictures (data/captioned.py) in place of the emoji


class ClipRecipe(Recipe):
    """Symmetric InfoNCE between pictures and captions, and between two styles."""

    name = "clip"
    settings: ClipSettings
    scales = {
        "smoke": ClipSettings(20, 32, 2e-3, preset="tiny", styles=("noto", "twemoji"), log_every=5),
        "cpu": ClipSettings(3000, 128, 2.5e-3, preset="nano", weight_decay=0.05),
        "t4": ClipSettings(10000, 256, 1e-3, preset="small", weight_decay=0.1, workers=2),
        "gpu": ClipSettings(20000, 512, 1e-3, preset="small", weight_decay=0.1, workers=12),
    }
    writes = ("clip",)

    @cached_property
    def emoji(self) -> emoji.EmojiSet:
        return emoji.load()

    @cached_property
    def pairs(self) -> tuple[Tensor, list[list[str]]]:
        """A captioned set in place of the emoji: prepared pictures (n, 6, 72, 72) and the captions of each."""
        pixels, captions = captioned.load(self.settings.captioned)
        return restyle.prepare(torch.from_numpy(pixels)), captions

    @cached_property
    def tokenizer(self) -> Tokenizer:
        if self.settings.start:  # its text tower knows these ids
            return read_tokenizer(Path(self.settings.start) / "tokenizer.json")
        told = sum(self.pairs[1], []) if self.settings.captioned else all_captions(self.emoji)
        return train_tokenizer(told, TOWERS[self.settings.preset].text.vocab_size)

    @cached_property
    def styles(self) -> tuple[str, ...]:
        every = self.settings.styles or self.emoji.training_styles + self.emoji.extra_styles
        return tuple(style for style in every if style not in self.settings.tests)

    @cached_property
    def pictures(self) -> Tensor:
        """Every style, prepared: (styles, concepts, 6, 72, 72) uint8."""
        sheets = [torch.from_numpy(self.emoji.pixels(style).copy()) for style in self.styles]
        return torch.stack([restyle.prepare(sheet) for sheet in sheets])

    @cached_property
    def present(self) -> np.ndarray:
        """(styles, concepts) bool"""
        return np.stack([self.emoji.present(style) for style in self.styles])

    @cached_property
    def flips(self) -> Tensor:
        """(concepts,) bool: what stays true in a mirror. "Left" and "right" do not."""
        words = ("left", "right", "clockwise")
        return torch.tensor([not any(word in name for word in words) for name in self.emoji.names])

    def build(self) -> nn.Module:
        if self.settings.start:
            model = clip.CLIP.load(self.settings.start)
            if model.config.vision != TOWERS[self.settings.preset].vision:
                raise ConfigError(
                    f"{self.settings.start} holds no CLIP of preset {self.settings.preset!r}: set its preset"
                )
            return model
        config = TOWERS[self.settings.preset]
        text = replace(config.text, vocab_size=self.tokenizer.get_vocab_size())
        return clip.CLIP(replace(config, text=text), self.tokenizer)

    def warm(self) -> None:
        _ = self.pairs if self.settings.captioned else (self.pictures, self.present, self.flips)

    def batch(self, index: int) -> Batch:
        """Two pictures and a caption of each concept: (2 * concepts, 3, size, size), (concepts, length)."""
        rng = np.random.default_rng([self.seed, index])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pictures, flips, captions = (self.draw_pairs if self.settings.captioned else self.draw_emoji)(rng)
        config = TOWERS[self.settings.preset]
        size = config.vision.image_size
        if self.settings.restyled:
            pictures = restyle.restyle(pictures, size, flips, generator)
        else:
            pictures = restyle.plain(pictures, size)
        tokens = tokenize(self.tokenizer, captions, config.text.context_length)
        return {"pictures": (pictures - clip.MEAN) / clip.STD, "tokens": tokens, "samples": len(captions)}

    def draw_emoji(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[str]]:
        """Prepared pictures (2 * concepts, 6, 72, 72), which may be mirrored, and captions (concepts)."""
        concepts = choose_concepts(rng, len(self.emoji), self.settings.batch_size)
        first, second = np.array([two_styles(rng, self.present[:, c]) for c in concepts]).T
        styles, twice = torch.from_numpy(np.concatenate([first, second])), torch.from_numpy(concepts).repeat(2)
        return self.pictures[styles, twice], self.flips[twice], [caption(self.emoji, c, rng) for c in concepts]

    def draw_pairs(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[str]]:
        """The same from a captioned set: each picture twice, to be redrawn in two ways."""
        pictures, captions = self.pairs
        chosen = rng.choice(len(captions), min(self.settings.batch_size, len(captions)), replace=False)
        twice = torch.from_numpy(chosen).repeat(2)
        return pictures[twice], torch.ones(len(twice), dtype=torch.bool), [str(rng.choice(captions[i])) for i in chosen]

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        images = model.encode_image(batch["pictures"])
        texts = model.encode_text(batch["tokens"])
        with torch.autocast(images.device.type, enabled=False):  # logits up to 100 need more digits than bf16 has
            first, second = images.float().chunk(2)
            texts, temperature = texts.float(), model.temperature
            loss = sum(clip.symmetric_loss(view, texts, temperature) for view in (first, second)) / 2
            styles = clip.symmetric_loss(first, second, temperature)
            right = (
                clip.similarity(first, texts).argmax(dim=1) == torch.arange(len(texts), device=texts.device)
            ).float()
        total = loss + self.settings.between_styles * styles
        return total, {
            "caption loss": loss,
            "style loss": styles,
            "batch top-1": right.mean(),
            "temperature": temperature,
        }

    def evaluate(self, model: Any) -> dict[str, float]:
        figures: dict[str, float] = {}
        if self.settings.captioned:
            return figures
        for style in self.settings.tests:
            top1, top5 = emoji_accuracy(model, self.emoji, style)
            figures |= {f"{style} top-1": top1, f"{style} top-5": top5}
        return figures

    def finish(self, model: Any) -> None:
        if self.parts is not None:
            model.save(self.parts / "clip", torch.float16)


def choose_concepts(rng: np.random.Generator, total: int, count: int) -> np.ndarray:
    """`count` different concepts: runs of neighbours for one half, anyone for the other."""
    starts = rng.permutation(total // RUN)[: count // (2 * RUN)] * RUN + rng.integers(RUN)
    runs = (starts[:, None] + np.arange(RUN)).ravel() % total
    others = np.setdiff1d(np.arange(total), runs)
    return np.concatenate([runs, rng.choice(others, count - len(runs), replace=False)])


def two_styles(rng: np.random.Generator, present: np.ndarray) -> np.ndarray:
    """Two of the styles that have a concept, different ones where there are two: (2,)."""
    have = np.flatnonzero(present)
    return rng.choice(have, 2, replace=len(have) < 2)


def caption(names: emoji.EmojiSet, concept: int, rng: np.random.Generator) -> str:
    """A caption: the name, in most cases in a template or with keywords, which now and then stand alone."""
    name, keywords = names.names[concept], names.keywords["en"][concept]
    draw = rng.random()
    if keywords and draw < 0.4:
        some = [str(k) for k in rng.permutation(keywords)[: rng.integers(1, 4)]]
        return ", ".join(some if draw < 0.05 else [name, *some])
    return str(rng.choice(TEMPLATES)).format(name)


def all_captions(names: emoji.EmojiSet) -> list[str]:
    """What the tokenizer learns from: every name in every template, every keyword."""
    templated = [template.format(name) for template in TEMPLATES for name in names.names]
    return templated + [word for words in names.keywords["en"] for word in words]


@torch.no_grad()
def embed_style(model: clip.CLIP, names: emoji.EmojiSet, style: str) -> Tensor:
    """Image embeddings of a whole style on white, as drawn: (concepts the style has, embed_dim)."""
    pixels = emoji.over_background(names.pixels(style)[names.present(style)])
    pictures = clip.to_input(pixels, model.config.vision.image_size).to(model.logit_scale.device)
    return torch.cat([model.encode_image(part).float() for part in pictures.split(128)])


@torch.no_grad()
def emoji_accuracy(model: clip.CLIP, names: emoji.EmojiSet, style: str) -> tuple[float, float]:
    """Zero-shot top-1 and top-5 of a style's pictures among all concepts, classes given by their names in TEMPLATES."""
    classes = model.embed_classes(names.names, TEMPLATES).float()
    scores = clip.similarity(embed_style(model, names, style), classes)
    targets = torch.from_numpy(np.flatnonzero(names.present(style))).to(scores.device)
    return clip.recall_at_k(scores, 1, targets), clip.recall_at_k(scores, 5, targets)
