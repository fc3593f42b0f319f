"""The talker against the reference, where it does better, its tracks, loss, streaming, gradients, and bad input."""

import dataclasses
import itertools

import pytest
import torch

from omni_lab import talker as talkers
from omni_lab.config import preset
from omni_lab.errors import InputError
from omni_lab.sampling import Sampling
from omni_lab.talker import IGNORE, Talker

from .comparison import relative
from .talker_reference import CONFIGS, always_masked, context_of, reference_inputs, reference_logits, reference_of

torch.set_num_threads(1)

PLAIN = [3, 4, 5, 6, 7, 8, 9]
PICTURE = [3, 95, *[91] * 6, 96, 4, 5]  # a picture of 2 x 3 tokens
VIDEO = [7, 95, *[92] * 8, 96, 4, 93, *[90] * 5, 94, 2]  # a video of 2 frames of 2 x 2 tokens, then 0.2 s of sound


def media() -> dict:
    return dict(
        image_grid_thw=torch.tensor([[1, 4, 6]]),
        video_grid_thw=torch.tensor([[2, 4, 4]]),
        video_second_per_grid=torch.tensor([1.5]),
        audio_seqlens=torch.tensor([20]),
    )


def greedy(talker: Talker, penalty: float = 1.05) -> Sampling:
    return Sampling(repetition_penalty=penalty, suppress=(talker.config.tts_codec_start_token_id,))


def reply_of(talker: Talker, batch: int, length: int) -> torch.Tensor:
    return torch.randn(batch, length, talker.config.embedding_size, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module", params=CONFIGS)
def models(request):
    talker = Talker(CONFIGS[request.param])
    reference = reference_of(talker)
    always_masked(reference)
    return talker, reference


@pytest.mark.parametrize("ids", [[PLAIN], [PLAIN, PLAIN[:3]], [PICTURE, VIDEO], [VIDEO[1:], [1, *PICTURE]]])
@torch.no_grad()
def test_teacher_forced_logits_agree_with_the_reference(models, ids):
    talker, reference = models
    kinds = {} if ids[0] is PLAIN else media()
    if ids[0] != PLAIN and 92 in ids[0]:
        kinds["image_grid_thw"] = torch.tensor([[1, 4, 6]])
    context, reply = context_of(talker, ids, **kinds), reply_of(talker, len(ids), 4)
    codes = torch.randint(0, 50, (len(ids), 9), generator=torch.Generator().manual_seed(1))  # past the reply's end
    ours = talker(context, reply, codes)
    expected = reference_logits(reference, reference_inputs(talker, context, reply), codes)
    assert relative(ours.logits, expected) < 1e-5
    targets = torch.cat((codes, torch.full((len(ids), 1), talker.config.tts_codec_end_token_id)), dim=1)
    loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), targets.flatten())
    assert ours.loss.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("ids", [[PLAIN], [PLAIN, PLAIN[:2]], [PICTURE, VIDEO]])
@torch.no_grad()
def test_greedy_codes_are_the_references(models, ids):
    talker, reference = models
    context, reply = context_of(talker, ids, **(media() if ids[0] is PICTURE else {})), reply_of(talker, len(ids), 5)
    inputs = reference_inputs(talker, context, reply)
    expected = reference.generate(
        **inputs, do_sample=False, max_new_tokens=24, repetition_penalty=1.05,
        suppress_tokens=[talker.config.tts_codec_start_token_id], eos_token_id=list(talker.end_tokens),
        pad_token_id=talker.config.tts_codec_pad_token_id,
    )  # fmt: skip
    expected = expected[:, inputs["input_ids"].shape[1] :]
    ours = talker.generate(context, reply, max_new_tokens=24, sampling=greedy(talker))
    for row, reference_row in zip(ours, expected, strict=True):
        ends = torch.isin(reference_row, torch.tensor(talker.end_tokens)).nonzero()
        count = int(ends[0]) if len(ends) else 24
        assert row.tolist() == reference_row[:count].tolist()


