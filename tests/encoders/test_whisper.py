"""Whisper's weights in our encoder: both containers, agreement with the reference, and other files."""

import struct

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperModel

from omni_lab.encoders import whisper
from omni_lab.errors import CheckpointError


@pytest.fixture(scope="module")
def model():
    """A Whisper of two layers that hears one second."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = WhisperConfig(
        vocab_size=50, num_mel_bins=8, d_model=128, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=96,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32, max_source_positions=50, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return WhisperModel(config).eval()


def ctranslate2_bytes(model) -> bytes:
    """The encoder as CTranslate2 writes it: query, key and value in one matrix, float16."""
    return written(ctranslate2_arrays(model))


def ctranslate2_arrays(model) -> dict[str, np.ndarray]:
    """Its arrays by CTranslate2's names."""
    arrays = {}
    state = {k: v.detach().numpy() for k, v in model.encoder.state_dict().items()}
    back = {ours: theirs for theirs, ours in whisper.CT2_NAMES.items()}
    leaves = {"weight": ("gamma", "weight"), "bias": ("beta", "bias")}
    for name, value in state.items():
        place, leaf = name.rsplit(".", 1)
        if name.startswith("layers.") and "_proj" not in place.replace("out_proj", ""):
            _, layer, rest = place.split(".", 2)
            arrays[f"encoder/layer_{layer}/{back[rest]}/{leaves[leaf]['norm' not in rest]}"] = value
        elif not name.startswith("layers.") and "embed" not in name:
            arrays[f"encoder/{place}/{leaves[leaf]['norm' not in place]}"] = value
    for layer in range(model.config.encoder_layers):
        q, k, v = (f"layers.{layer}.self_attn.{part}_proj" for part in "qkv")
        zeros = np.zeros(model.config.d_model, np.float32)
        fused = f"encoder/layer_{layer}/self_attention/linear_0"
        arrays[f"{fused}/weight"] = np.concatenate([state[f"{p}.weight"] for p in (q, k, v)])
        arrays[f"{fused}/bias"] = np.concatenate([state[f"{q}.bias"], zeros, state[f"{v}.bias"]])
    arrays["decoder/something/weight"] = np.ones((2, 2), np.float32)
    arrays["encoder/num_heads"] = np.array(2, np.int16)
    return arrays


def word(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def written(arrays: dict[str, np.ndarray]) -> bytes:
    out = struct.pack("<I", 6) + word("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, value in arrays.items():
        value = value.astype(np.float16) if value.dtype == np.float32 else value
        out += word(name) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        out += struct.pack("<BI", {"float16": 4, "int16": 2}[value.dtype.name], value.nbytes) + value.tobytes()
    return out + struct.pack("<I", 0)


def test_the_hubs_format_and_the_references_own_numbers(model, tmp_path):
    model.save_pretrained(tmp_path)
    ours = whisper.encoder_from_whisper(tmp_path, output_dim=16, n_window=50)
    mel = torch.randn(1, 8, 100, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = model.encoder(mel).last_hidden_state[0]
        frames = ours.ln_post(ours.frames(mel, [100])[0])
    assert frames.shape == (50, 128) and torch.allclose(frames, theirs, atol=1e-5)
    assert ours(mel, [100]).shape == (25, 16)


def test_ctranslate2_holds_the_same_tensors(model, tmp_path):
    (tmp_path / "model.bin").write_bytes(ctranslate2_bytes(model))
    theirs = {k: v for k, v in model.encoder.state_dict().items() if "embed" not in k}
    found = whisper.encoder_tensors(tmp_path)
    assert {k.replace("ln_post", "layer_norm") if k.startswith("ln_post") else k for k in found} == set(theirs)
    for name, tensor in found.items():
        name = name.replace("ln_post", "layer_norm") if name.startswith("ln_post") else name
        assert torch.allclose(tensor, theirs[name], atol=1e-3), name
    whisper.encoder_from_whisper(tmp_path, output_dim=16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (struct.pack("<I", 5), "format 5"),
        (struct.pack("<I", 6) + b"\x02\x00a\0" + struct.pack("<II", 3, 10**6), "damaged"),
        (struct.pack("<I", 6) + b"\x02\x00a\0" + struct.pack("<II", 3, 0), "not a Whisper model"),
    ],
)
def test_another_file_is_one_line(content, message, tmp_path):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        whisper.encoder_tensors(tmp_path)


def test_a_cut_file_and_an_empty_folder_are_one_line(model, tmp_path):
    with pytest.raises(CheckpointError, match="holds neither"):
        whisper.encoder_tensors(tmp_path)
    (tmp_path / "model.bin").write_bytes(ctranslate2_bytes(model)[:-40])
    with pytest.raises(CheckpointError, match="truncated"):
        whisper.encoder_tensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        whisper.encoder_tensors(tmp_path)


@pytest.mark.parametrize(
    ("shape", "raw", "says"),
    [
        ((3,), b"12345", "holds 5 bytes for float16 of the shape"),
        ((2,), b"12345", "holds 5 bytes"),
        ((2**31, 2**31, 4), b"", "holds 0 bytes"),  # the product is 2 ** 64, or 0 where it overflows
        ((0, 2**31, 2**31, 2**31), b"", "holds 0 bytes"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(shape, raw, says, tmp_path):
    head = struct.pack("<I", 6) + word("WhisperSpec") + struct.pack("<II", 3, 1)
    tensor = word("encoder/conv1/weight") + struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    (tmp_path / "model.bin").write_bytes(head + tensor + struct.pack("<BI", 4, len(raw)) + raw)
    with pytest.raises(CheckpointError, match=says) as caught:
        whisper.encoder_tensors(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        ("encoder/foo", 2, "encoder/foo"),
        ("encoder/foo/weight", 2, "encoder/foo/weight is no part of a Whisper encoder"),
        ("encoder/layer_0/weight", 2, "is no part of"),
        ("encoder/layer_0/cross_attention/linear_0/weight", 3, "is no part of"),
        ("encoder/layer_0/self_attention/linear_0/weight", 4, "4 rows, which are no query, key and value"),
        ("encoder/layer_0/self_attention/linear_0/weight", 2, "2 rows"),
        ("encoder/layer_900000000/ffn/linear_0/weight", 96, "no whole Whisper encoder"),
        ("encoder/layer_x/ffn/linear_0/weight", 96, "no Whisper encoder"),
    ],
)
def test_names_that_no_whisper_has_are_one_line(model, tmp_path, name, rows, says):
    arrays = ctranslate2_arrays(model) | {name: np.zeros((rows, 128), np.float32)}
    (tmp_path / "model.bin").write_bytes(written(arrays))
    with pytest.raises(CheckpointError, match=says) as caught:
        whisper.encoder_from_whisper(tmp_path, output_dim=16)
    assert "\n" not in str(caught.value)


def test_a_file_that_promises_more_than_it_holds_is_one_line(tmp_path):
    """A width of 64,000 with one layer would take gigabytes before a tensor is found missing."""
    wide = np.zeros((64000, 1, 3), np.float32)
    arrays = {"encoder/conv1/weight": wide, "encoder/layer_0/ffn/linear_0/weight": np.zeros((1, 1), np.float32)}
    (tmp_path / "model.bin").write_bytes(written(arrays))
    with pytest.raises(CheckpointError, match="no whole Whisper encoder of width 64000 with 1 layers"):
        whisper.encoder_from_whisper(tmp_path, output_dim=16)
