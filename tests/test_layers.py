"""Shared layers: the CPU kernels against torch's own, the cache, the masks."""

import pytest
import torch
import torch.nn.functional as F

from omni_lab import cpu_kernels, layers
from omni_lab.cpu_kernels import Linear
from omni_lab.decoding import StaticStepper, Stepper
from omni_lab.errors import InputError
from omni_lab.layers import Decoder, KVCache, RMSNorm
from tests.comparison import relative
from tests.thinker_reference import CONFIGS

TEXT = CONFIGS["odd heads, 3:1, untied"].text_config


def gradients(function, inputs, grad):
    return torch.autograd.grad(function(*inputs), inputs, grad)


def test_rms_norm_and_its_gradient():
    x = torch.randn(3, 40, 24, requires_grad=True)
    norm = RMSNorm(24, 1e-5)
    torch.nn.init.normal_(norm.weight)
    grad = torch.randn_like(x)
    ours = gradients(lambda x, w: cpu_kernels.RMSNormOnCPU.apply(x, w, 1e-5), (x, norm.weight), grad)
    theirs = gradients(lambda x, w: F.rms_norm(x, (24,), w, 1e-5), (x, norm.weight), grad)
    assert all(relative(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))
    assert relative(norm(x), F.rms_norm(x, (24,), norm.weight, 1e-5)) < 1e-6


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64, 24), (2, 50, 24), (1, 24)])
def test_linear_and_its_gradient(shape, bias):
    layer, x = Linear(24, 40, bias=bias), torch.randn(shape, requires_grad=True)
    grad = torch.randn(*shape[:-1], 40)
    inputs = (x, *layer.parameters())
    ours = torch.autograd.grad(layer(x), inputs, grad)
    theirs = torch.autograd.grad(F.linear(x, layer.weight, layer.bias), inputs, grad)
    assert all(relative(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))


def test_rotary_turns_by_the_angle_and_keeps_lengths():
    ids = torch.tensor([5, 7, 11]).view(3, 1, 1)
    cos, sin = layers.rotary_tables(ids, 16, 100.0, (2, 3, 3), torch.float64)
    x = torch.randn(1, 1, 1, 16, dtype=torch.float64)
    turned = layers.apply_rotary(x, cos, sin).flatten()
    assert torch.isclose(turned.norm(), x.norm())
    angle = torch.tensor([5, 5, 7, 7, 7, 11, 11, 11]) * layers.inverse_frequencies(16, 100.0, torch.device("cpu"))
    pairs = torch.complex(*x.flatten().view(2, 8)) * torch.polar(torch.ones(8), angle)
    assert torch.allclose(torch.complex(*turned.view(2, 8)), pairs, atol=1e-6)


def test_padding_on_the_right_costs_nothing_and_changes_nothing(monkeypatch):
    """Real tokens, states of all layers and gradients are those of a pass over everything; padding is zeros."""
    torch.manual_seed(0)
    decoder, real = Decoder(TEXT).train(), torch.arange(20) < torch.tensor([20, 3, 0, 11])[:, None]
    x, grad = torch.randn(4, 20, TEXT.hidden_size, requires_grad=True), torch.randn(4, 20, TEXT.hidden_size)
    positions = torch.randint(0, 50, (3, 4, 20)).sort(-1).values
    seen, run = [], Decoder.run
    monkeypatch.setattr(Decoder, "run", lambda self, h, *rest: seen.append(h.shape[:2].numel()) or run(self, h, *rest))

    def outcome():
        states, leaves = [], (x, *decoder.layers.parameters())
        last = decoder(x, positions, real.long(), collect=states)
        return last, states, torch.autograd.grad(last[real], leaves, grad[real])

    last, states, grads = outcome()
    monkeypatch.setattr(layers, "without_padding", lambda *_: None)
    all_of_it = outcome()
    assert seen == [34, 80]
    assert last is states[-1] and not last[~real].any() and len(states) == len(all_of_it[1])
    for ours, theirs in zip(states, all_of_it[1], strict=True):
        assert relative(ours[real], theirs[real]) < 1e-5
    for ours, theirs in zip(grads, all_of_it[2], strict=True):
        assert relative(ours, theirs) < 1e-5