@torch.no_grad()
def test_an_unpadded_prompt_keeps_its_specials_and_positions():
    """The reference, given no mask, forgets codec_bos, codec_pad and TMRoPE; ours gives what a padded batch gives."""
    talker = Talker(CONFIGS["three heads to one"])
    reference = reference_of(talker)
    reply = reply_of(talker, 2, 3)
    both = context_of(talker, [PICTURE, PLAIN], image_grid_thw=torch.tensor([[1, 4, 6]]))
    alone = dataclasses.replace(
        both, embeds=both.embeds[1:, 4:], input_ids=both.input_ids[1:, 4:], attention_mask=None, image_grid_thw=None
    )
    codes = torch.tensor([[1, 2, 3]])
    expected = talker(both, reply, codes.expand(2, -1)).logits[1:]
    assert torch.allclose(talker(alone, reply[1:], codes).logits, expected, atol=1e-5)
    first = reference_inputs(talker, alone, reply[1:]) | {"attention_mask": None}
    first.pop("input_ids")
    unmasked = reference(**first).logits[:, -1]
    assert (unmasked - expected[:, 0]).abs().max() > 0.1


@torch.no_grad()
def test_replies_of_different_lengths_in_one_batch():
    talker = Talker(CONFIGS["three heads to one"])
    reference_of(talker)
    context, reply = context_of(talker, [PLAIN, PLAIN[:4], PLAIN[:6]]), reply_of(talker, 3, 6)
    lengths = torch.tensor([6, 2, 0])
    batch = talker.generate(context, reply, lengths, max_new_tokens=15, sampling=greedy(talker))
    for row, count in enumerate(lengths.tolist()[:2]):
        real = slice(None) if context.attention_mask is None else context.attention_mask[row].bool()
        single = dataclasses.replace(
            context, embeds=context.embeds[row : row + 1, real], input_ids=context.input_ids[row : row + 1, real],
            attention_mask=None,
        )  # fmt: skip
        alone = talker.generate(single, reply[row : row + 1, :count], max_new_tokens=15, sampling=greedy(talker))
        assert alone[0].tolist() == batch[row].tolist() != []
    assert batch[2].tolist() == []


def test_the_text_track_ends_once_and_pads_for_ever():
    vectors = torch.arange(6.0).view(1, 3, 2)
    eos, pad = torch.tensor([-1.0, -1.0]), torch.tensor([-2.0, -2.0])
    lazy = list(itertools.islice(talkers.text_track(vectors.unbind(1), eos, pad), 6))
    padded = talkers.padded_text_track(vectors, torch.tensor([3]), eos, pad, 6)
    assert torch.equal(torch.stack([v.reshape(2) for v in lazy]), padded[0])
    assert padded[0, 3:].tolist() == [[-1, -1], [-2, -2], [-2, -2]]
    assert talkers.padded_text_track(vectors, torch.tensor([1]), eos, pad, 2).tolist() == [[[0, 1], [-1, -1]]]


def test_media_places_keep_the_hidden_state_only():
    config = CONFIGS["three heads to one"]
    ids = torch.tensor([[3, config.image_token_index, config.audio_token_index, config.video_token_index, 93]])
    hidden, embeds = torch.randn(1, 5, 4), torch.randn(1, 5, 4)
    vectors = talkers.context_vectors(hidden, embeds, ids, config)
    assert torch.equal(vectors[:, 1:4], hidden[:, 1:4])
    assert torch.equal(vectors[:, [0, 4]], (hidden + embeds)[:, [0, 4]])


@torch.no_grad()
def test_streaming_starts_on_the_first_vector_and_gives_the_same_codes():
    talker = Talker(CONFIGS["three heads to one"])
    reference_of(talker)
    context, reply = context_of(talker, [PLAIN]), reply_of(talker, 1, 6)
    taken = []

    def arriving():
        for i in range(reply.shape[1]):
            taken.append(i)
            yield reply[:, i]

    how = dict(max_new_tokens=12, sampling=greedy(talker))
    stream = talker.stream(context, arriving(), **how)
    codes = [next(stream)]
    assert taken == [0]  # one code after one vector: the rest of the text need not exist yet
    codes += [next(stream)]
    assert taken == [0, 1]
    codes += list(stream)
    assert torch.cat(codes).tolist() == talker.generate(context, reply, **how)[0].tolist()


