"""CLIP: pictures and captions in one space (Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision"; section numbers below are that paper's).

Read top to bottom: what two embeddings mean to each other (similarity, InfoNCE, zero-shot, recall), how a tower ends
in one vector (attention pooling, EOT pooling), the towers, the model, the tokenizer, files. Notable:
- the ResNet is the paper's: three-convolution stem, average pools before strided convolutions, attention pooling;
- parameter names are those of the `open_clip` library, so its state dicts load here when the shapes agree;
- the attention pool asks one query, the mean; computing the other queries' answers and dropping them is wasted work.
"""

import json
import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from .bpe import END, PAD, START, read_tokenizer, tokenize
from .clip_config import CLIPConfig, ImageTowerConfig, TextTowerConfig
from .errors import CheckpointError, InputError

REMEDY = "train it again (omni-lab train clip), or take the folder from the course's repository anew"
MAX_LOGIT_SCALE = math.log(100)  # section 2.5: the scale is kept from growing beyond 100
MEAN, STD = 0.7, 0.33  # of the shipped pictures on white, over all channels


# What embeddings mean to each other


def similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosine of every query with every key: (n, dim), (m, dim) of any norm -> (n, m) in [-1, 1]."""
    return F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T


def info_nce(queries: Tensor, keys: Tensor, temperature: float | Tensor) -> Tensor:
    """Contrastive loss of matched rows (van den Oord et al. 2018, eq. 4).

    queries, keys: (batch, dim), of any norm; row i belongs to row i, all other keys are negatives; temperature > 0.
    Returns a scalar, in nats; a model that knows nothing has log(batch).
    """
    logits = similarity(queries, keys) / temperature  # (batch, batch)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def symmetric_loss(images: Tensor, texts: Tensor, temperature: float | Tensor) -> Tensor:
    """CLIP's loss (figure 3): the mean of "which caption?" and "which picture?". (batch, dim) twice -> scalar."""
    return (info_nce(images, texts, temperature) + info_nce(texts, images, temperature)) / 2


def temperature(logit_scale: Tensor) -> Tensor:
    """The learned temperature: exp(-logit_scale), clamped so that logits are scaled by 100 at most (section 2.5)."""
    return torch.exp(-logit_scale.clamp(max=MAX_LOGIT_SCALE))


def prompt_ensemble(embeddings: Tensor) -> Tensor:
    """One vector a class from several prompts (section 3.1.4): (classes, prompts, dim), any norm -> (classes, dim).

    Each prompt counts the same, so each is normalised before the mean; the mean is normalised again.
    """
    return F.normalize(F.normalize(embeddings, dim=-1).mean(dim=1), dim=-1)


def zero_shot(images: Tensor, classes: Tensor, temperature: float | Tensor = 0.01) -> Tensor:
    """Probabilities of classes given in words (section 3.1.2): (n, dim), (m, dim) -> (n, m), rows sum to 1."""
    return (similarity(images, classes) / temperature).softmax(dim=-1)


def recall_at_k(scores: Tensor, k: int, targets: Tensor | None = None) -> float:
    """Share of queries whose true key is among the k best: scores (n, m); targets (n,), default: key i for query i.

    For retrieval the other way, pass `scores.T`. A key that ties with the true one does not push it down.
    """
    if targets is None:
        targets = torch.arange(len(scores), device=scores.device)
    true = scores.gather(1, targets[:, None])  # (n, 1)
    return ((scores > true).sum(dim=1) < k).double().mean().item()


# How a tower ends in one vector


