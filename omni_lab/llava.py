"""LLaVA: a language model looks at a picture (Liu et al. 2023, "Visual Instruction Tuning"; section and table numbers
below are that paper's).

Read top to bottom: two ways to write a dialogue, which of its tokens are learned, where the picture's vectors go, the
loss, which parts learn in which stage, the model, how it answers, files. Notable:
- the picture is a row of vectors in the place of words: nothing in the language model knows that it can see;
- the image tower is lab 01's, never trained here, and stays in eval mode even while the rest trains;
- the language model is the decoder of the thinker (layers.py), so weights of Qwen2.5 fit it.
"""

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import clip
from .bpe import read_tokenizer
from .config import TextConfig, read_dataclass
from .config_checks import check_decoder
from .errors import CheckpointError, ConfigError, InputError
from .layers import Decoder

LARGEST_PICTURE = 4096  # pixels of a side
IGNORED = -100  # label of a token of which no loss is taken
IMAGE, IMAGE_START, IMAGE_END = "<|IMAGE|>", "<|vision_bos|>", "<|vision_eos|>"
SYSTEM = "You see a picture."
STAGES = {  # what learns, by the beginning of its parameters' names (section 4.2); "language" is what comes before
    "language": ("language_model.",),
    "align": ("projector.",),
    "instruct": ("projector.", "language_model."),
}
Turns = Sequence[tuple[str, str]]  # (question, answer)
Pieces = list[tuple[str, bool]]  # (text, whether it is learned)


# How a dialogue is written


def human_assistant(turns: Turns, system: str, stop: str = "###") -> Pieces:
    """The paper's form (table 2): system, then Human and Assistant in turn, each closed by `stop` and a line break.

    Learned are the answers, each with the blank before it and the stop behind it: the model must know when to end.
    """
    pieces = [(f"{system}{stop}\n", False)]
    for question, answer in turns:
        pieces += [(f"Human: {question}{stop}\nAssistant:", False), (f" {answer}{stop}", True), ("\n", False)]
    return pieces


