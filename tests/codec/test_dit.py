"""The DiT against the reference, its locality, sampling, gradients, streaming windows, and bad input."""

from dataclasses import replace

import pytest
import torch

from benchmarks.thinker import peak_bytes
from omni_lab.codec import dit, flow_matching, packed_dit
from omni_lab.codec.dit import DiT
from omni_lab.config import DiTConfig, preset
from omni_lab.errors import ConfigError, InputError

from ..comparison import relative
from .reference import DIT_CONFIGS, pair, reference_dit

torch.set_num_threads(1)


def case(config: DiTConfig, codes: int, batch: int = 2, dtype=torch.float32, reference: int = 30) -> dict:
    generator = torch.Generator().manual_seed(codes)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return dict(
        noisy_mel=normal(batch, codes * config.repeats, config.mel_dim),
        time=torch.rand(batch, generator=generator, dtype=dtype),
        codes=torch.randint(0, config.num_embeds + 1, (batch, codes), generator=generator),
        conditioning=normal(batch, config.enc_emb_dim),
        reference_mel=normal(batch, reference, config.mel_dim),
    )


def reference_call(model, inputs: dict, **how) -> torch.Tensor:
    frames = inputs["noisy_mel"].shape[1]
    speaker = inputs["conditioning"][:, None].repeat(1, frames, 1)
    arguments = (inputs["noisy_mel"], inputs["reference_mel"], speaker, inputs["codes"], inputs["time"])
    return model(*arguments, **how)


@pytest.fixture(scope="module", params=DIT_CONFIGS)
def models(request):
    config = DIT_CONFIGS[request.param]
    ours, reference = DiT(config), reference_dit(config)
    pair(ours, reference)
    return ours, reference


@pytest.mark.parametrize("codes", [2, 12, 31, 36])
@torch.no_grad()
def test_one_call_agrees_with_the_reference(models, codes):
    ours, reference = models
    inputs = case(ours.config, codes)
    assert relative(ours(**inputs), reference_call(reference, inputs, apply_cfg=False)) < 1e-5
    withheld = ours(**inputs, drop=torch.ones(2, dtype=torch.bool))
    expected = reference_call(reference, inputs, apply_cfg=False, drop_audio_conditioning=True, drop_code=True)
    assert relative(withheld, expected) < 1e-5


@pytest.mark.parametrize(
    "how", [{}, dict(num_steps=4, guidance_scale=0.0), dict(num_steps=5, guidance_scale=2.0, sway_coefficient=None)]
)
@torch.no_grad()
def test_sampling_agrees_with_the_reference_given_its_noise(models, how):
    ours, reference = models
    inputs = case(ours.config, 27)
    arguments = inputs["conditioning"], inputs["reference_mel"]
    torch.manual_seed(3)
    expected = reference.sample(*arguments, inputs["codes"], **how).transpose(1, 2)
    torch.manual_seed(3)
    noise = torch.randn(expected.shape)
    assert relative(ours.sample(inputs["codes"], *arguments, noise=noise, **how), expected) < 1e-5
    torch.manual_seed(3)  # left to itself it draws the same noise
    assert relative(ours.sample(inputs["codes"], *arguments, **how), expected) < 1e-5


def test_the_mask_is_the_reports_figure():
    mask = dit.sliding_window_block_mask(8, 2, look_backward=1, look_ahead=0)
    rows = ["11000000", "11000000", "11110000", "11110000", "00111100", "00111100", "00001111", "00001111"]
    assert ["".join(str(int(v)) for v in row) for row in mask] == rows
    assert dit.sliding_window_block_mask(5, 2, 1, 1).sum().item() == 4 * 2 + 5 * 2 + 3