def attention_pooling(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Let one query per sample gather from all places (section 2.4).

    query: (batch, dim); keys, values: (batch, places, dim); `heads` divides dim. Returns (batch, dim).
    """
    batch, places, dim = keys.shape
    query = query.view(batch, heads, 1, dim // heads)
    keys, values = (x.view(batch, places, heads, dim // heads).transpose(1, 2) for x in (keys, values))
    gathered = F.scaled_dot_product_attention(query, keys, values)  # (batch, heads, 1, dim // heads)
    return gathered.reshape(batch, dim)


def eot_pooling(hidden: Tensor, tokens: Tensor, eot: int) -> Tensor:
    """The vector at the first end-of-text token, the only one that has read the whole caption (section 2.4).

    hidden: (batch, length, dim); tokens: (batch, length) ids. Returns (batch, dim).
    """
    first = (tokens == eot).int().argmax(dim=1)  # argmax returns the first of equal values
    return hidden[torch.arange(len(hidden), device=hidden.device), first]


# Towers


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a skip: (batch, channels, height, width) -> (batch, 4 planes, / stride, ...).

    Where the grid shrinks, an average pool does it, so that nothing is aliased (section 2.4)."""

    def __init__(self, channels: int, planes: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample = None
        if stride > 1 or channels != 4 * planes:
            skip = {
                "-1": self.pool,
                "0": nn.Conv2d(channels, 4 * planes, 1, bias=False),
                "1": nn.BatchNorm2d(4 * planes),
            }
            self.downsample = nn.Sequential()
            for name, layer in skip.items():
                self.downsample.add_module(name, layer)
        nn.init.zeros_(self.bn3.weight)  # at the start every block is its skip

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.pool(F.relu(self.bn2(self.conv2(x)), inplace=True))
        return F.relu(self.bn3(self.conv3(x)) + skip, inplace=True)


class AttentionPool(nn.Module):
    """The grid's mean, with a position of its own, asks the grid: (batch, dim, height, width) -> (batch, out_dim)."""

    def __init__(self, places: int, dim: int, heads: int, out_dim: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(places + 1, dim) * dim**-0.5)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.c_proj = nn.Linear(dim, out_dim)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)  # (batch, places, dim)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding
        return self.c_proj(attention_pooling(self.q_proj(x[:, 0]), self.k_proj(x), self.v_proj(x), self.heads))


class ModifiedResNet(nn.Module):
    """Pictures (batch, 3, size, size) -> (batch, embed_dim) (section 2.4). The grid: size / 4, then halved by stage."""

    def __init__(self, config: ImageTowerConfig, embed_dim: int):
        super().__init__()
        width = config.width
        self.conv1, self.bn1 = nn.Conv2d(3, width // 2, 3, 2, 1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = nn.Conv2d(width // 2, width // 2, 3, 1, 1, bias=False), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = nn.Conv2d(width // 2, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        channels = width
        for i, count in enumerate(config.layers):
            planes = width * 2**i
            blocks = [
                Bottleneck(channels if j == 0 else 4 * planes, planes, 2 if i and not j else 1) for j in range(count)
            ]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            channels = 4 * planes
        side = config.image_size // (4 * 2 ** (len(config.layers) - 1))
        self.attnpool = AttentionPool(side * side, channels, config.heads, embed_dim)
        self.depth = len(config.layers)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.attnpool(self.grid(pictures))

    def grid(self, pictures: Tensor) -> Tensor:
        """What stands before the pool: (batch, 3, height, width) of any size -> (batch, dim, rows, columns)."""
        # On a CPU the channels-last layout makes these convolutions about twice as fast.
        x = pictures.contiguous(memory_format=torch.channels_last)
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)), inplace=True)
        x = F.avg_pool2d(x, 2)
        for i in range(self.depth):
            x = getattr(self, f"layer{i + 1}")(x)
        return x


