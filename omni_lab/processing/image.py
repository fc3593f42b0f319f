"""Pictures -> pixels -> flat patches for the vision encoder.

Decoding is Pillow's. Resizing, scaling and patching give, bit for bit, what the reference's Qwen2VL image and video
processors give (their torchvision path), but need torch alone: nothing else of torchvision is used by this package.
"""

import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, InputError, MediaError
from .media import Source, name_of, read_bytes, reason

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pixels that OpenAI's CLIP was trained on
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PixelConfig:
    """Settings of a Qwen2VL image or video processor, as `preprocessor_config.json` holds them."""

    min_pixels: int = 56 * 56  # a smaller picture is enlarged, keeping its aspect ratio
    max_pixels: int = 28 * 28 * 1280  # a larger one is reduced
    patch_size: int = 14  # pixels
    temporal_patch_size: int = 2  # frames
    merge_size: int = 2  # 2x2 patches become one token
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD
    min_frames: int = 4  # of a sampled video
    max_frames: int = 768

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], defaults: "PixelConfig | None" = None) -> "PixelConfig":
        """Read either spelling of the size limits. Raises ConfigError for a setting that cannot work."""
        values = dict(vars(defaults or cls()))
        values |= {name: raw[name] for name in values if raw.get(name) is not None}
        size = raw.get("size")
        if isinstance(size, Mapping):
            values["min_pixels"] = size.get("shortest_edge", values["min_pixels"])
            values["max_pixels"] = size.get("longest_edge", values["max_pixels"])
        for name, value in values.items():
            if name.startswith("image_"):
                good = isinstance(value, (list, tuple)) and len(value) == 3 and all(map(is_number, value))
                good = good and (name == "image_mean" or min(value) > 0)
                values[name] = tuple(map(float, value)) if good else value
            else:
                good = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if not good:
                raise ConfigError(f"preprocessor_config.json: {name} is {value!r}, which no processor can use")
        if values["min_pixels"] > values["max_pixels"]:
            raise ConfigError("preprocessor_config.json: min_pixels is greater than max_pixels")
        return cls(**values)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite real number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def load_image(source: Source, allow_urls: bool = False) -> Tensor:
    """A picture as RGB: (3, height, width), uint8.

    source: path, address or bytes of a file that Pillow reads (EXIF rotation is applied), PIL picture, or array/tensor
    as `image_array` takes it. Raises MediaError (file) or InputError (array)."""
    from PIL import Image, ImageOps

    if isinstance(source, (np.ndarray, Tensor)):
        return image_array(source)
    try:
        if isinstance(source, Image.Image):
            picture = source
        else:
            picture = ImageOps.exif_transpose(Image.open(io.BytesIO(read_bytes(source, allow_urls))))
        pixels = np.array(rgb(picture))
    except (MediaError, InputError):
        raise
    except (
        OSError,
        ValueError,
        SyntaxError,
        TypeError,
        KeyError,
        IndexError,
        struct.error,
        EOFError,
        MemoryError,
        OverflowError,
        NotImplementedError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow's readers raise
        raise MediaError(f"{name_of(source)}: not a picture that can be read ({reason(error)})") from None
    if pixels.size == 0:
        raise InputError(f"a picture of {pixels.shape[1]} x {pixels.shape[0]} pixels is empty")
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()  # (height, width, 3) -> (3, height, width)


def rgb(picture: Any) -> Any:
    """`picture` (PIL) in mode RGB, what is transparent laid on white."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):  # 16 bits and more: Pillow would clip them to white
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        grey = (np.nan_to_num(values).clip(0, top) * (255.0 / top)).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255, 255)), picture).convert("RGB")
    return picture.convert("RGB")


def image_array(array: np.ndarray | Tensor) -> Tensor:
    """An array as RGB pixels: (3, height, width), uint8.

    array: (height, width), (height, width, 1 | 3 | 4) or (1 | 3 | 4, height, width); integers 0 to 255 or floats
    0 to 1. A fourth channel is opacity, over white. Raises InputError."""
    pixels = numbers(array, "a picture")
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or pixels.numel() == 0:
        raise InputError(f"a picture must be (height, width, 3), got shape {tuple(array.shape)}")
    if pixels.shape[0] not in (1, 3, 4) or (pixels.shape[0] == 4 and pixels.shape[-1] == 3):
        pixels = pixels.permute(2, 0, 1)  # (height, width, channels) -> (channels, height, width)
    if pixels.shape[0] not in (1, 3, 4):
        raise InputError(f"a picture must have 1, 3 or 4 channels, got shape {tuple(array.shape)}")
    pixels = eight_bits(pixels)
    if pixels.shape[0] == 4:
        color, opacity = pixels[:3].float() / 255.0, pixels[3:].float() / 255.0
        return ((color * opacity + (1 - opacity)) * (256 - 1e-3)).to(torch.uint8)
    return pixels.expand(3, -1, -1).contiguous()


def numbers(array: Any, what: str) -> Tensor:
    """An array or tensor of real numbers as a tensor on the CPU. Raises InputError for anything else."""
    try:
        tensor = array.detach().cpu() if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} must be an array of numbers ({reason(error)})") from None
    if tensor.is_complex() or tensor.is_quantized:
        raise InputError(f"{what} must hold real numbers, got {tensor.dtype}")
    return tensor


def eight_bits(pixels: Tensor) -> Tensor:
    """Pixels of any real type as uint8: integers 0 to 255 stay, floats 0 to 1 are scaled. Raises InputError."""
    if pixels.dtype == torch.uint8:
        return pixels
    pixels = pixels.double()
    low, high = float(pixels.min()), float(pixels.max())
    floats = pixels.frac().any() or high <= 1.0
    if not (low >= 0.0 and high <= (1.0 if floats else 255.0)):  # NaN fails both
        raise InputError(f"pixels must be integers from 0 to 255 or floats from 0 to 1, got {low:g} to {high:g}")
    return (pixels * 255.0 if floats else pixels).round().to(torch.uint8)


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size to which a picture is resized: sides divisible by `factor`, area within limits, aspect nearly kept.

    Sides in pixels. Raises InputError when one side is more than 200 times the other. Source: Qwen2-VL (2409.12191)."""
    if max(height, width) > 200 * min(height, width):
        raise InputError(f"a picture of {width} x {height} pixels is too narrow: one side may be 200 times the other")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return rows, columns


def resize(frames: Tensor, config: PixelConfig) -> Tensor:
    """(frames, 3, height, width), uint8, any size -> the size that `smart_resize` says. Bicubic, anti-aliased."""
    factor = config.patch_size * config.merge_size
    size = smart_resize(frames.shape[-2], frames.shape[-1], factor, config.min_pixels, config.max_pixels)
    if size == tuple(frames.shape[-2:]):
        return frames
    return F.interpolate(frames, size=size, mode="bicubic", antialias=True)


def normalize(frames: Tensor, config: PixelConfig) -> Tensor:
    """uint8 pixels (..., 3, height, width) -> float32 with mean 0 and deviation 1 over CLIP's training pixels."""
    mean = torch.tensor(config.image_mean) * 255.0  # the reference folds the scaling by 1 / 255 in, as here
    std = torch.tensor(config.image_std) * 255.0
    return (frames.float() - mean[:, None, None]) / std[:, None, None]


def patchify(frames: Tensor, config: PixelConfig) -> tuple[Tensor, tuple[int, int, int]]:
    """Frames -> flat patches in the order of the vision encoder, 2x2 neighbours side by side (FACTS: vision encoder).

    frames: (frames, 3, height, width), normalised; one picture is repeated to fill a temporal patch.
    Returns (patches, 3 * temporal_patch * patch * patch) and the grid (time, height, width) in patches."""
    t, p, m = config.temporal_patch_size, config.patch_size, config.merge_size
    if missing := -len(frames) % t:
        frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
    grid = len(frames) // t, frames.shape[2] // p, frames.shape[3] // p
    # (frames, 3, height, width) -> (grid_t, t, 3, grid_h / m, m, p, grid_w / m, m, p)
    blocks = frames.reshape(grid[0], t, 3, grid[1] // m, m, p, grid[2] // m, m, p)
    # -> (grid_t, grid_h / m, grid_w / m, m, m, 3, t, p, p) -> (patches, 3 * t * p * p)
    return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), 3 * t * p * p), grid


def pixel_values(frames: Tensor, config: PixelConfig) -> tuple[Tensor, tuple[int, int, int]]:
    """uint8 frames (frames, 3, height, width) of one picture or video -> patches and grid, as `patchify` gives them."""
    return patchify(normalize(resize(frames, config), config), config)
