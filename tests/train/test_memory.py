"""What is counted before a run is what autograd keeps, what the matrices cost, and what a person is told."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.thinker import peak_bytes
from omni_lab.config import TextConfig, preset
from omni_lab.errors import ConfigError, InputError, OmniLabError
from omni_lab.layers import Decoder, KVCache
from omni_lab.thinker import Thinker
from omni_lab.train import loop, memory, utilisation
from omni_lab.train.recipes import find

SHAPES = {
    "square": TextConfig(200, 96, 256, 3, 6, 2, 512, mrope_section=(2, 3, 3)),
    "wide, one key head": TextConfig(300, 128, 320, 2, 4, 1, 512, mrope_section=(4, 6, 6)),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Language(torch.nn.Module):
    """Decoder and head, as the thinker has them."""

    def __init__(self, config):
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, ids):
        return self.lm_head(self.model(self.model.embed_tokens(ids)))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("checkpointed", [False, True])
def test_activations_are_what_autograd_keeps(name, checkpointed):
    config, rows, length = SHAPES[name], 2, 96
    model = Language(config).train()
    model.model.gradient_checkpointing = checkpointed
    ids = torch.randint(0, config.vocab_size, (rows, length))
    kept = memory.saved_bytes(lambda: model(ids).logsumexp(-1).sum(), model.parameters())
    counted = memory.training_memory(config, rows, length, "float32", checkpointed)
    logits = 4 * rows * length * config.vocab_size
    expected = counted.activations + logits
    assert kept == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_and_flops_are_those_of_the_real_decoder(name):
    config, rows, length = SHAPES[name], 2, 64
    model = Language(config).train()
    assert memory.decoder_parameters(config) == sum(p.numel() for p in model.parameters())
    ids = torch.randint(0, config.vocab_size, (rows, length))
    # Kernels that a CPU has for itself are no products to the counter: autocast's 16 bits take the ordinary ones.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.autocast("cpu", torch.bfloat16):
        model(ids).float().logsumexp(-1).sum().backward()
    expected = rows * length * utilisation.decoder_flops(config, length)
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_step_takes_what_is_counted(checkpointed):
    """The peak of the allocator, the loss's three tables and the optimiser's moments included."""
    config, rows, length = TextConfig(1200, 128, 512, 3, 4, 2, 512, mrope_section=(4, 6, 6)), 2, 256
    ids = torch.randint(0, config.vocab_size, (rows, length))

    def step():
        model = Language(config).train()
        model.model.gradient_checkpointing = checkpointed
        optimiser = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            optimiser.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten(), reduction="sum").backward()
            optimiser.step()

    counted = memory.training_memory(config, rows, length, "float32", checkpointed)
    assert peak_bytes(step, torch.device("cpu")) == pytest.approx(counted.peak, rel=0.1)


@pytest.mark.parametrize(("prompt", "new"), [(512, 128), (16, 700)])
def test_a_reply_takes_what_is_counted(prompt, new):
    config, rows = TextConfig(300, 128, 512, 3, 4, 2, 1024, mrope_section=(4, 6, 6)), 2

    @torch.no_grad()
    def reply():
        model = Language(config).eval()
        cache = KVCache(config, rows, prompt)
        hidden = model.model(model.model.embed_tokens(torch.zeros(rows, prompt, dtype=torch.long)), cache=cache)
        logits = model.lm_head(hidden[:, -1])
        del hidden, logits
        cache.reserve(new, spare=False)

    counted = memory.inference_memory(config, rows, prompt, new, size=4)
    assert peak_bytes(reply, torch.device("cpu")) == pytest.approx(counted.peak, rel=0.15)


def test_published_sizes():
    text = preset("qwen2_5_omni_3b").thinker_config.text_config
    assert memory.decoder_parameters(text) == pytest.approx(3.4e9, rel=0.01)
    counted = memory.training_memory(text, 1, 4096, "autocast")
    assert counted.states == 12 * memory.decoder_parameters(text)
    sharded = memory.training_memory(text, 1, 4096, "autocast", processes=8)
    assert sharded.states == pytest.approx(counted.states / 8, abs=8) and sharded.activations == counted.activations


def test_gradients_count_beside_activations_only_when_accumulated():
    config = SHAPES["square"]
    once, twice = (memory.training_memory(config, 2, 64, accumulate=n) for n in (1, 2))
    assert twice.peak - twice.gradients == twice.states + twice.copies + twice.activations + twice.logits
    assert once.peak < twice.peak


def test_what_does_not_fit_is_told_with_what_would():
    config = SHAPES["square"]
    needed = memory.training_memory(config, 4, 1024).peak
    assert memory.need_to_fit(needed, config, 4, 1024).peak == needed
    with pytest.raises(OmniLabError, match=r"4 x 1024 tokens need .* would fit: one row; .*rows of \d+ tokens"):
        memory.need_to_fit(needed // 2, config, 4, 1024)
    with pytest.raises(OmniLabError, match="more processes"):
        memory.need_to_fit(1000, config, 4, 1024)
    longest = memory.longest_that_fits(needed, lambda n: memory.training_memory(config, 4, n))
    assert longest == 1024
    with pytest.raises(ConfigError, match="precision 'int3'"):
        memory.state_bytes(1, 1, "int3")


def test_a_run_that_cannot_fit_says_so_before_it_builds_a_model(tmp_path, monkeypatch):
    def built(_):
        raise AssertionError("the model was built")

    recipe = find("language").at("smoke")
    recipe.settings = replace(recipe.settings, preset="qwen2_5_omni_7b", batch_size=4, length=32768)
    monkeypatch.setattr(type(recipe), "build", built)
    monkeypatch.setattr(loop, "free_memory", lambda here: 16 * 10**9)
    with pytest.raises(OmniLabError, match=r"4 x 32768 tokens need .* 16.0 GB are there; what would fit"):
        loop.train(recipe, tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_limits_of_a_card():
    sheet = utilisation.card("NVIDIA H200")
    text = preset("qwen2_5_omni_3b").thinker_config.text_config
    limit = utilisation.decoder_limit(text, 0, sheet.bandwidth)
    assert limit == pytest.approx(sheet.bandwidth / (2 * utilisation.matrix_parameters(text)))
    assert utilisation.decoder_limit(text, 1000, sheet.bandwidth, batch=8) < 8 * limit
    assert utilisation.attainable(1e9, sheet.flops, sheet.bandwidth) == sheet.flops
    assert utilisation.attainable(2.0, sheet.flops, sheet.bandwidth) == 2 * sheet.bandwidth
    assert utilisation.mfu(100.0, 10.0, 2000.0) == 0.5
    with pytest.raises(InputError, match="no data sheet"):
        utilisation.card("Abacus")
    assert utilisation.card("Tesla T4") == utilisation.CARDS["T4"] and utilisation.card("NVIDIA L4").memory == 24e9
    for other in ("NVIDIA L40S", "NVIDIA L40", "T400"):
        with pytest.raises(InputError, match="no data sheet"):
            utilisation.card(other)


@pytest.mark.parametrize(("name", "flops", "bandwidth", "gigabytes"), [
    ("NVIDIA H100 80GB HBM3", 989, 3350, 80),
    ("NVIDIA H100 PCIe", 756, 2000, 80),
    ("NVIDIA H100 NVL", 835, 3900, 94),
    ("NVIDIA H200", 989, 4800, 141),
    ("NVIDIA H200 NVL", 835, 4800, 141),
    ("NVIDIA A100-SXM4-40GB", 312, 1555, 40),
    ("NVIDIA A100-SXM4-80GB", 312, 2039, 80),
    ("NVIDIA A100-PCIE-40GB", 312, 1555, 40),
    ("A100-PCIE-40GB", 312, 1555, 40),
    ("NVIDIA A100 80GB PCIe", 312, 1935, 80),
])  # fmt: skip
def test_forms_of_one_card_have_data_sheets_of_their_own(name, flops, bandwidth, gigabytes):
    sheet = utilisation.card(name)
    assert (sheet.flops, sheet.bandwidth, sheet.memory) == (flops * 1e12, bandwidth * 1e9, gigabytes * 1e9)


def test_measured_roofs_are_plausible():
    device = torch.device("cpu")
    assert 1e8 < utilisation.measured_flops(device, size=128) < 1e14
    assert 1e8 < utilisation.measured_bandwidth(device, megabytes=4) < 1e13


def test_a_recipe_counts_the_weights_that_learn_their_average_and_the_encoders():
    stage = {name: find(name).at("gpu") for name in ("thinker_1", "thinker_2")}
    with torch.device("meta"):
        model = Thinker(preset("nano").thinker_config)
    counted = {name: memory.counts(model, recipe.groups(model)) for name, recipe in stage.items()}
    whole = sum(p.numel() for p in model.parameters())
    still = sum(p.numel() for p in model.model.layers.parameters())
    assert counted["thinker_2"] == {"parameters": whole, "learning": whole}
    assert counted["thinker_1"]["parameters"] == whole and counted["thinker_1"]["learning"] <= whole - still
    how = counted["thinker_1"]
    bare, kept = (memory.training_memory(SHAPES["square"], 1, 64, averaged=given, **how) for given in (False, True))
    assert kept.states == bare.states + 4 * how["learning"] and bare.average == 0


def test_frozen_weights_of_7b_need_no_moments_and_an_average_needs_room():
    """The language model is frozen in stage 1: it fits where all of it could not learn."""
    card = 141 * 10**9
    for name, fits in (("thinker_1", True), ("thinker_2", False)):
        recipe = find(name).at("gpu")
        recipe.settings = replace(recipe.settings, preset="qwen2_5_omni_7b", checkpoint_activations=True)
        if fits:
            recipe.need_to_fit(card, "autocast", 1)
        else:
            with pytest.raises(OmniLabError, match="GB are there"):
                recipe.need_to_fit(card, "autocast", 1)