class SelfAttention(nn.Module):
    """Attention with the parameter names of torch's own module: (batch, length, dim) -> the same, or place 0."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight, self.in_proj_bias = (
            nn.Parameter(torch.empty(3 * dim, dim)),
            nn.Parameter(torch.zeros(3 * dim)),
        )
        self.out_proj = nn.Linear(dim, dim)
        nn.init.normal_(self.in_proj_weight, std=dim**-0.5)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, causal: bool = False, first_only: bool = False) -> Tensor:
        batch, length, dim = x.shape
        asking = x[:, :1] if first_only else x
        weights, biases = self.in_proj_weight.split([dim, 2 * dim]), self.in_proj_bias.split([dim, 2 * dim])
        query = F.linear(asking, weights[0], biases[0]).view(batch, -1, self.heads, dim // self.heads).transpose(1, 2)
        both = F.linear(x, weights[1], biases[1]).view(batch, length, 2, self.heads, dim // self.heads)
        key, value = both.permute(2, 0, 3, 1, 4)  # (batch, heads, length, head_dim) each
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, -1, dim))


class Block(nn.Module):
    """Pre-norm transformer block: (batch, length, dim) -> the same, or (batch, 1, dim) with `first_only`."""

    def __init__(self, dim: int, heads: int, depth: int):
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(dim), SelfAttention(dim, heads), nn.LayerNorm(dim)
        wider, back = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.mlp = nn.Sequential(OrderedDict(c_fc=wider, gelu=nn.GELU(), c_proj=back))
        nn.init.normal_(wider.weight, std=(2 * dim) ** -0.5)
        for out in (self.attn.out_proj, back):  # deeper towers start with smaller steps
            nn.init.normal_(out.weight, std=dim**-0.5 * (2 * depth) ** -0.5)

    def forward(self, x: Tensor, causal: bool = False, first_only: bool = False) -> Tensor:
        x = (x[:, :1] if first_only else x) + self.attn(self.ln_1(x), causal, first_only)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks: (batch, length, dim) -> the same, or (batch, 1, dim) where only the first place is read off:
    then the last block computes no other, which saves most of that block."""

    def __init__(self, dim: int, heads: int, depth: int):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(dim, heads, depth) for _ in range(depth))

    def forward(self, x: Tensor, causal: bool = False, first_only: bool = False) -> Tensor:
        for number, block in enumerate(self.resblocks, 1):
            x = block(x, causal, first_only and number == len(self.resblocks))
        return x


class VisionTransformer(nn.Module):
    """Pictures (batch, 3, size, size) -> (batch, embed_dim): patches and a class token (Dosovitskiy et al. 2020)."""

    def __init__(self, config: ImageTowerConfig, embed_dim: int):
        super().__init__()
        width, patch = config.width, config.patch_size
        places = (config.image_size // patch) ** 2
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(places + 1, width) * width**-0.5)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, config.heads, config.layers[0])
        self.proj = nn.Parameter(torch.randn(width, embed_dim) * width**-0.5)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.conv1(pictures).flatten(2).transpose(1, 2)  # (batch, places, width)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x), first_only=True)
        return self.ln_post(x[:, 0]) @ self.proj


class TextTransformer(nn.Module):
    """Token ids (batch, length) -> (batch, embed_dim): causal attention, read off at the end of the text."""

    def __init__(self, config: TextTowerConfig, embed_dim: int):
        super().__init__()
        self.eot = config.vocab_size - 1
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.randn(config.context_length, config.width) * 0.01)
        self.transformer = Transformer(config.width, config.heads, config.layers)
        self.ln_final = nn.LayerNorm(config.width)
        self.text_projection = nn.Parameter(torch.randn(config.width, embed_dim) * config.width**-0.5)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.ln_final(self.transformer(x, causal=True))
        return eot_pooling(x, tokens, self.eot) @ self.text_projection


# The model


def to_input(pictures: np.ndarray | Tensor, size: int) -> Tensor:
    """Pictures (batch, height, width, 3) uint8 -> normalised (batch, 3, size, size) float32; resized with antialias."""
    pictures = pictures if isinstance(pictures, Tensor) else torch.from_numpy(np.array(pictures))
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.dtype != torch.uint8:
        raise InputError(
            f"expected RGB pictures (batch, height, width, 3) uint8, got {tuple(pictures.shape)} {pictures.dtype}"
        )
    x = pictures.permute(0, 3, 1, 2).float() / 255  # (batch, 3, height, width)
    return (F.interpolate(x, size=(size, size), mode="bilinear", antialias=True) - MEAN) / STD