def test_blockwise_attention_is_dense_attention_under_that_mask():
    for size, back, ahead, frames in ((4, 1, 0, 11), (3, 0, 1, 9), (5, 1, 1, 23), (4, 0, 0, 8)):
        blocks = -(-frames // size)
        real = torch.arange(blocks * size)[None] < frames
        mask = dit.neighbourhood_mask(blocks, size, back, ahead, real, torch.device("cpu"))
        dense = torch.zeros(blocks * size, blocks * size + (back + ahead) * size, dtype=torch.bool)
        for block in range(blocks):  # lay each block's window at its place in a padded row
            at = slice(block * size, (block + back + 1 + ahead) * size)
            dense[block * size : (block + 1) * size, at] = mask[0, block, 0]
        dense = dense[:frames, back * size : back * size + frames]
        assert torch.equal(dense, dit.sliding_window_block_mask(frames, size, back, ahead))


@torch.no_grad()
def test_a_code_moves_its_receptive_field_and_nothing_else():
    """Report, section 2.4: a block depends on two blocks back and one ahead; so a code in b moves b - 1 to b + 2."""
    config = DIT_CONFIGS["nano's proportions"]
    model = DiT(config)
    pair(model, reference_dit(config))
    published = preset("qwen2_5_omni_7b").token2wav_config.dit_config
    assert dit.receptive_field(config) == (2, 1) == dit.receptive_field(published)
    inputs = case(config, 12 * 8)
    before = model(**inputs)
    for block in range(8):
        codes = inputs["codes"].clone()
        codes[:, 12 * block + 5] = (codes[:, 12 * block + 5] + 1) % 30
        moved = (model(**(inputs | {"codes": codes})) != before).unflatten(1, (8, 24)).any(3).any(2).any(0)
        assert moved.nonzero().squeeze(1).tolist() == list(range(max(0, block - 1), min(8, block + 3)))


@torch.no_grad()
def test_padding_changes_nothing_in_front_of_it():
    for config in DIT_CONFIGS.values():
        model = DiT(config)
        pair(model, reference_dit(config))
        inputs = case(config, 40)
        short = {k: v[:1] for k, v in inputs.items()}
        short |= dict(codes=short["codes"][:, :17], noisy_mel=short["noisy_mel"][:, : 17 * config.repeats])
        mask = torch.ones(2, 40 * config.repeats, dtype=torch.bool)
        mask[0, 17 * config.repeats :] = False
        padded = model(**inputs, mask=mask)
        assert padded.isfinite().all()
        assert relative(padded[:1, : 17 * config.repeats], model(**short)) < 1e-5
        assert relative(padded[1:], model(**{k: v[1:] for k, v in inputs.items()})) < 1e-5


@torch.no_grad()
def test_rows_drop_their_conditions_one_by_one(models):
    ours, _ = models
    inputs = case(ours.config, 9)
    both = ours(**inputs, drop=torch.tensor([True, False]))
    assert relative(both[1], ours(**inputs)[1]) < 1e-5
    everything = ours(**inputs, drop=torch.ones(2, dtype=torch.bool))
    assert relative(both[0], everything[0]) < 1e-5
    assert relative(both[0], ours(**inputs)[0]) > 1e-2


@torch.no_grad()
def test_the_unconditional_voice_is_ecapa_of_silence_not_zeros(models):
    ours, _ = models
    inputs = case(ours.config, 3)
    voice = ours.voice(inputs["conditioning"], inputs["reference_mel"])
    embed = ours.input_embed
    of_silence = embed.spk_encoder(torch.zeros_like(inputs["reference_mel"]))
    start = ours.config.mel_dim
    expected = of_silence @ embed.proj.weight[:, start : start + ours.config.enc_dim].T + embed.proj.bias
    assert relative(voice[1, :, 0], expected) < 1e-5
    assert of_silence.abs().max() > 1e-3


@torch.no_grad()
def test_windows_of_blocks_come_close_to_the_whole_and_closer_with_more_context():
    config = DIT_CONFIGS["nano's proportions"]
    model = DiT(config)
    pair(model, reference_dit(config), spread=0.1)
    inputs = case(config, 12 * 7 + 5, batch=1)  # the last block is not full
    codes, noise = inputs["codes"], inputs["noisy_mel"]
    voice = model.voice(inputs["conditioning"], inputs["reference_mel"])
    whole = model.solve(codes, voice, noise)
    errors = []
    for past, future in ((0, 0), (None, None), (4, 3)):
        pieces = [model.sample_blocks(codes, voice, noise, first, 2, past, future) for first in range(0, 8, 2)]
        errors.append(relative(torch.cat(pieces, dim=1), whole))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3
    all_at_once = model.sample_blocks(codes, voice, noise, 0, 8, num_steps=3)
    assert torch.equal(all_at_once, model.solve(codes, voice, noise, num_steps=3))


@pytest.mark.parametrize("name", DIT_CONFIGS)
def test_every_parameter_learns_from_the_flow_matching_loss(name):
    torch.manual_seed(0)
    ours = DiT(DIT_CONFIGS[name])
    inputs = case(ours.config, 30, batch=4)

    def network(noisy, time, drop):
        return ours(noisy, time, inputs["codes"], inputs["conditioning"], inputs["reference_mel"], drop)

    mask = torch.ones(inputs["noisy_mel"].shape[:2], dtype=torch.bool)
    flow_matching.training_loss(network, inputs["noisy_mel"], mask, 0.0, torch.Generator().manual_seed(0)).backward()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_gradients_agree_with_finite_differences_through_call_and_solver():
    config = DIT_CONFIGS["one head, no neighbours, three frames a code"]
    model = DiT(config)
    pair(model, reference_dit(config))
    model.double()
    inputs = case(config, 4, dtype=torch.float64, reference=8)
    parameters = list(model.named_parameters())

    def loss(*values):
        weights = dict(zip((name for name, _ in parameters), values, strict=True))
        velocity = torch.func.functional_call(model, weights, kwargs=inputs)
        return velocity.square().mean()

    assert torch.autograd.gradcheck(loss, tuple(p for _, p in parameters), fast_mode=True, atol=1e-7)

    def sampled(noise, conditioning, reference_mel):
        return model.sample(inputs["codes"], conditioning, reference_mel, noise, num_steps=3)

    leaves = [inputs[k].clone().requires_grad_() for k in ("noisy_mel", "conditioning", "reference_mel")]
    assert torch.autograd.gradcheck(sampled, tuple(leaves), fast_mode=True)


def test_a_students_mask_is_the_one_the_network_uses(monkeypatch):
    config = DIT_CONFIGS["nano's proportions"]
    model = DiT(config)
    pair(model, reference_dit(config))
    inputs = case(config, 36)
    before = model(**inputs)
    monkeypatch.setattr(
        dit, "sliding_window_block_mask", lambda length, size, back=0, ahead=0: torch.eye(length, dtype=torch.bool)
    )
    assert relative(model(**inputs), before) > 1e-2


@torch.no_grad()
def test_it_holds_no_more_at_once_than_the_reference():
    """The copy packed for the CPU included: what attention copies, it copies once."""
    config = preset("nano").token2wav_config.dit_config
    reference, ours = reference_dit(config), DiT(config).eval()
    ours.load_state_dict(reference.state_dict())
    inputs = case(config, 100, batch=1, reference=400)
    voice, codes = (inputs["conditioning"], inputs["reference_mel"]), inputs["codes"].clamp(max=config.num_embeds - 1)
    peaks = [
        peak_bytes(lambda: ours.sample(codes, *voice, num_steps=2), torch.device("cpu")),
        peak_bytes(lambda: reference.sample(*voice, codes, num_steps=2), torch.device("cpu")),
    ]
    assert peaks[0] <= peaks[1], [f"{peak / 2**20:.1f} MB" for peak in peaks]


def test_its_packed_copy_follows_weights_that_learn():
    """By a fused optimiser, which counts no change, and by hand, behind the back of the counter."""
    torch.manual_seed(0)
    model = DiT(DIT_CONFIGS["nano's proportions"]).eval()
    inputs = case(model.config, 9, batch=1)
    how = (inputs["codes"], inputs["conditioning"], inputs["reference_mel"], inputs["noisy_mel"], 2)
    with torch.no_grad():
        before = model.sample(*how)
    for fused in (True, False):
        model.zero_grad()
        model(**inputs).square().sum().backward()
        if fused:
            torch.optim.SGD(model.parameters(), 1e-3, fused=True).step()
        else:
            for parameter in model.parameters():
                parameter.data.sub_(1e-3 * parameter.grad)
        plain = model.sample(*how).detach()  # with gradients
        model.zero_grad()
        with torch.no_grad():
            after = model.sample(*how)
        assert relative(after, plain) < 1e-5 < relative(after, before)
        before = after


@pytest.mark.parametrize("part", ["transformer_blocks.1", "transformer_blocks.0.attn.to_out.1", "proj_out", "norm_out"])
@torch.no_grad()
def test_its_packed_copy_steps_aside_for_whoever_listens(part):
    model = DiT(DIT_CONFIGS["nano's proportions"]).eval()
    inputs, heard = case(model.config, 9, batch=1), []
    how = (inputs["codes"], inputs["conditioning"], inputs["reference_mel"], inputs["noisy_mel"], 2)
    model.sample(*how)
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        assert packed_dit.packable(model, inputs["noisy_mel"])
        hook = getattr(model.get_submodule(part), register)(lambda *given: heard.append(given[0]))
        assert not packed_dit.packable(model, inputs["noisy_mel"])
        heard.clear()
        model.sample(*how)
        assert heard
        hook.remove()


@torch.no_grad()
def test_its_packed_copy_steps_aside_for_dropout():
    config = replace(DIT_CONFIGS["nano's proportions"], dropout=0.5)
    model = DiT(config)
    inputs = case(config, 9, batch=1)
    how = (inputs["codes"], inputs["conditioning"], inputs["reference_mel"], inputs["noisy_mel"], 2)
    assert torch.equal(model.eval().sample(*how), model.sample(*how))
    assert packed_dit.packable(model, inputs["noisy_mel"])
    assert not torch.equal(model.train().sample(*how), model.sample(*how))


@torch.no_grad()
def test_no_codes_give_no_frames(models):
    ours, _ = models
    inputs = case(ours.config, 0)
    mel = ours.sample(inputs["codes"], inputs["conditioning"], inputs["reference_mel"])
    assert mel.shape == (2, 0, ours.config.mel_dim)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(codes=torch.full((2, 9), 34)), "code 34 is not in the table"),
        (dict(codes=torch.full((2, 9), -1)), "code -1 is not in the table"),
        (dict(codes=torch.zeros(2, 9)), "expected whole numbers"),
        (dict(codes=torch.zeros(9, dtype=torch.long)), "expected whole numbers"),
        (dict(codes=torch.zeros(2, 20_000, dtype=torch.long)), "max_position_embeddings"),
        (dict(conditioning=torch.zeros(2, 5)), "conditioning is"),
        (dict(reference_mel=torch.zeros(2, 3, 80)), "at least 4 frames"),
        (dict(reference_mel=torch.zeros(2, 30, 79)), "reference mel is"),
        (dict(reference_mel=torch.zeros(1, 30, 80)), "batch 2"),
        (dict(noise=torch.zeros(2, 17, 80)), "for these codes"),
        (dict(num_steps=1), "num_steps is 1"),
        (dict(solver="rk45"), "unknown solver"),
    ],
)
def test_bad_input_gives_one_line(change, message):
    config = DIT_CONFIGS["nano's proportions"]
    inputs = case(config, 9)
    good = dict(codes=inputs["codes"], conditioning=inputs["conditioning"], reference_mel=inputs["reference_mel"])
    with pytest.raises(InputError, match=message) as raised:
        DiT(config).sample(**(good | change))
    assert "\n" not in str(raised.value)


def test_configurations_that_no_model_can_have():
    base = preset("nano").token2wav_config.dit_config
    impossible = dict(head_dim=15, enc_channels=(64, 64, 64, 64, 100), enc_dilations=(1, 2), enc_res2net_scale=3)
    for name, value in impossible.items():
        with pytest.raises(ConfigError):
            DiT(replace(base, **{name: value}))
