"""Copies of weights in another layout are made once, follow their weights, and do not pile up; decoders hold none."""

import copy
import gc
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.thinker import peak_bytes
from omni_lab import cpu_kernels, decoding
from omni_lab.config import preset
from omni_lab.cpu_kernels import DecoderLinear, Linear
from omni_lab.decoding import StaticStepper, Stepper
from omni_lab.layers import Attention, Decoder, KVCache, RMSNorm
from omni_lab.thinker import Thinker
from tests.comparison import relative
from tests.thinker_reference import CONFIGS

TEXT = CONFIGS["odd heads, 3:1, untied"].text_config


def doubled(linear: nn.Linear, times: int = 2) -> torch.Tensor:
    return linear.weight * times


def test_weights_made_under_inference_mode_are_packed_as_well():
    with torch.inference_mode():
        linear = torch.nn.Linear(3, 2)
    assert torch.equal(cpu_kernels.kept(linear, doubled), 2 * linear.weight)
    assert cpu_kernels.kept(linear, doubled) is cpu_kernels.kept(linear, doubled)


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


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_fused_step_makes_a_copy_anew_though_it_counts_nothing(kind):
    linear, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimiser = kind(linear.parameters(), 0.1, fused=True)
    linear(torch.ones(1, 3)).sum().backward()
    before, beside = cpu_kernels.kept(linear, doubled), cpu_kernels.kept(other, doubled)  # between backward and step
    optimiser.step()
    after = cpu_kernels.kept(linear, doubled)
    assert torch.equal(after, 2 * linear.weight) and not torch.equal(after, before)
    assert cpu_kernels.kept(other, doubled) is beside


def test_what_runs_with_gradients_is_forgotten():
    linear = nn.Linear(3, 2)
    first = cpu_kernels.kept(linear, doubled)
    with torch.no_grad():
        cpu_kernels.forget(linear)
    assert cpu_kernels.kept(linear, doubled) is first
    linear.requires_grad_(False)
    cpu_kernels.forget(linear)
    assert cpu_kernels.kept(linear, doubled) is first
    linear.requires_grad_(True)
    cpu_kernels.forget(linear)
    linear.weight.data.mul_(3)
    assert torch.equal(cpu_kernels.kept(linear, doubled), 2 * linear.weight)


def test_copies_are_told_apart_and_the_oldest_forgotten():
    linear = nn.Linear(3, 2)
    for times in range(2 * cpu_kernels.PACKED_LIMIT):
        assert torch.equal(cpu_kernels.kept(linear, doubled, times), times * linear.weight)
    assert len(cpu_kernels.PACKED[linear]) == cpu_kernels.PACKED_LIMIT
    gc.collect()  # of modules that earlier tests left behind
    before = len(cpu_kernels.PACKED)
    del linear
    gc.collect()
    assert len(cpu_kernels.PACKED) == before - 1


def test_a_decoders_weights_lie_as_their_use_wants_and_stay_the_same():
    layer = DecoderLinear(24, 40)
    parameter, values, x = layer.weight, layer.weight.detach().clone(), torch.randn(64, 24)
    expected = layer(x)
    with torch.inference_mode():  # the layout is made for later callers too
        layer.eval()
    assert layer.weight is parameter and parameter.t().is_contiguous() and not parameter.is_inference()
    assert torch.equal(parameter, values)
    for state in (copy.deepcopy(layer), layer):
        assert state.weight.t().is_contiguous() and torch.allclose(state(x), expected, atol=1e-6)
    layer.load_state_dict({name: 2 * tensor for name, tensor in layer.state_dict().items()})
    assert parameter.t().is_contiguous() and torch.equal(parameter, 2 * values)
    layer(x).square().sum().backward()  # learns in eval mode, too
    assert parameter.grad is not None and parameter.grad.abs().sum() > 0
    assert layer.to(torch.bfloat16).weight.is_contiguous()
    assert layer.to(torch.float32).weight.t().is_contiguous()
    assert layer.train().weight.is_contiguous() and layer.weight is parameter


def test_large_weights_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(DecoderLinear, "LIMIT", 100)
    assert DecoderLinear(24, 40).eval().weight.is_contiguous()


