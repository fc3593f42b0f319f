"""The thinker against the reference: every modality and mixture, padding on both sides, greedy text."""

import pytest
import torch

from omni_lab import layers, tmrope
from omni_lab.config import preset
from omni_lab.encoders import audio
from omni_lab.errors import InputError
from omni_lab.sampling import Sampling
from omni_lab.thinker import Thinker
from tests.comparison import relative
from tests.test_tmrope import lay_out, padded
from tests.thinker_reference import CONFIGS, reference, released_names

torch.set_num_threads(1)
LAYOUTS = {
    "text": [[("text", 9)]],
    "sound": [[("text", 3), ("sound", 37), ("text", 2), ("sound", 16), ("text", 4)]],
    "picture": [[("text", 3), ("picture", (1, 5, 3)), ("text", 2), ("picture", (1, 1, 4)), ("text", 1)]],
    "video": [[("clip", (3, 2, 3, 0.5)), ("text", 5)]],
    "mixture, padded": [
        [("text", 4), ("picture", (1, 2, 3)), ("sound", 50), ("text", 2), ("clip", (2, 2, 2, 1.0)), ("text", 3)],
        [("text", 7)],
        [("sound", 8), ("text", 1), ("picture", (1, 4, 1)), ("text", 1)],
    ],
    "video with sound, padded": [
        [("text", 2), ("talking clip", (5, 2, 1, 1.0), 420), ("text", 3)],
        [("talking clip", (2, 1, 3, 0.5), 33), ("picture", (1, 2, 2)), ("text", 3)],
    ],
}


def make_inputs(config, rows, left=True, seed=0):
    """Tensors of a batch laid out like `rows`, as a processor gives them, with random contents."""
    generator = torch.Generator().manual_seed(seed)
    tokens, images, videos, seconds, frames = lay_out(rows, config.vision_config.spatial_merge_size)
    ids, mask = padded(tokens, left)
    text = (ids < 90) & (mask == 1)
    ids[text] = torch.randint(0, 90, (int(text.sum()),), generator=generator)
    inputs = dict(input_ids=ids, attention_mask=mask)
    vision, sound = config.vision_config, config.audio_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    for grids, pixels, grid in (
        (images, "pixel_values", "image_grid_thw"),
        (videos, "pixel_values_videos", "video_grid_thw"),
    ):
        if grids:
            inputs[grid] = torch.tensor(grids)
            inputs[pixels] = torch.randn(int(inputs[grid].prod(1).sum()), width, generator=generator)
    if videos:
        inputs["video_second_per_grid"] = torch.tensor(seconds)
    if frames:
        inputs["input_features"] = torch.randn(len(frames), sound.num_mel_bins, max(frames), generator=generator)
        inputs["feature_attention_mask"] = (torch.arange(max(frames)) < torch.tensor(frames)[:, None]).long()
    inputs["use_audio_in_video"] = any(kind[0] == "talking clip" for row in rows for kind in row)
    return inputs


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    theirs = reference(CONFIGS[request.param])
    ours = Thinker(CONFIGS[request.param]).eval()
    ours.load_state_dict(released_names(theirs.state_dict()))
    return ours, theirs


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_logits_loss_and_states(pair, layout, left):
    ours, theirs = pair
    inputs = make_inputs(ours.config, LAYOUTS[layout], left)
    real = inputs["attention_mask"].bool()
    labels = inputs["input_ids"].masked_fill(~real, -100)
    labels[:, :2] = -100
    a = ours(**inputs, labels=labels, output_hidden_states=True)
    b = theirs(**inputs, labels=labels, output_hidden_states=True)
    assert relative(a.logits[real], b.logits[real]) < 1e-5
    assert relative(a.loss, b.loss) < 1e-5
    assert len(a.hidden_states) == len(b.hidden_states)
    for mine, other in zip(a.hidden_states, b.hidden_states, strict=True):
        assert relative(mine[real], other[real]) < 1e-5
    assert torch.equal(a.rope_deltas, theirs.model.rope_deltas)
    lean = ours(**inputs, labels=labels, logits_to_keep=0)
    assert lean.logits is None and relative(lean.loss, a.loss) < 1e-6