class CLIP(nn.Module):
    """Two towers and a temperature. Embeddings come out with any norm; `similarity` normalises."""

    def __init__(self, config: CLIPConfig, tokenizer: Tokenizer | None = None):
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        tower = VisionTransformer if config.vision.patch_size else ModifiedResNet
        self.visual = tower(config.vision, config.embed_dim)
        self.text = TextTransformer(config.text, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def temperature(self) -> Tensor:
        """The scalar that logits are divided by, from the learnt `logit_scale`."""
        return temperature(self.logit_scale)

    def encode_image(self, pictures: Tensor) -> Tensor:
        """(batch, 3, size, size), normalised by `to_input` -> (batch, embed_dim)."""
        size = self.config.vision.image_size
        if pictures.ndim != 4 or pictures.shape[1:] != (3, size, size):
            raise InputError(
                f"this CLIP sees pictures of shape (batch, 3, {size}, {size}), not {tuple(pictures.shape)}"
            )
        return self.visual(pictures)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(batch, length) ids that `tokenize` made -> (batch, embed_dim)."""
        return self.text(tokens)

    def forward(self, pictures: Tensor, tokens: Tensor) -> Tensor:
        """The loss of matched pictures and captions."""
        return symmetric_loss(self.encode_image(pictures), self.encode_text(tokens), self.temperature)

    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """(captions, embed_dim), with the model's own tokenizer."""
        if self.tokenizer is None:
            raise InputError("this CLIP has no tokenizer: load it from a folder that holds tokenizer.json")
        tokens = tokenize(self.tokenizer, captions, self.config.text.context_length)
        return self.encode_text(tokens.to(self.logit_scale.device))

    def embed_classes(self, names: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Prompt ensembles of class names: (names, embed_dim), normalised."""
        prompts = [template.format(name) for name in names for template in templates]
        return prompt_ensemble(self.embed_captions(prompts).view(len(names), len(templates), -1))

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json, model.safetensors (weights as `dtype`) and, if there is one, tokenizer.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.to(dtype).contiguous() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        writers = {"model.safetensors": lambda path: save_file(state, path)}
        writers["config.json"] = lambda path: path.write_text(json.dumps(self.config.to_dict(), indent=2))
        if self.tokenizer is not None:
            text = self.tokenizer.to_str()
            writers["tokenizer.json"] = lambda path: path.write_text(text, encoding="utf-8")
        for name, write in writers.items():  # under another name first: a reader never sees half a file
            write(folder / f"{name}.part")
            os.replace(folder / f"{name}.part", folder / name)

    @classmethod
    def load(cls, folder: str | Path) -> "CLIP":
        """Read what `save` wrote, in eval mode. Raises CheckpointError for a missing, damaged or misshapen file."""
        folder = Path(folder)
        try:
            config = CLIPConfig.from_dict(json.loads((folder / "config.json").read_text()))
            state = load_file(folder / "model.safetensors")
            path = folder / "tokenizer.json"
            tokenizer = read_tokenizer(path) if path.exists() else None
        except CheckpointError:
            raise
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            raise CheckpointError(f"{folder} holds no readable CLIP: {error}; {REMEDY}") from error
        lacking = [t for t in (PAD, START, END) if tokenizer is not None and tokenizer.token_to_id(t) is None]
        if lacking:
            raise CheckpointError(f"{folder}: tokenizer.json knows no {', '.join(lacking)}; {REMEDY}")
        if tokenizer is not None and tokenizer.token_to_id(END) != config.text.vocab_size - 1:
            raise CheckpointError(f"{folder}: tokenizer.json has another vocabulary than the text tower; {REMEDY}")
        held = sum(tensor.numel() for tensor in state.values())
        if config.numbers() > 2 * held:
            raise CheckpointError(f"{folder}: config.json asks for far more than {held} numbers in the file; {REMEDY}")
        model = cls(config, tokenizer)
        own = model.state_dict()
        for name in own.keys() | state.keys():
            given, wanted = (tuple(d[name].shape) if name in d else "nothing" for d in (state, own))
            if given != wanted:
                raise CheckpointError(
                    f"{folder}: {name} has shape {given}, but config.json asks for {wanted}; {REMEDY}"
                )
        model.load_state_dict(state)
        return model.eval()
