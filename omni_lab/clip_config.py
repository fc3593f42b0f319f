"""The shape of a CLIP: two towers that end in one space."""

from dataclasses import asdict, dataclass
from typing import Any

from .errors import ConfigError

LARGEST, DEEPEST = 10**7, 1000  # whatever is beyond them is damaged


@dataclass(frozen=True)
class ImageTowerConfig:
    """`patch_size` 0: a modified ResNet of `layers` blocks in each stage; else a ViT of `layers[0]` blocks."""

    image_size: int = 48  # pixels of a side
    width: int = 32  # channels after the stem, or of the transformer
    layers: tuple[int, ...] = (2, 2, 2)
    heads: int = 8  # of the attention pool, or of the transformer
    patch_size: int = 0  # pixels


@dataclass(frozen=True)
class TextTowerConfig:
    """A causal transformer."""

    vocab_size: int = 2048  # the end-of-text token is the last id
    context_length: int = 16  # tokens, with start and end
    width: int = 160
    heads: int = 5
    layers: int = 2


@dataclass(frozen=True)
class CLIPConfig:
    """Two towers that end in `embed_dim` values."""

    embed_dim: int = 192
    vision: ImageTowerConfig = ImageTowerConfig()
    text: TextTowerConfig = TextTowerConfig()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CLIPConfig":
        """Read `to_dict`'s form; ConfigError for anything else."""
        try:
            vision = ImageTowerConfig(**values["vision"] | {"layers": tuple(values["vision"]["layers"])})
            return cls(values["embed_dim"], vision, TextTowerConfig(**values["text"]))
        except (TypeError, KeyError) as error:
            raise ConfigError(f"this is no configuration of a CLIP: {error}") from error

    def __post_init__(self) -> None:
        vision, text = self.vision, self.text
        sizes = (self.embed_dim, vision.image_size, vision.width, vision.heads, *asdict(text).values())
        if not vision.layers or not all(type(n) is int and 0 < n <= LARGEST for n in (*sizes, *vision.layers)):
            raise ConfigError(f"sizes of a CLIP must be positive whole numbers, {LARGEST} at most")
        if max(*vision.layers, len(vision.layers), text.layers) > DEEPEST:
            raise ConfigError(f"a tower of a CLIP has {DEEPEST} layers at most")
        if type(vision.patch_size) is not int or not 0 <= vision.patch_size <= vision.image_size:
            raise ConfigError(f"patch_size is {vision.patch_size!r}, expected 0 (a ResNet) to the image_size")
        step = vision.patch_size or 4 * 2 ** (len(vision.layers) - 1)
        if vision.image_size % step:
            raise ConfigError(f"image_size {vision.image_size} is no multiple of {step}, the image tower's stride")
        widest = vision.width if vision.patch_size else 4 * vision.width * 2 ** (len(vision.layers) - 1)
        for name, width, heads in (("image", widest, vision.heads), ("text", text.width, text.heads)):
            if width % heads:
                raise ConfigError(f"{heads} heads do not divide the {name} tower's width {width}")

    def numbers(self) -> int:
        """How many the large tensors hold together. A file with far fewer is of another model; memory is not asked."""
        vision, text = self.vision, self.text
        count = text.width * (text.vocab_size + text.context_length + 12 * text.layers * text.width + self.embed_dim)
        if vision.patch_size:
            places = (vision.image_size // vision.patch_size) ** 2
            of_tower = 12 * vision.layers[0] * vision.width + 3 * vision.patch_size**2
            return count + vision.width * (places + of_tower + self.embed_dim)
        for stage, blocks in enumerate(vision.layers):
            count += 17 * blocks * (vision.width * 2**stage) ** 2  # 1x1, 3x3 and 1x1 convolutions
        widest = 4 * vision.width * 2 ** (len(vision.layers) - 1)
        places = (vision.image_size // (4 * 2 ** (len(vision.layers) - 1))) ** 2
        return count + widest * (places + 3 * widest + self.embed_dim)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `config.json`."""
        return asdict(self)