def chatml(turns: Turns, system: str) -> Pieces:
    """Qwen's form: each message between <|im_start|>role and <|im_end|>. Learned are the answers with their end."""
    pieces = [(f"<|im_start|>system\n{system}<|im_end|>\n", False)]
    for question, answer in turns:
        pieces.append((f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", False))
        pieces += [(f"{answer}<|im_end|>", True), ("\n", False)]
    return pieces


def with_picture(turns: Turns, places: int) -> list[tuple[str, str]]:
    """The turns with a picture of `places` vectors before the first question."""
    (question, answer), *rest = turns
    return [(f"{IMAGE_START}{IMAGE * places}{IMAGE_END}{question}", answer), *rest]


# What is learned


def answer_labels(pieces: Sequence[Sequence[int]], learned: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Token ids of a dialogue's pieces, and whether each piece is learned -> ids and labels, each (length,) int64.

    A label is the token itself within learned pieces, else IGNORED (section 4.2, equation 3: only answers count).
    """
    ids = [token for piece in pieces for token in piece]
    labels = [token if counts else IGNORED for piece, counts in zip(pieces, learned, strict=True) for token in piece]
    return torch.tensor(ids, dtype=torch.long), torch.tensor(labels, dtype=torch.long)


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the learned tokens: (batch, length, vocab), (batch, length) -> scalar, in nats.

    The logits at a place are a guess of the token behind it, so they meet the label one place further.
    """
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)


def trainable(names: Sequence[str], stage: str) -> list[str]:
    """Those of the parameters' `names` that learn in `stage` (section 4.2). Raises ConfigError for an unknown stage."""
    if stage not in STAGES:
        raise ConfigError(f"unknown stage {stage!r}: choose one of {', '.join(STAGES)}")
    return [name for name in names if name.startswith(STAGES[stage])]


# Where the picture goes


def place_features(embeddings: Tensor, ids: Tensor, features: Tensor, image_token: int) -> Tensor:
    """Put a picture's vectors where its placeholders stand, in order.

    embeddings: (batch, length, dim) of ids (batch, length); features: (batch, places, dim), as many as a row has
    placeholders. Returns new embeddings. Raises InputError when the numbers differ.
    """
    here = ids == image_token  # (batch, length)
    if bool((here.sum(dim=1) != features.shape[1]).any()):
        raise InputError(f"each row needs {features.shape[1]} placeholders, got {here.sum(dim=1).tolist()}")
    return embeddings.masked_scatter(here[..., None], features.to(embeddings.dtype))


def greedy(logits_of: Callable[[Tensor], Tensor], ids: Tensor, stop: int, longest: int) -> list[int]:
    """The most likely continuation, token by token: ids (1, length) -> at most `longest` new ids, without `stop`.

    logits_of: ids (1, length) -> logits (1, length, vocab). All of the text is read again for each token; a KV cache
    (lab 05) makes that one step.
    """
    new: list[int] = []
    while len(new) < longest:
        token = int(logits_of(ids)[0, -1].argmax())
        if token == stop:
            break
        new.append(token)
        ids = torch.cat([ids, ids.new_tensor([[token]])], dim=1)
    return new


# The model


@dataclass(frozen=True)
class LlavaConfig:
    """A decoder and the size at which it sees; the image tower is a CLIP's."""

    text: TextConfig = TextConfig(
        vocab_size=2048, hidden_size=160, intermediate_size=448, num_hidden_layers=3, num_attention_heads=5,
        num_key_value_heads=5, max_position_embeddings=1024, rope_theta=1e4, mrope_section=(16,),
    )  # fmt: skip
    image_size: int = 96  # pixels of a side

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LlavaConfig":
        """Read `asdict`'s form; ConfigError for anything else."""
        try:
            text, size = read_dataclass(TextConfig, values["text"], "text"), values["image_size"]
        except (TypeError, KeyError) as error:
            raise ConfigError(f"this is no configuration of a LLaVA: {error}") from error
        check_decoder(text, "text")
        if type(size) is not int or not 0 < size <= LARGEST_PICTURE:
            raise ConfigError(f"image_size is {size!r}, expected 1 to {LARGEST_PICTURE} pixels")
        return cls(text, size)


@torch.no_grad()
def grid_shape(tower: Any, size: int) -> tuple[int, int]:
    """Width of the vectors and places in a row of a tower's grid, for square pictures of `size` pixels."""
    like = next(tower.parameters(), torch.empty(0))  # a tower may stand on a card
    found = tower.grid(torch.zeros(1, 3, size, size, device=like.device, dtype=like.dtype))  # (1, width, side, side)
    return found.shape[1], found.shape[-1]


class LLaVA(nn.Module):
    """Tower g, projection W and language model f (figure 1). `tokenizer` knows ChatML and the picture's tokens."""

    vision_tower: Any  # a module with a method `grid`

    def __init__(self, config: LlavaConfig, tokenizer: Tokenizer, tower: nn.Module):
        """tower: what has a method `grid`, as lab 01's has: pictures -> (batch, width, rows, columns). It is copied."""
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.vision_tower = copy.deepcopy(tower).eval().requires_grad_(False)
        width, self.side = grid_shape(self.vision_tower, config.image_size)
        # A ViT ends in a layer norm, a ResNet does not: its channels differ in size, and W learns slowly from them.
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.projector = nn.Linear(width, config.text.hidden_size)
        self.language_model = Decoder(config.text)
        nn.init.normal_(self.language_model.embed_tokens.weight, std=0.05)
        image_token, stop = tokenizer.token_to_id(IMAGE), tokenizer.token_to_id("<|im_end|>")
        if image_token is None or stop is None:
            raise InputError(f"the tokenizer must know {IMAGE} and <|im_end|>")
        self.image_token, self.stop = image_token, stop

    @property
    def mark(self) -> str:
        """Name of the tower's first weight, by which a file knows its tower."""
        return next(name for name, _ in self.named_parameters() if name.startswith("vision_tower."))

    def train(self, mode: bool = True) -> "LLaVA":
        """As ever, but the frozen tower stays in eval mode: else its batch norms would follow the batches."""
        super().train(mode)
        self.vision_tower.eval()
        return self

    def look(self, pictures: Tensor) -> Tensor:
        """Grid features Z of the tower: (batch, 3, size, size) from `clip.to_input` -> (batch, places, width)."""
        with torch.no_grad():
            return self.vision_tower.grid(pictures).flatten(2).transpose(1, 2)  # (batch, places, width)

    def project(self, grid: Tensor) -> Tensor:
        """H = W Z, each place by itself (section 4.1, equation 1): (batch, places, width) -> (batch, places, dim).

        Z's channels are brought to mean 0 and variance 1 first; while training, by the batch's."""
        return self.projector(self.norm(grid.flatten(0, 1)).view_as(grid))

    def read(self, told: Tensor) -> Tensor:
        """A picture told in words, as vectors: ids (batch, places, words), -1 for none -> (batch, places, dim).

        Each place is the sum of its words' embeddings: what a perfect W would make of what stands there.
        """
        words = self.language_model.embed_tokens(told.clamp(min=0))  # (batch, places, words, dim)
        return (words * (told >= 0)[..., None]).sum(dim=2)

    def forward(self, ids: Tensor, features: Tensor | None = None) -> Tensor:
        """ids (batch, length), picture vectors (batch, places, dim) or None for text alone -> (batch, length, vocab).

        Rows are padded on the right, where causality hides the padding. The head is the embedding, transposed.
        """
        embed = self.language_model.embed_tokens
        x = embed(ids)
        if features is not None:
            x = place_features(x, ids, features, self.image_token)
        return F.linear(self.language_model(x), embed.weight)

    def tokenize(self, pieces: Pieces) -> tuple[Tensor, Tensor]:
        """Pieces of a template -> ids and labels, each (length,)."""
        encoded = self.tokenizer.encode_batch([text for text, _ in pieces], add_special_tokens=False)
        return answer_labels([e.ids for e in encoded], [counts for _, counts in pieces])

    def prompt(self, question: str, history: Turns = (), places: int | None = None) -> Tensor:
        """Ids of a ChatML dialogue up to the answer that is wanted: (1, length); `places` None: without a picture."""
        turns = [*history, (question, "")]
        pieces = chatml(turns if places is None else with_picture(turns, places), SYSTEM)
        return self.tokenize(pieces[:-2])[0][None].to(self.projector.weight.device)

    def see(self, picture: Image.Image) -> Tensor:
        """A picture of any size -> the vectors that the language model gets: (1, places, dim)."""
        size = self.config.image_size
        pixels = np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))[None]
        return self.project(self.look(clip.to_input(pixels, size).to(self.projector.weight.device)))

    @torch.no_grad()
    def answer(
        self,
        picture: Image.Image | None,
        question: str,
        history: Turns = (),
        longest: int = 48,
        grid: Tensor | None = None,
    ) -> str:
        """The most likely answer to a question about a picture, or about none. grid: picture vectors in its place."""
        features = grid if grid is not None else None if picture is None else self.see(picture)
        ids = self.prompt(question, history, None if features is None else features.shape[1])
        new = greedy(lambda ids: self(ids, features), ids, self.stop, longest)
        return self.tokenizer.decode(new).strip()

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json, model.safetensors (weights as `dtype`) and tokenizer.json.

        The tower is lab 01's and stays there; its first layer alone is kept, as a mark of which one it was."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        own = self.state_dict()
        state = {k: v.to(dtype).contiguous() for k, v in own.items() if not k.startswith("vision_tower.")}
        state[self.mark] = own[self.mark].contiguous()
        writers: dict[str, Callable[[Path], object]] = {
            "model.safetensors": lambda path: save_file(state, path),
            "config.json": lambda path: path.write_text(json.dumps(asdict(self.config), indent=2)),
            "tokenizer.json": lambda path: self.tokenizer.save(str(path)),
        }
        for name, write in writers.items():  # under another name first: a reader never sees half a file
            write(folder / f"{name}.part")
            os.replace(folder / f"{name}.part", folder / name)

    @classmethod
    def load(cls, folder: str | Path, tower: nn.Module) -> "LLaVA":
        """Read what `save` wrote, in eval mode; `tower` is the one that it was trained with.

        Raises CheckpointError for a missing, damaged or misshapen file, and for another tower."""
        folder = Path(folder)
        try:
            config = LlavaConfig.from_dict(json.loads((folder / "config.json").read_text()))
            state = load_file(folder / "model.safetensors")
            need_decoder(config.text, state, folder)
            model = cls(config, read_tokenizer(folder / "tokenizer.json"), tower)
            own = model.state_dict()
            if model.mark not in state or not torch.equal(state[model.mark], own[model.mark].cpu()):
                raise CheckpointError(f"{folder} was trained with another image tower: train it again with this one")
            model.load_state_dict({k: v for k, v in own.items() if k.startswith("vision_tower.")} | state)
        except CheckpointError:
            raise
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{folder} holds no readable LLaVA: {last_line(error)}") from error
        return model.eval()


def need_decoder(config: TextConfig, state: Mapping[str, Tensor], folder: Path) -> None:
    """Raise CheckpointError where `config` asks for a far larger decoder than the file holds: memory is not asked."""
    held = sum(tensor.numel() for tensor in state.values())
    layer = config.hidden_size * (2 * config.hidden_size + 3 * config.intermediate_size)
    if config.vocab_size * config.hidden_size + config.num_hidden_layers * layer > 2 * held:
        raise CheckpointError(f"{folder}: config.json asks for far more than the {held} numbers in the file")


def last_line(error: BaseException) -> str:
    """Where a library says what is wrong; before it stands what it was doing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