@torch.no_grad()
def test_sampling_is_repeatable_and_never_gives_the_start_token():
    talker = Talker(CONFIGS["three heads to one"])
    reference_of(talker)
    context, reply = context_of(talker, [PLAIN, PLAIN[:5]]), reply_of(talker, 2, 3)
    runs = []
    for seed in (0, 0, 1):
        rows = talker.generate(context, reply, max_new_tokens=40, generator=torch.Generator().manual_seed(seed))
        runs.append([row.tolist() for row in rows])
    assert runs[0] == runs[1] != runs[2]
    ends = {talker.config.tts_codec_start_token_id, *talker.end_tokens}
    assert not ends & {code for run in runs for row in run for code in row}
    default = talker.default_sampling
    assert (default.top_k, default.top_p, default.temperature, default.repetition_penalty) == (40, 0.8, 0.9, 1.05)


@pytest.mark.parametrize("end", ["tts_codec_end_token_id", "tts_codec_pad_token_id"])
@torch.no_grad()
def test_pad_ends_a_reply_as_eos_does(end):
    talker = Talker(CONFIGS["three heads to one"])
    reference_of(talker)
    context, reply = context_of(talker, [PLAIN]), reply_of(talker, 1, 3)
    others = [i for i in range(talker.config.vocab_size) if i != getattr(talker.config, end)]
    only_the_end = Sampling(suppress=tuple(others))
    assert talker.generate(context, reply, sampling=only_the_end)[0].tolist() == []


def test_nothing_to_say_gives_no_codes():
    """The reference crashes when the thinker wrote a single token, which leaves no reply vector."""
    talker = Talker(CONFIGS["three heads to one"])
    context = context_of(talker, [PLAIN])
    assert list(talker.stream(context, [])) == []
    codes = talker.generate(context, reply_of(talker, 1, 0))
    assert [row.tolist() for row in codes] == [[]]


def test_targets_and_ignored_labels():
    codes = torch.tensor([[5, 6, 7], [8, IGNORE, IGNORE], [IGNORE] * 3])
    assert talkers.code_targets(codes, 54).tolist() == [[5, 6, 7, 54], [8, 54, IGNORE, IGNORE], [54] + [IGNORE] * 3]
    talker = Talker(CONFIGS["three heads to one"])
    reference_of(talker)
    context, reply = context_of(talker, [PLAIN, PLAIN[:4]]), reply_of(talker, 2, 3)
    batch = talker(context, reply, codes[:2], torch.tensor([3, 2]))
    singles = []
    for row, (count, length) in enumerate(((3, 3), (1, 2))):
        real = context.attention_mask[row].bool()
        alone = dataclasses.replace(
            context, embeds=context.embeds[row : row + 1, real], input_ids=context.input_ids[row : row + 1, real],
            attention_mask=None,
        )  # fmt: skip
        singles.append(talker(alone, reply[row : row + 1, :length], codes[row : row + 1, :count]).loss * (count + 1))
    assert batch.loss.item() == pytest.approx((sum(singles) / 6).item(), rel=1e-5)
    labels = torch.full((2, 4), IGNORE)
    labels[0, 3] = 54
    last = talker(context, reply, codes[:2], torch.tensor([3, 2]), labels)
    assert last.loss.item() == pytest.approx(-batch.logits[0, 3].log_softmax(-1)[54].item(), rel=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_and_the_thinkers_states_learn(name):
    talker = Talker(CONFIGS[name])
    context, reply = context_of(talker, [PLAIN, PLAIN[:5]]), reply_of(talker, 2, 3).requires_grad_()
    context = dataclasses.replace(context, embeds=context.embeds.requires_grad_())
    talker(context, reply, torch.randint(0, 50, (2, 8))).loss.backward()
    for parameter_name, parameter in talker.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), parameter_name
    assert context.embeds.grad[0].any() and reply.grad.any()


