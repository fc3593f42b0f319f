"""Copies of weights in another layout are made once, follow their weights, and do not pile up."""

import gc

import torch
from torch import nn

from omni_lab import cpu_kernels
from omni_lab.config import preset
from omni_lab.thinker import Thinker


def doubled(linear: nn.Linear, times: int = 2) -> torch.Tensor:
    return linear.weight * times


def test_a_copy_is_kept_until_the_weights_change():
    linear = nn.Linear(3, 2)
    first = cpu_kernels.kept(linear, doubled)
    assert cpu_kernels.kept(linear, doubled) is first and not first.requires_grad
    optimiser = torch.optim.SGD(linear.parameters(), 0.1)
    linear(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    assert torch.equal(cpu_kernels.kept(linear, doubled), 2 * linear.weight)
    linear.load_state_dict({"weight": torch.ones(2, 3), "bias": torch.zeros(2)})
    assert torch.equal(cpu_kernels.kept(linear, doubled), torch.full((2, 3), 2.0))
    linear.weight = nn.Parameter(torch.zeros(2, 3))
    assert torch.equal(cpu_kernels.kept(linear, doubled), torch.zeros(2, 3))


def test_copies_are_told_apart_and_the_oldest_forgotten():
    linear = nn.Linear(3, 2)
    for times in range(2 * cpu_kernels.PACKED_LIMIT):
        assert torch.equal(cpu_kernels.kept(linear, doubled, times), times * linear.weight)
    assert len(cpu_kernels.PACKED[linear]) == cpu_kernels.PACKED_LIMIT
    before = len(cpu_kernels.PACKED)
    del linear
    gc.collect()
    assert len(cpu_kernels.PACKED) == before - 1


def test_decoding_holds_no_weight_twice():
    """The layout for single rows is the parameters' own: no memory beside it, and it follows when they learn."""
    torch.manual_seed(0)
    thinker = Thinker(preset("nano").thinker_config).eval()
    ids = torch.arange(1, 9)[None]
    before = thinker(input_ids=ids).logits
    thinker.generate(input_ids=ids, max_new_tokens=3, stop_token_ids=())
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in thinker.parameters()}
    assert sum(held.values()) <= sum(4 * p.numel() for p in thinker.parameters())
    layers = cpu_kernels.PACKED[thinker.model]
    for _, packed in layers.values():
        for layer in packed:
            for weight in (layer.qkv, layer.out, layer.gate_up, layer.down):
                assert weight.untyped_storage().data_ptr() in held
    assert torch.allclose(thinker(input_ids=ids).logits, before, atol=1e-5)
    with torch.no_grad():
        for p in thinker.parameters():
            p += 0.02 * torch.randn_like(p)
    again = thinker.generate(input_ids=ids, max_new_tokens=6, stop_token_ids=())
    fresh = Thinker(preset("nano").thinker_config).eval()
    fresh.load_state_dict(thinker.state_dict())
    assert torch.equal(fresh.generate(input_ids=ids, max_new_tokens=6, stop_token_ids=()), again)