REPLIES = {
    "mixture": LAYOUTS["mixture, padded"],
    "video with sound": LAYOUTS["video with sound, padded"][:1],
    "text": [[("text", 5)], [("text", 1)], [("text", 11)]],
}


@pytest.mark.parametrize("penalty", [1.0, 1.3], ids=["plain", "penalty"])
@pytest.mark.parametrize("rows", REPLIES)
def test_greedy_replies_are_identical(pair, rows, penalty):
    ours, theirs = pair
    inputs = make_inputs(ours.config, REPLIES[rows])
    inputs["input_ids"][inputs["attention_mask"] == 0] = 99  # the reference penalises padding's id as well
    length = inputs["input_ids"].shape[1]
    wanted = theirs.generate(
        **inputs, max_new_tokens=12, do_sample=False, repetition_penalty=penalty, eos_token_id=[7, 8], pad_token_id=99
    )[:, length:]
    settings = Sampling(repetition_penalty=penalty)
    got = ours.generate(12, settings, stop_token_ids=(7, 8), pad_token_id=99, **inputs)
    assert torch.equal(got, wanted[:, : got.shape[1]]) and (wanted[:, got.shape[1] :] == 99).all()


def test_a_penalty_behind_embeddings_has_seen_nothing_but_the_reply():
    torch.manual_seed(0)
    model = Thinker(CONFIGS["odd heads, 3:1, untied"]).eval()
    ids = torch.randint(0, 90, (2, 7))
    embeds = model.model.embed_tokens(ids).detach()
    harsh = Sampling(repetition_penalty=1e6)
    mask = torch.ones_like(ids)
    reply = model.generate(20, harsh, inputs_embeds=embeds, attention_mask=mask)
    assert all(len(row.unique()) == 20 for row in reply)  # none twice
    assert torch.equal(reply[:, 0], model.generate(1, inputs_embeds=embeds)[:, 0])  # nothing seen, nothing penalised
    with pytest.raises(InputError, match="needs input_ids or inputs_embeds"):
        model.generate(2, harsh)


@torch.no_grad()
def test_padding_on_either_side_gives_the_same_reply(pair):
    ours, _ = pair
    left, right = (make_inputs(ours.config, LAYOUTS["mixture, padded"], side) for side in (True, False))
    for a, b in zip(left["input_ids"], right["input_ids"], strict=True):  # the same tokens, whatever the random order
        b[b != 0] = a[a != 0]
    assert torch.equal(ours.generate(10, **left), ours.generate(10, **right))


@torch.no_grad()
def test_prefill_in_pieces_equals_the_whole(pair):
    """Cut in text, between media and after 2 s of sound (8 frames a chunk in the tiny encoders: see n_window)."""
    ours, _ = pair
    chunk = 2 * ours.config.audio_config.n_window
    row = [
        ("text", 3),
        ("sound", 3 * chunk),
        ("text", 2),
        ("picture", (1, 3, 2)),
        ("text", 2),
        ("clip", (2, 2, 2, 1.0)),
    ]
    inputs = make_inputs(ours.config, [[*row, ("text", 4)]])
    whole = ours.prefill(**inputs)
    ids, media = inputs["input_ids"], dict(inputs)
    sound = int((ids == 90).nonzero()[0, 1])
    per_chunk = audio.token_count(chunk)
    picture, clip = (int((ids == token).nonzero()[-1, 1]) + 1 for token in (91, 92))
    cuts = [0, 2, sound + per_chunk, sound + 3 * per_chunk + 1, picture, clip, ids.shape[1]]
    cache, states = None, []
    for first, end in zip(cuts, cuts[1:], strict=False):
        piece = dict(input_ids=ids[:, first:end])
        if (piece["input_ids"] == 90).any():
            start = 0 if first < sound else chunk
            stop = chunk if first < sound else 3 * chunk
            piece["input_features"] = media["input_features"][:, :, start:stop]
        if (piece["input_ids"] == 91).any():
            piece |= {name: media[name] for name in ("pixel_values", "image_grid_thw")}
        if (piece["input_ids"] == 92).any():
            piece |= {n: media[n] for n in ("pixel_values_videos", "video_grid_thw", "video_second_per_grid")}
        out = ours.prefill(cache, **piece)
        cache = out.cache
        states.append(out.last_hidden_state)
    assert relative(torch.cat(states, 1), whole.last_hidden_state) < 1e-5
    assert relative(out.logits, whole.logits) < 1e-5
    assert torch.equal(out.rope_deltas, whole.rope_deltas)
    replies = [torch.stack([t.ids for t in ours.decode(start, 8)]) for start in (out, whole)]
    assert torch.equal(*replies)