def test_joined_weights_are_one_matrix_with_the_same_values():
    layer = Attention(24, 4, 2, 8)
    parts, values = layer.members(), [p.detach().clone() for p in layer.parameters()]
    assert parts is not None and layer.joint is None
    for rows in (3, 64):  # few rows go to MKL, many to oneDNN
        x = torch.randn(rows, 24)
        expected = [part(x) for part in parts]
        layer.eval()
        joint = layer.whole(parts)
        assert joint is not None and joint.columns.shape == (24, 64) and joint.widths == (32, 16, 16)
        assert parts[1].weight.data_ptr() == joint.columns.data_ptr() + 32 * 4
        with torch.no_grad():
            together = list(layer.products(x))
        for made, alone, wanted in zip(together, (part(x) for part in parts), expected, strict=True):
            torch.testing.assert_close(made, wanted, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(alone, wanted, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(p, v) for p, v in zip(layer.parameters(), values, strict=True))
        layer.train()
        assert layer.joint is None and all(part.weight.is_contiguous() for part in parts)


def test_joined_weights_are_not_used_where_they_no_longer_hold():
    torch.manual_seed(0)
    layer, x = Attention(24, 4, 2, 8).eval(), torch.randn(2, 24)
    layer.load_state_dict({name: 2 * tensor for name, tensor in layer.state_dict().items()})
    with torch.no_grad():
        expected = [F.linear(x, part.weight, part.bias) for part in layer.members()]
        for made, wanted in zip(layer.products(x), expected, strict=True):  # written in place: still one matrix
            torch.testing.assert_close(made, wanted)
        layer.k_proj.weight.data = layer.k_proj.weight.data + 1.0
        assert layer.whole(layer.members()) is None
        torch.testing.assert_close(list(layer.products(x))[1], F.linear(x, layer.k_proj.weight, layer.k_proj.bias))
        layer.eval()
        assert layer.whole(layer.members()) is not None  # put in order again
        same = copy.deepcopy(layer)
        same.q_proj.weight.data.mul_(3.0)
        torch.testing.assert_close(list(layer.products(x))[0], F.linear(x, layer.q_proj.weight, layer.q_proj.bias))
        torch.testing.assert_close(list(same.products(x))[0], F.linear(x, same.q_proj.weight, same.q_proj.bias))
        layer.v_proj = torch.nn.Linear(24, 16)
        assert layer.members() is None and list(layer.products(x))[2].shape == (2, 16)
    layer = Attention(24, 4, 2, 8).eval()
    sum(made.sum() for made in layer.products(x)).backward()  # learns in eval mode, too
    assert all(part.weight.grad is not None for part in layer.members())
    assert layer.to(torch.bfloat16).joint is None and layer.to(torch.float32).joint is not None


def test_a_copy_of_joined_weights_is_joined_and_holds_nothing_else(tmp_path):
    layer = Attention(24, 4, 2, 8).eval()
    same = copy.deepcopy(layer)
    joint = same.whole(same.members())
    assert joint is not None and joint.columns.data_ptr() != layer.joint.columns.data_ptr()
    for ours, theirs in zip(layer.parameters(), same.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.data_ptr() != theirs.data_ptr()
    assert copy.deepcopy(layer.train()).joint is None
    torch.save(layer.eval(), tmp_path / "layer.pt")
    loaded = torch.load(tmp_path / "layer.pt", weights_only=False)
    assert loaded.whole(loaded.members()) is not None


def test_a_state_dict_is_written_into_and_in_train_mode_contiguous(tmp_path):
    layer = Attention(24, 4, 2, 8).eval()
    for tensor in layer.state_dict().values():  # as resuming does
        tensor.fill_(0.5)
    assert all(bool((p == 0.5).all()) for p in layer.parameters())
    layer.train()
    assert nn.utils.parameters_to_vector(layer.parameters()).numel() == sum(p.numel() for p in layer.parameters())
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    layer.eval().load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert layer.whole(layer.members()) is not None


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@torch.no_grad()
def test_who_listens_to_a_joined_layer_hears_it(register):
    layer, x, heard = Attention(24, 4, 2, 8).eval(), torch.randn(2, 24), []
    hook = getattr(layer.k_proj, register)(lambda *given: heard.append(given[0]))
    list(layer.products(x))
    assert layer.members() is None and heard == [layer.k_proj]
    hook.remove()
    assert layer.members() is not None
    hook = getattr(nn.modules.module, register.replace("register", "register_module"))(lambda *_: heard.append(0))
    assert layer.members() is None and cpu_kernels.listened(layer)
    hook.remove()
    assert not cpu_kernels.listened(layer)


@torch.no_grad()
def test_a_compiler_takes_the_decoder_in_one_piece():
    decoder = Decoder(TEXT).eval()
    assert decoder.layers[0].mlp.joint is not None
    torch._dynamo.reset()
    seen = torch._dynamo.explain(decoder)(torch.randn(1, 5, TEXT.hidden_size))
    torch._dynamo.reset()
    assert seen.graph_count == 1 and seen.graph_break_count == 0, seen.break_reasons


class Louder(RMSNorm):
    def forward(self, x):
        return 2 * super().forward(x)


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *given):
        return 0.5 * self.inner(*given)


def halved(module, given, made):
    return 0.5 * made


def tripled(module, given):
    return (3 * given[0], *given[1:])


CHANGES = {
    "a layer's hook": lambda d: d.layers[0].register_forward_hook(halved),
    "a layer's pre-hook": lambda d: d.layers[0].register_forward_pre_hook(tripled),
    "attention's hook": lambda d: d.layers[0].self_attn.register_forward_hook(halved),
    "the mlp's pre-hook": lambda d: d.layers[0].mlp.register_forward_pre_hook(tripled),
    "a norm's hook": lambda d: d.layers[1].input_layernorm.register_forward_hook(halved),
    "a matrix' hook": lambda d: d.layers[0].self_attn.v_proj.register_forward_hook(halved),
    "a matrix' pre-hook": lambda d: d.layers[1].mlp.down_proj.register_forward_pre_hook(tripled),
    "the last norm's hook": lambda d: d.norm.register_forward_hook(halved),
    "the last norm": lambda d: setattr(d, "norm", Louder(TEXT.hidden_size, TEXT.rms_norm_eps)),
    "a norm": lambda d: setattr(d.layers[0], "post_attention_layernorm", Louder(TEXT.hidden_size)),
    "an mlp": lambda d: setattr(d.layers[0], "mlp", Wrapped(d.layers[0].mlp)),
    "a layer": lambda d: d.layers.__setitem__(0, Wrapped(d.layers[0])),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_what_someone_replaced_or_listens_to_is_run_as_it_is(change, monkeypatch):
    torch.manual_seed(0)
    decoder, head = Decoder(TEXT).eval(), Linear(TEXT.hidden_size, 10, bias=False)
    x = torch.randn(1, 6, TEXT.hidden_size)
    before = decoder(x)
    CHANGES[change](decoder)
    whole, cache = decoder(x), KVCache(TEXT, 1, 6)
    assert relative(whole, before) > 1e-2
    decoder(x[:, :3], cache=cache)
    cache.next_position = torch.tensor([3])
    step = Stepper(decoder, head, cache)
    assert step.direct is None
    for i in range(3, 6):
        assert relative(step(x[:, i]), whole[:, i]) < 1e-5
    monkeypatch.setattr(Stepper, "__init__", lambda *_: None)
    card = SimpleNamespace(weight=SimpleNamespace(device=torch.device("cuda")))
    assert type(decoding.stepper(decoder, card, cache)) is Stepper
    assert type(decoding.stepper(Decoder(TEXT).eval(), card, cache)) is StaticStepper


def test_decoding_holds_little_beside_keys_and_values():
    """No second copy of any weight, and room for the tokens asked for alone."""
    torch.manual_seed(0)
    thinker = Thinker(preset("nano").thinker_config).eval()
    config, prompt, new = thinker.config.text_config, torch.arange(1, 65)[None], 64
    peak = peak_bytes(lambda: thinker.generate(new, input_ids=prompt), torch.device("cpu"))
    kept = 4 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * (64 + new)
    assert peak < 1.6 * kept  # the prompt's passing is the larger part of what is beside them


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("how", ["all", "causal", "masked", "bool"])
def test_attention_that_learns_in_16_bits_is_torchs(kv_heads: int, how: str) -> None:
    dice = torch.Generator().manual_seed(0)

    def heads(count: int) -> torch.Tensor:
        return torch.randn(2, count, 24, 16, generator=dice).bfloat16().float().requires_grad_()

    given, bias = (heads(4), heads(kv_heads), heads(kv_heads)), None
    if how in ("masked", "bool"):
        bias = torch.zeros(2, 1, 24, 24).masked_fill_(torch.rand(2, 1, 24, 24, generator=dice) < 0.3, -math.inf)
        bias[0, 0, 3] = -math.inf  # a place of padding, which sees nothing
        bias = bias == 0 if how == "bool" else bias
    known = F.scaled_dot_product_attention(*given, attn_mask=bias, is_causal=how == "causal", enable_gqa=kv_heads < 4)
    assert not cpu_kernels.spelled_out(given[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert cpu_kernels.spelled_out(given[0])
        ours = cpu_kernels.attention(*given, bias, how == "causal", kv_heads < 4)
    assert torch.allclose(ours.float(), known, atol=0.03)
    if bias is not None:
        assert (ours[0, :, 3] == 0).all()
    weights = torch.randn(known.shape, generator=dice)
    for a, b in zip(
        torch.autograd.grad((known * weights).sum(), given),
        torch.autograd.grad((ours * weights).sum(), given),
        strict=True,
    ):
        mine, theirs = b[a.isfinite()], a[a.isfinite()]  # torch's own gradient is NaN beside a place that sees nothing
        assert b.isfinite().all() and (mine - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("bias", [True, False])
def test_onednn_products_are_torchs(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards and all three gradients, whether or not this processor is one on which they are used."""
    torch.manual_seed(0)
    layer, x = Linear(24, 40, bias=bias), torch.randn(3, 30, 24, requires_grad=True)
    given = [x, *layer.parameters()]
    weights, found, real = torch.randn(3, 30, 40), [], cpu_kernels.onednn_product
    for leads in (False, torch.backends.mkldnn.is_available()):
        calls = []
        monkeypatch.setattr(cpu_kernels, "onednn_leads", lambda leads=leads: leads)
        monkeypatch.setattr(cpu_kernels, "onednn_product", lambda *a, calls=calls: calls.append(1) or real(*a))
        out = layer(x)
        found.append([out.detach(), *torch.autograd.grad((out * weights).sum(), given)])
        assert len(calls) == 3 * leads
    for ours, torchs in zip(*found, strict=True):
        assert relative(ours, torchs) < 1e-6


@pytest.mark.parametrize(("capability", "leads"), [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_onednn_is_used_where_it_leads(capability: str, leads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert cpu_kernels.onednn_leads.__wrapped__() == leads