def test_padding_on_the_left_stays():
    x, right = torch.zeros(2, 4, 3), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    assert torch.equal(layers.without_padding(x, right), right.bool())
    holes = torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1]])
    for mask in (right.flip(1), holes, None, torch.ones(2, 4), torch.zeros(2, 4), torch.ones(2, 6)):
        assert layers.without_padding(x, mask) is None


@torch.no_grad()
def test_a_cache_that_grows_changes_nothing():
    torch.manual_seed(0)
    decoder, x = Decoder(TEXT), torch.randn(2, 30, TEXT.hidden_size)
    cache = KVCache(TEXT, 2, 1)
    pieces = [decoder(piece, cache=cache) for piece in x.split((1, 7, 1, 21), dim=1)]
    assert relative(torch.cat(pieces, 1), decoder(x)) < 1e-5
    assert cache.length == 30 and cache.tokens().tolist() == [30, 30]
    cache.crop(8)
    assert relative(decoder(x[:, 8:12], cache=cache), decoder(x)[:, 8:12]) < 1e-5


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_stepping_equals_one_pass(padded, monkeypatch):
    for kind in (Stepper, StaticStepper):
        monkeypatch.setattr(kind, "BLOCK", 4)  # several blocks in a short test
    torch.manual_seed(0)
    decoder, head = Decoder(TEXT).eval(), Linear(TEXT.hidden_size, 10, bias=False)
    x = torch.randn(2, 20, TEXT.hidden_size)
    mask = torch.ones(2, 20, dtype=torch.long)
    if padded:
        mask[0, :3] = 0
    places = (mask.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)
    whole = decoder(x, places, mask)
    for way in ("direct", "plain", "static"):
        cache = KVCache(TEXT, 2, 9)
        decoder(x[:, :9], places[..., :9], mask[:, :9], cache=cache)
        cache.next_position = places[0, :, 9]
        stepper = (StaticStepper if way == "static" else Stepper)(decoder, head, cache)
        assert stepper.direct is not None
        stepper.direct = stepper.direct if way == "direct" else None
        for i in range(9, 20):
            hidden = stepper(x[:, i])
            assert relative(hidden, whole[:, i]) < 1e-5
            assert relative(stepper.logits(hidden), head(hidden)) < 1e-5


@torch.no_grad()
def test_positions_may_jump_between_steps():
    torch.manual_seed(0)
    decoder, head = Decoder(TEXT).eval(), Linear(TEXT.hidden_size, 10, bias=False)
    x, places = torch.randn(2, 12, TEXT.hidden_size), torch.tensor([*range(10), 14, 15]).expand(3, 2, -1)
    whole, cache = decoder(x, places), KVCache(TEXT, 2, 9)
    decoder(x[:, :9], places[..., :9], cache=cache)
    cache.next_position = places[0, :, 9]
    stepper = Stepper(decoder, head, cache)
    for i in range(9, 12):
        stepper.jump(places[0, :, i])
        assert relative(stepper(x[:, i]), whole[:, i]) < 1e-5
    assert cache.next_start.tolist() == [16, 16]


def test_layers_that_someone_replaced_are_run_as_they_are():
    decoder, head = Decoder(TEXT).eval(), Linear(TEXT.hidden_size, 10, bias=False)
    decoder.layers[0].mlp.up_proj = torch.nn.Sequential(decoder.layers[0].mlp.up_proj)
    cache = KVCache(TEXT, 1, 4)
    with pytest.raises(InputError, match="needs a prompt"):
        Stepper(decoder, head, cache)
    cache.next_position = torch.tensor([0])
    assert Stepper(decoder, head, cache).direct is None


def test_masks_are_built_only_where_needed(monkeypatch):
    x = torch.zeros(2, 4, 8)
    right, left = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert layers.attention_bias(x, None, None, None) == (None, True)
    assert layers.attention_bias(x, right, None, None) == (None, True)
    bias, causal = layers.attention_bias(x, left, None, None)
    assert not causal and (bias[0, 0, 3] == 0).tolist() == [False, False, True, True]
    packed = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
    assert layers.attention_bias(x, None, packed, None) == ([[2, 2], [4]], True)
    monkeypatch.setattr(layers, "apart", lambda inputs: False)
    bias, _ = layers.attention_bias(x, None, packed, None)
    assert (bias[0, 0, 3] == 0).tolist() == [False, False, True, True]
    with pytest.raises(InputError, match="segment_ids"):
        layers.attention_bias(x, None, torch.zeros(1, 4), None)