@pytest.mark.parametrize("apart", [False, True], ids=["one mask", "segment by segment"])
@torch.no_grad()
def test_packed_samples_equal_separate_ones(pair, apart, monkeypatch):
    monkeypatch.setattr(layers, "apart", lambda inputs: apart)
    ours, _ = pair
    rows = LAYOUTS["mixture, padded"]
    inputs = make_inputs(ours.config, rows)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, 0] = -100
    separate = ours(**inputs)
    real = inputs["attention_mask"].bool()
    ids, _ = tmrope.position_ids(
        inputs["input_ids"],
        inputs["image_grid_thw"],
        inputs["video_grid_thw"],
        inputs["attention_mask"],
        audio_seqlens=inputs["feature_attention_mask"].sum(1),
        second_per_grids=inputs["video_second_per_grid"],
        config=ours.config,
    )
    media = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    packed = dict(
        input_ids=inputs["input_ids"][real][None],
        position_ids=ids[:, real][:, None],
        segment_ids=torch.arange(len(real))[:, None].expand_as(real)[real][None],
    )
    out = ours(**packed, **media, labels=labels[real][None])
    assert relative(out.logits[0], separate.logits[real]) < 1e-5
    # The mean over all samples' targets: none predicts the first token of the sample behind it.
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)[real]
    assert relative(out.loss, torch.nn.functional.cross_entropy(out.logits[0], shifted)) < 1e-6


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_packed_rows_on_a_cpu_pay_for_no_other_segment(pair, bf16, monkeypatch):
    """Each segment is attended to by itself: the same loss and gradients as under one mask."""
    ours, _ = pair
    ids = torch.randint(5, 60, (2, 48), generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[1] * 20 + [2] * 7 + [3] * 21, [1] * 31 + [2] * 11 + [0] * 6])
    places = torch.arange(48).expand(3, 2, 48)
    found = []
    for apart in (True, False):
        if not apart:
            monkeypatch.setattr(layers, "apart", lambda inputs: False)
        ours.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = ours(input_ids=ids, position_ids=places, segment_ids=segments, labels=ids, logits_to_keep=0)
            mask, _ = layers.attention_bias(out.hidden_states[0], None, segments, None)
        assert isinstance(mask, list) == apart
        out.loss.backward()
        found.append((out.loss.detach(), ours.model.layers[0].self_attn.q_proj.weight.grad.clone()))
    assert relative(found[0][0], found[1][0]) < (1e-3 if bf16 else 1e-6)
    assert relative(found[0][1], found[1][1]) < (0.05 if bf16 else 1e-5)
    ours.zero_grad(set_to_none=True)


def test_long_packed_rows_need_no_mask():
    """At the report's 32,768 tokens one would hold as many numbers squared; the segments' lengths say as much."""
    segments = torch.arange(4).repeat_interleave(8192)[None]
    assert layers.attention_bias(torch.empty(1, 32768, 1), None, segments, None) == ([[8192] * 4], True)


@torch.no_grad()
def test_decode_yields_what_the_talker_needs(pair):
    """Hidden state and embedding of each token but the last equal those of one pass over prompt and reply."""
    ours, _ = pair
    inputs = make_inputs(ours.config, LAYOUTS["picture"])
    start = ours.prefill(**inputs)
    tokens = list(ours.decode(start, 6))
    reply = torch.stack([token.ids for token in tokens], 1)
    whole = dict(inputs, input_ids=torch.cat((inputs["input_ids"], reply), 1), attention_mask=None)
    out = ours(**whole)
    length = inputs["input_ids"].shape[1]
    hidden = torch.stack([token.hidden for token in tokens[:-1]], 1)
    embeds = torch.stack([token.embeds for token in tokens], 1)
    assert tokens[-1].hidden is None
    assert relative(hidden, out.last_hidden_state[:, length:-1]) < 1e-5
    assert torch.equal(embeds, out.inputs_embeds[:, length:])