def test_gradients_agree_with_finite_differences():
    talker = Talker(CONFIGS["five heads each with its own"])
    reference_of(talker)
    talker.double()
    made = context_of(talker, [PLAIN[:3], PLAIN[:2]])
    made = dataclasses.replace(
        made, **{k: getattr(made, k).double() for k in ("embeds", "speaker_bos", "text_eos", "text_pad")}
    )
    reply, codes = reply_of(talker, 2, 2).double().requires_grad_(), torch.tensor([[4, 5, 6], [7, IGNORE, IGNORE]])
    names = [name for name, _ in talker.named_parameters()]

    def loss(embeds, reply, *weights):
        context = dataclasses.replace(made, embeds=embeds)
        weights = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(talker, weights, (context, reply, codes)).loss

    leaves = (made.embeds.clone().requires_grad_(), reply, *talker.parameters())
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)


def test_a_small_talker_learns_its_codes_by_heart():
    torch.manual_seed(0)
    talker = Talker(CONFIGS["three heads to one"])
    context, reply = context_of(talker, [PLAIN, PLAIN[:5]]), reply_of(talker, 2, 4)
    codes = torch.tensor([[1, 2, 3, 4, 5, 6], [9, 8, 7, IGNORE, IGNORE, IGNORE]])
    optimiser = torch.optim.Adam(talker.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = talker(context, reply, codes).loss
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05
    said = talker.generate(context, reply, max_new_tokens=20, sampling=greedy(talker, penalty=1.0))
    assert [row.tolist() for row in said] == [[1, 2, 3, 4, 5, 6], [9, 8, 7]]


def test_published_sizes_and_names():
    with torch.device("meta"):
        talker = Talker(preset("qwen2_5_omni_3b").talker_config)
    names = {name.split(".")[0] for name, _ in talker.named_parameters()}
    assert names == {"thinker_to_talker_proj", "model", "codec_head"}
    assert talker.model.embed_tokens.weight.shape == (8448, 2048)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(codes=torch.tensor([[1, 64]])), "code 64 is not in the table"),
        (dict(codes=torch.tensor([[-1, 2]])), "code -1 is not in the table"),
        (dict(codes=torch.tensor([[1.0]])), "expected whole"),
        (dict(codes=torch.tensor([1, 2])), "expected whole"),
        (dict(codes=torch.tensor([[1, IGNORE, 2]])), "must stand behind"),
        (dict(reply=torch.zeros(1, 3, 23)), "the reply is"),
        (dict(reply=torch.zeros(2, 3, 24)), "the reply is"),
        (dict(reply=torch.zeros(1, 0, 24)), "nothing to say"),
        (dict(reply_lengths=torch.tensor([4])), "do not fit"),
        (dict(labels=torch.zeros(1, 2, dtype=torch.long)), "labels are"),
    ],
)
def test_bad_input_gives_one_line(change, message):
    talker = Talker(CONFIGS["three heads to one"])
    good = dict(context=context_of(talker, [PLAIN]), reply=reply_of(talker, 1, 3), codes=torch.tensor([[1, 2]]))
    with pytest.raises(InputError, match=message) as raised:
        talker(**(good | change))
    assert "\n" not in str(raised.value)


def test_contexts_that_do_not_fit():
    talker = Talker(CONFIGS["three heads to one"])
    context = context_of(talker, [PLAIN])
    for bad in (dict(embeds=context.embeds[:, :, :-1]), dict(input_ids=context.input_ids[:, :-1])):
        with pytest.raises(InputError, match="^talker: [^\n]*$"):
            talker.prefill(dataclasses.replace(context, **bad))


def test_a_fresh_talker_hears_its_codes_beside_the_thinker() -> None:
    """Between two codes lies as much as between two words: at 0.02 it was a thirtieth."""
    torch.manual_seed(0)
    talker = Talker(preset("nano").talker_config)
    words = torch.randn(500, talker.config.embedding_size)
    codes = talker.model.embed_tokens.weight[:500]
    ratio = talker.thinker_to_talker_proj(codes).var(0).mean() / talker.thinker_to_talker_proj(words).var(0).mean()
    assert 0.3 < ratio.sqrt() < 3
