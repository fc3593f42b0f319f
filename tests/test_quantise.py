"""Decoders in 8 and 4 bits: smaller, close to what they were, and told before loading what does not fit."""

from dataclasses import replace

import pytest
import torch

from omni_lab import quantise
from omni_lab.config import preset
from omni_lab.decoding import runs_directly
from omni_lab.errors import CheckpointError, ConfigError
from omni_lab.omni import OmniModel
from omni_lab.runtime import Hardware


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("checkpoint")
    OmniModel(replace(preset("nano"), enable_audio_output=False, speech_tokenizer_config=None)).save_pretrained(path)
    return path


def kept_bytes(tensor):
    """Bytes of a tensor of any class: of the plain tensors it is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    names = tensor.__tensor_flatten__()[0]
    return sum(kept_bytes(getattr(tensor, name)) for name in names if getattr(tensor, name) is not None)


@pytest.mark.parametrize("kind, most_error, most_bytes", [("int8", 0.04, 0.27), ("nf4", 0.4, 0.16)])
def test_fewer_bits_answer_nearly_the_same(folder, kind, most_error, most_bytes):
    ids = torch.randint(0, 2000, (2, 40), generator=torch.Generator().manual_seed(1))
    exact = OmniModel.from_pretrained(folder, "cpu", torch.float32).thinker
    small = OmniModel.from_pretrained(folder, "cpu", torch.float32, quantise=kind).thinker
    with torch.no_grad():
        expected, found = exact(input_ids=ids).logits, small(input_ids=ids).logits
    error = float((found - expected).norm() / expected.norm())
    assert 0 < error < most_error
    weights = [model.model.layers[0].mlp.gate_proj.weight for model in (exact, small)]
    assert kept_bytes(weights[1]) < most_bytes * weights[0].nbytes
    assert runs_directly(exact.model, exact.lm_head) and not runs_directly(small.model, small.lm_head)
    assert small.generate(4, input_ids=ids).shape == (2, 4)
    assert torch.equal(small.lm_head.weight, exact.lm_head.weight)


def test_what_is_quantised_is_not_saved_and_kinds_have_names(folder, tmp_path):
    with pytest.raises(CheckpointError, match="quantised model is not saved"):
        OmniModel.from_pretrained(folder, "cpu", quantise="int8").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="choose one of int8, nf4"):
        OmniModel.from_pretrained(folder, quantise="int3")


def test_more_than_memory_holds_is_told_before_loading(folder, monkeypatch):
    here = Hardware(torch.device("cuda"), torch.float16, "a T4", 16 * 10**9)
    files = dict.fromkeys(OmniModel.from_pretrained(folder, "cpu").state_dict(), folder / "model.safetensors")

    def check(free):
        monkeypatch.setattr(quantise, "free_memory", lambda _: free)
        quantise.need_to_load(folder, files, lambda name, stored: torch.float16, None, here)

    size = quantise.bytes_to_load(files, lambda name, stored: torch.float16, None, here.device)
    eight = quantise.bytes_to_load(files, lambda name, stored: torch.float16, "int8", here.device)
    check(size)
    with pytest.raises(CheckpointError, match=r"free on a T4; what would fit: quantise='int8' .*quantise='nf4'"):
        check(eight)
    with pytest.raises(CheckpointError, match="a smaller checkpoint"):
        check(1000)
    # Stored as float32 and kept so, a tensor is mapped: the CPU needs nothing for it yet.
    assert quantise.bytes_to_load(files, lambda name, stored: stored, None, torch.device("cpu")) == 0


def test_the_published_sizes_on_a_t4(tmp_path):
    """From headers alone: 3B fits in 8 bits, 7B in 4, in the 15 GB that a T4 has free."""
    sizes = {}

    def size_of(key, kind):
        if kind and quantise.DECODERS.fullmatch(key):
            return quantise.BYTES[kind]
        return 4 if key.startswith("token2wav.") else 2

    for name in ("qwen2_5_omni_3b", "qwen2_5_omni_7b"):
        with torch.device("meta"):
            model = OmniModel(preset(name))
        for kind in (None, *quantise.KINDS):
            sizes[name, kind] = sum(tensor.numel() * size_of(key, kind) for key, tensor in model.state_dict().items())
    assert sizes["qwen2_5_omni_3b", "int8"] < sizes["qwen2_5_omni_3b", None] < 15e9
    assert sizes["qwen2_5_omni_7b", "nf4"] < 13e9 < 15e9 < sizes["qwen2_5_omni_7b", None]