def test_seeds_decide_and_settings_bind(pair):
    ours, _ = pair
    inputs = make_inputs(ours.config, [[("text", 6)]] * 3)
    settings = Sampling(temperature=1.5, top_k=20, top_p=0.95, suppress=(3,))

    def reply(seed):
        return ours.generate(20, settings, generator=torch.Generator().manual_seed(seed), **inputs)

    assert torch.equal(reply(1), reply(1)) and not torch.equal(reply(1), reply(2))
    assert not (reply(1) == 3).any()
    greedy = ours.generate(5, **inputs)
    assert torch.equal(greedy, ours.generate(5, Sampling(temperature=3.0, top_k=1), **inputs))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(pixel_values=None), "image placeholders"),
        (dict(input_features=None, feature_attention_mask=None), "audio placeholders, but the audio given makes 0"),
        (dict(image_grid_thw=None), "without their grid_thw"),
        (dict(image_grid_thw=torch.tensor([[1, 4, 4]])), "grid_thw asks for"),
        (dict(labels=torch.zeros(1, 2, dtype=torch.long)), "labels are"),
        (dict(attention_mask=torch.ones(1, 2)), "attention_mask is"),
        (dict(input_ids=None), "needs input_ids"),
    ],
)
def test_bad_input_is_named(change, says):
    config = CONFIGS["odd heads, 3:1, untied"]
    inputs = make_inputs(config, [[("text", 4), ("picture", (1, 2, 3)), ("sound", 50), ("text", 3)]])
    with pytest.raises(InputError, match=says):
        Thinker(config)(**{**inputs, **change})


@pytest.mark.parametrize("name", ["input_features", "pixel_values", "pixel_values_videos"])
def test_nan_is_named(name):
    config = CONFIGS["odd heads, 3:1, untied"]
    inputs = make_inputs(config, LAYOUTS["mixture, padded"])
    inputs[name][0, 0] = float("nan")
    with pytest.raises(InputError, match=f"{name} hold NaN"):
        Thinker(config)(**inputs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_learns(checkpointing):
    config = CONFIGS["odd heads, 3:1, untied"]
    torch.manual_seed(0)
    model = Thinker(config).train()
    model.gradient_checkpointing(checkpointing)
    inputs = make_inputs(config, LAYOUTS["mixture, padded"])
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_gradients_equal_finite_differences():
    config = CONFIGS["6:2, no full layer, merge 3"]
    torch.manual_seed(0)
    model = Thinker(config).double()
    inputs = make_inputs(config, [[("text", 2), ("picture", (1, 1, 2)), ("sound", 9), ("text", 2)]])
    inputs = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs.items()}

    def loss():
        return model(**inputs, labels=inputs["input_ids"]).loss

    loss().backward()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.double)
        direction /= direction.norm()
        with torch.no_grad():
            values = []
            for step in (1e-4, -2e-4):
                parameter += step * direction
                values.append(loss().item())
            parameter += 1e-4 * direction
        slope = (values[0] - values[1]) / 2e-4
        assert abs(slope - (parameter.grad * direction).sum().item()) < 1e-7 + 1e-5 * abs(slope), name


def test_released_names():
    ours = set(Thinker(CONFIGS["odd heads, 3:1, untied"]).state_dict())
    assert ours == set(released_names(reference(CONFIGS["odd heads, 3:1, untied"]).state_dict()))


def test_sizes_of_the_released_models():
    """The report's table: 676.6 M parameters in the vision encoder; the audio encoder is Whisper large's."""
    with torch.device("meta"):
        model = Thinker(preset("qwen2_5_omni_7b").thinker_config)

    def millions(part):
        return sum(p.numel() for p in part.parameters()) / 1e6

    assert round(millions(model.visual), 1) == 676.6
    assert 8900 < millions(model) < 9000
