"""Cases, wrong answers and other right answers of lab 05."""

import math

import torch
import torch.nn.functional as F

from omni_lab.lab.authoring import Case, Exercise, also_right, cases, wrong

IGNORE = -100

EXERCISES = [
    Exercise(
        "sampling.distribution", "5.1", "Temperature", points=8, difficulty=1, minutes=6,
        hints=(
            "Which temperature must leave the softmax as it is? Then do you multiply by it, or divide?",
            "`if temperature == 0:` all chance goes to `logits.argmax(dim=-1)`: `F.one_hot(...).to(logits.dtype)`.",
        ),
    ),
    Exercise(
        "sampling.repetition_penalty", "5.2", "Repetition penalty", points=10, difficulty=2, minutes=8,
        target="omni_lab.sampling:repetition_penalty",
        hints=(
            "A logit of -3 divided by 2 is -1.5. Has the token become less likely?",
            "`penalised = torch.where(logits > 0, logits / penalty, logits * penalty)`",
        ),
    ),
    Exercise(
        "sampling.top_k_filter", "5.3", "Top-k", points=10, difficulty=1, minutes=8,
        target="omni_lab.sampling:top_k_filter",
        hints=(
            "If you know the k-th largest logit of a row, which tokens go?",
            "`smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]`, of shape (batch, 1).",
        ),
    ),
    Exercise(
        "sampling.top_p_filter", "5.4", "Top-p", points=14, difficulty=3, minutes=20,
        target="omni_lab.sampling:top_p_filter",
        hints=(
            "Sort the tokens from the likeliest down. A token stays if what stands *before* it sums to what?",
            "`ordered, places = logits.sort(dim=-1, descending=True)`; then softmax, and cumsum minus itself.",
        ),
    ),
    Exercise(
        "talker.thinker_vectors", "5.5", "Meaning and word", points=10, difficulty=1, minutes=8,
        target="omni_lab.talker:thinker_vectors",
        hints=(
            "At a picture's place, which of the two must not be there?",
            "`words = inputs_embeds.masked_fill(is_media.unsqueeze(-1), 0)`",
        ),
    ),
    Exercise(
        "talker.padded_text_track", "5.6", "The text track", points=14, difficulty=3, minutes=20,
        target="omni_lab.talker:padded_text_track",
        hints=(
            "For row i, which places hold reply vectors, which one holds text_eos, and which hold text_pad?",
            "`place = torch.arange(steps, device=reply.device)[None, :, None]`, to be compared with `lengths[:, None, "
            "None]`.",
        ),
    ),
    Exercise(
        "talker.talker_inputs", "5.7", "Both tracks", points=10, difficulty=2, minutes=10,
        target="omni_lab.talker:talker_inputs",
        hints=(
            "How many positions does the talker see, if the two tracks stand on top of each other?",
            "`opening = (speaker_bos + codec_pad).expand(context.shape[0], -1).unsqueeze(1)`",
        ),
    ),
    Exercise(
        "talker.code_targets", "5.8", "What each place predicts", points=10, difficulty=2, minutes=12,
        target="omni_lab.talker:code_targets",
        hints=(
            "The place that has been given the last code: what is it to predict?",
            "`targets = F.pad(codes, (0, 1), value=IGNORE)`; the end of row i stands at the number of its codes.",
        ),
    ),
    Exercise(
        "talker.delay_pattern", "5.9", "Delayed pattern", points=7, difficulty=2, minutes=12,
        hints=(
            "If the last row starts books - 1 steps late, how many steps does the whole take?",
            "`out = codes.new_full((books, n + books - 1), pad)`",
        ),
    ),
    Exercise(
        "talker.interleave", "5.10", "Interleaved pattern", points=7, difficulty=2, minutes=12,
        hints=(
            "What is left when the text has ended and codes have not?",
            "`rounds = max(ceil(n / text_chunk), ceil(m / code_chunk))`; a slice beyond the end is empty.",
        ),
    ),
]  # fmt: skip


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape)).float()


# 5.1


@cases("sampling.distribution")
def _(rng):
    vocab = int(rng.integers(5, 12))
    logits = 2 * draw(rng, 3, vocab)
    return [
        Case("temperature 1", logits=logits, temperature=1.0),
        Case("cool", logits=draw(rng, 2, vocab), temperature=0.4),
        Case("hot", logits=2 * draw(rng, 4, vocab), temperature=2.5),
        Case("greedy", logits=draw(rng, 3, vocab), temperature=0.0),
        Case("one row", logits=3 * draw(rng, 1, vocab + 2), temperature=float(rng.uniform(0.5, 0.9))),
        Case("negative logits", logits=logits - 20, temperature=0.7),
    ]


def _greedy(logits):
    return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()


@wrong("sampling.distribution", "You multiplied by the temperature: a low one must make the choice surer, so divide.")
def multiplied(logits, temperature):
    return (logits * temperature).softmax(-1) if temperature else _greedy(logits)


@wrong("sampling.distribution", "The temperature is not used.")
def not_used(logits, temperature):
    return logits.softmax(-1) if temperature else _greedy(logits)


@wrong("sampling.distribution", "Temperature 0 means greedy: all chance on the largest logit, none elsewhere.")
def zero_is_one(logits, temperature):
    return (logits / (temperature or 1.0)).softmax(-1)


@wrong("sampling.distribution", "Divide the logits, before the softmax: chances divided afterwards do not sum to 1.")
def after_softmax(logits, temperature):
    return logits.softmax(-1) / temperature if temperature else _greedy(logits)


@wrong("sampling.distribution", "The softmax runs over the vocabulary, along a row: yours runs over the batch.")
def over_the_batch(logits, temperature):
    return (logits / temperature).softmax(0) if temperature else _greedy(logits)


@wrong("sampling.distribution", "Those are log-probabilities; chances were asked for.")
def logarithms(logits, temperature):
    return (logits / temperature).log_softmax(-1) if temperature else _greedy(logits)


@wrong("sampling.distribution", "The temperature counts once, not squared.")
def squared(logits, temperature):
    return (logits / temperature**2).softmax(-1) if temperature else _greedy(logits)


@also_right("sampling.distribution")
def by_logsumexp(logits, temperature):
    if temperature == 0:
        return (logits == logits.amax(-1, keepdim=True)).float()
    scaled = logits.double() / temperature
    return (scaled - scaled.logsumexp(-1, keepdim=True)).exp().float()


# 5.2


@cases("sampling.repetition_penalty")
def _(rng):
    vocab = int(rng.integers(6, 12))

    def case(name, batch, penalty, share=0.5):
        seen = torch.from_numpy(rng.random((batch, vocab)) < share)
        seen[:, 0], seen[:, 1], seen[:, 2], seen[:, 3] = True, True, False, False
        logits = 2 * draw(rng, batch, vocab).abs() + 0.1
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=(batch, vocab))).float()
        signs[:, 0], signs[:, 1], signs[:, 2], signs[:, 3] = 1, -1, 1, -1  # both signs, seen and not
        return Case(name, logits=logits * signs, seen=seen, penalty=penalty)

    return [
        case("half of the tokens seen", 2, 1.3),
        case("the talker's penalty", 3, 1.05),
        case("a strong penalty", 1, 3.0),
        case("few seen", 2, 1.5, share=0.1),
        case("nearly all seen", 2, 1.2, share=0.9),
        case("a reward", 2, 0.8),
    ]


@wrong("sampling.repetition_penalty", "Dividing a negative logit brings it closer to 0, so likelier: multiply those.")
def divide_all(logits, seen, penalty):
    return torch.where(seen, logits / penalty, logits)


@wrong("sampling.repetition_penalty", "Multiplying a positive logit makes its token likelier: divide those.")
def multiply_all(logits, seen, penalty):
    return torch.where(seen, logits * penalty, logits)


@wrong("sampling.repetition_penalty", "The other way round: positive logits are divided, negative ones multiplied.")
def reversed_signs(logits, seen, penalty):
    return torch.where(seen, torch.where(logits > 0, logits * penalty, logits / penalty), logits)


@wrong("sampling.repetition_penalty", "You punished the tokens that have not been seen.")
def unseen(logits, seen, penalty):
    return torch.where(seen, logits, torch.where(logits > 0, logits / penalty, logits * penalty))


@wrong("sampling.repetition_penalty", "Only tokens seen before are punished: `seen` is not used.")
def everywhere(logits, seen, penalty):
    return torch.where(logits > 0, logits / penalty, logits * penalty)


@wrong("sampling.repetition_penalty", "This penalty divides or multiplies; subtracting it is another method.")
def subtracted(logits, seen, penalty):
    return torch.where(seen, logits - penalty, logits)


@wrong("sampling.repetition_penalty", "A token seen before may be said again: it becomes less likely, not impossible.")
def forbidden(logits, seen, penalty):
    return logits.masked_fill(seen, -math.inf)


@also_right("sampling.repetition_penalty")
def by_powers(logits, seen, penalty):
    factor = torch.where(logits > 0, torch.full_like(logits, 1 / penalty), torch.full_like(logits, penalty))
    return logits * factor.where(seen, torch.ones_like(factor))


@also_right("sampling.repetition_penalty")
def on_a_copy(logits, seen, penalty):
    out = logits.clone()
    out[seen & (logits > 0)] /= penalty
    out[seen & (logits <= 0)] *= penalty
    return out


# 5.3


@cases("sampling.top_k_filter")
def _(rng):
    vocab = int(rng.integers(7, 14))
    tied = draw(rng, 2, vocab)
    top = tied.amax(-1, keepdim=True)
    tied[:, [1, 3, 4]] = top + 1  # three share the first place
    far = draw(rng, 3, vocab) + torch.tensor([[0.0], [20.0], [-20.0]])
    return [
        Case("three of them", logits=draw(rng, 2, vocab), k=3),
        Case("one", logits=draw(rng, 3, vocab), k=1),
        Case("rows of different height", logits=far, k=2),
        Case("more than there are", logits=draw(rng, 2, vocab), k=vocab + 5),
        Case("a tie at the last place", logits=tied, k=2),
        Case("all but one", logits=draw(rng, 2, vocab), k=vocab - 1),
    ]


def _kth(logits, k):
    return logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]


@wrong("sampling.top_k_filter", "The k-th itself must stay: compare with <, not with <=.")
def kth_dropped(logits, k):
    return logits.masked_fill(logits <= _kth(logits, k), -math.inf)


@wrong("sampling.top_k_filter", "You kept the k least likely tokens.")
def smallest_kept(logits, k):
    return logits.masked_fill(logits > -_kth(-logits, k), -math.inf)


@wrong("sampling.top_k_filter", "A logit of 0 is a fair chance: what goes must become -inf.")
def filled_with_zero(logits, k):
    return logits.masked_fill(logits < _kth(logits, k), 0.0)


@wrong("sampling.top_k_filter", "Each row has its own k best: yours are the k best of the whole batch.")
def over_the_batch_k(logits, k):
    flat = logits.flatten()
    return logits.masked_fill(logits < flat.topk(min(k, len(flat))).values[-1], -math.inf)


@wrong("sampling.top_k_filter", "Where k is larger than the vocabulary everything stays: take min(k, vocab).")
def no_minimum(logits, k):
    return logits.masked_fill(logits < logits.topk(k, dim=-1).values[:, -1:], -math.inf)


@wrong("sampling.top_k_filter", "What equals the k-th stays too: you dropped some of the tied tokens.")
def ties_dropped(logits, k):
    places = logits.topk(min(k, logits.shape[-1]), dim=-1).indices
    return torch.full_like(logits, -math.inf).scatter(1, places, logits.gather(1, places))


@wrong("sampling.top_k_filter", "Filtered logits were asked for, not probabilities.")
def probabilities(logits, k):
    return logits.masked_fill(logits < _kth(logits, k), -math.inf).softmax(-1)


@also_right("sampling.top_k_filter")
def by_sorting(logits, k):
    bar = logits.sort(dim=-1, descending=True).values[:, min(k, logits.shape[-1]) - 1]
    return torch.where(logits >= bar[:, None], logits, torch.tensor(-math.inf))


@also_right("sampling.top_k_filter")
def by_counting(logits, k):
    above = (logits[:, None, :] > logits[:, :, None]).sum(-1)  # how many beat each token
    return logits.masked_fill(above >= k, -math.inf)


# 5.4


@cases("sampling.top_p_filter")
def _(rng):
    def rows(*chances):
        """Logits of given chances in a random order, with an offset that the softmax takes away again."""
        made = []
        for each in chances:
            shares = torch.tensor(each)[torch.from_numpy(rng.permutation(len(each)))]
            made.append((shares / shares.sum()).log() + float(rng.uniform(-3, 3)))
        return torch.stack(made)

    steep = (0.5, 0.22, 0.13, 0.08, 0.04, 0.03)
    sure = (0.9, 0.04, 0.03, 0.015, 0.01, 0.005)
    even = (0.2, 0.18, 0.17, 0.16, 0.15, 0.14)
    return [
        Case("the talker's p", logits=rows(steep, even), p=0.8),
        Case("one token is enough", logits=rows(sure, sure), p=0.7),
        Case("nearly all", logits=rows(steep, even, sure), p=0.95),
        Case("a small p", logits=rows(even, steep), p=0.25),
        Case("different rows", logits=rows(steep, even, sure), p=0.6),
        Case("one row", logits=rows(even), p=0.5),
    ]


def _sorted(logits):
    ordered, places = logits.sort(dim=-1, descending=True)
    return ordered, places, ordered.softmax(-1)


def _drop(logits, places, drop, fill=-math.inf):
    return logits.masked_fill(torch.zeros_like(drop).scatter(1, places, drop), fill)


@wrong("sampling.top_p_filter", "The token that carries the sum past p belongs to the set: yours is one too few.")
def crossing_dropped(logits, p):
    _, places, chances = _sorted(logits)
    drop = chances.cumsum(-1) > p
    drop[:, 0] = False
    return _drop(logits, places, drop)


@wrong("sampling.top_p_filter", "A row must never be empty: the likeliest token stays even if it alone exceeds p.")
def empty_rows(logits, p):
    _, places, chances = _sorted(logits)
    return _drop(logits, places, chances.cumsum(-1) > p)


@wrong("sampling.top_p_filter", "Sum from the likeliest token down: you summed in the order of the vocabulary.")
def unsorted(logits, p):
    chances = logits.softmax(-1)
    return logits.masked_fill(chances.cumsum(-1) - chances >= p, -math.inf)


@wrong("sampling.top_p_filter", "The kept logits must return to their own places: undo the sorting (scatter).")
def left_sorted(logits, p):
    ordered, _, chances = _sorted(logits)
    return ordered.masked_fill(chances.cumsum(-1) - chances >= p, -math.inf)


@wrong("sampling.top_p_filter", "A logit of 0 is a fair chance: what goes must become -inf.")
def zero_fill(logits, p):
    _, places, chances = _sorted(logits)
    return _drop(logits, places, chances.cumsum(-1) - chances >= p, 0.0)


@wrong("sampling.top_p_filter", "That keeps every token whose own chance is at least p: sum them up, likeliest first.")
def single_chances(logits, p):
    chances = logits.softmax(-1)
    return logits.masked_fill((chances < p) & (chances < chances.amax(-1, keepdim=True)), -math.inf)


@wrong("sampling.top_p_filter", "One token too many: a token goes as soon as those before it reach p.")
def one_too_many(logits, p):
    _, places, chances = _sorted(logits)
    before = chances.cumsum(-1) - chances
    return _drop(logits, places, F.pad(before, (1, 0))[:, :-1] >= p)


@also_right("sampling.top_p_filter")
def from_the_top(logits, p):
    _, places, chances = _sorted(logits.double())
    return _drop(logits, places, chances.cumsum(-1) - chances >= p)


@also_right("sampling.top_p_filter")
def without_sorting(logits, p):
    chances = logits.softmax(-1)
    likelier = chances[:, None, :] > chances[:, :, None]  # (batch, token, others)
    before = (chances[:, None, :] * likelier).sum(-1)
    return logits.masked_fill(before >= p, -math.inf)


# 5.5


@cases("talker.thinker_vectors")
def _(rng):
    dim = int(rng.integers(3, 7))

    def case(name, batch, length, share):
        is_media = torch.from_numpy(rng.random((batch, length)) < share)
        if 0 < share < 1:
            is_media[:, 0], is_media[:, 1] = True, False
        return Case(
            name, hidden_states=draw(rng, batch, length, dim), inputs_embeds=draw(rng, batch, length, dim),
            is_media=is_media,
        )  # fmt: skip

    return [
        case("words and a picture", 1, 6, 0.5),
        case("words alone", 2, 4, 0.0),
        case("sound alone", 1, 5, 1.0),
        case("two rows with media in different places", 2, 7, 0.4),
        case("much media", 3, 8, 0.8),
        case("as long as wide", 1, dim, 0.5),
    ]


@wrong("talker.thinker_vectors", "At media places the embedding is left out: a sound's features are no word to say.")
def media_kept(hidden_states, inputs_embeds, is_media):
    return hidden_states + inputs_embeds


@wrong("talker.thinker_vectors", "At media places the embedding goes, but the hidden state stays: you dropped both.")
def both_dropped(hidden_states, inputs_embeds, is_media):
    return (hidden_states + inputs_embeds).masked_fill(is_media[..., None], 0)


@wrong("talker.thinker_vectors", "The mask is the wrong way round: words have an embedding, media have none.")
def inverted(hidden_states, inputs_embeds, is_media):
    return hidden_states + inputs_embeds * is_media[..., None]


@wrong("talker.thinker_vectors", "At media places it is the hidden state that stays, and the embedding that goes.")
def hidden_dropped(hidden_states, inputs_embeds, is_media):
    return inputs_embeds + hidden_states.masked_fill(is_media[..., None], 0)


@wrong("talker.thinker_vectors", "Hidden states alone do not say which word it is: add the embeddings.")
def hidden_alone(hidden_states, inputs_embeds, is_media):
    return hidden_states.clone()


@wrong("talker.thinker_vectors", "Embeddings alone do not say how it is meant: add the hidden states.")
def words_alone(hidden_states, inputs_embeds, is_media):
    return inputs_embeds.masked_fill(is_media[..., None], 0)


@wrong("talker.thinker_vectors", "The two are added, so the width stays: you put them side by side.")
def side_by_side(hidden_states, inputs_embeds, is_media):
    return torch.cat([hidden_states, inputs_embeds.masked_fill(is_media[..., None], 0)], dim=-1)


@wrong("talker.thinker_vectors", "The sum was asked for, not the mean.")
def mean(hidden_states, inputs_embeds, is_media):
    return (hidden_states + inputs_embeds.masked_fill(is_media[..., None], 0)) / 2


@also_right("talker.thinker_vectors")
def by_where(hidden_states, inputs_embeds, is_media):
    return torch.where(is_media[..., None], hidden_states, hidden_states + inputs_embeds)


@also_right("talker.thinker_vectors")
def by_product(hidden_states, inputs_embeds, is_media):
    return (hidden_states.double() + inputs_embeds.double() * (~is_media)[..., None]).float()


# 5.6


@cases("talker.padded_text_track")
def _(rng):
    dim = int(rng.integers(2, 5))

    def case(name, lengths, steps, longest=None):
        return Case(
            name, reply=draw(rng, len(lengths), longest or max(lengths), dim), lengths=torch.tensor(lengths),
            text_eos=draw(rng, dim), text_pad=draw(rng, dim), steps=steps,
        )  # fmt: skip

    more = int(rng.integers(3, 7))
    return [
        case("one reply", [3], 3 + more),
        case("replies of different lengths", [4, 2, 3], 4 + more),
        case("fewer steps than reply vectors", [6, 3], 4),
        case("the end on the last step", [4, 2], 5),
        case("one vector each", [1, 1], 1 + more),
        case("room behind the longest reply", [2, 3], 3 + more, 5),
    ]


def _track(reply, lengths, eos, pad, steps):
    reply = F.pad(reply, (0, 0, 0, max(0, steps - reply.shape[1])))[:, :steps]
    place, end = torch.arange(steps)[None, :, None], lengths[:, None, None]
    return torch.where(place < end, reply, torch.where(place == end, eos, pad))


@wrong("talker.padded_text_track", "text_eos comes once; after it stands text_pad.")
def eos_for_ever(reply, lengths, text_eos, text_pad, steps):
    return _track(reply, lengths, text_eos, text_eos, steps)


@wrong("talker.padded_text_track", "text_eos is missing: the talker must be told once that the text has ended.")
def no_eos(reply, lengths, text_eos, text_pad, steps):
    return _track(reply, lengths, text_pad, text_pad, steps)


@wrong("talker.padded_text_track", "text_eos stands behind the last reply vector: yours has replaced it.")
def eos_too_early(reply, lengths, text_eos, text_pad, steps):
    return _track(reply, lengths - 1, text_eos, text_pad, steps)


@wrong("talker.padded_text_track", "Each row ends at its own length: yours all end where the longest does.")
def one_length(reply, lengths, text_eos, text_pad, steps):
    return _track(reply, torch.full_like(lengths, reply.shape[1]), text_eos, text_pad, steps)


@wrong("talker.padded_text_track", "text_eos and text_pad are exchanged.")
def exchanged(reply, lengths, text_eos, text_pad, steps):
    return _track(reply, lengths, text_pad, text_eos, steps)


@wrong("talker.padded_text_track", "Behind text_eos stands text_pad, an embedding of its own, not zeros.")
def zeros_behind(reply, lengths, text_eos, text_pad, steps):
    return _track(reply, lengths, text_eos, torch.zeros_like(text_pad), steps)


@wrong("talker.padded_text_track", "text_eos is one step late: it stands at place `length`, counted from 0.")
def eos_too_late(reply, lengths, text_eos, text_pad, steps):
    place = torch.arange(steps)[None, :, None]
    out = _track(reply, lengths, text_pad, text_pad, steps)
    return torch.where(place == lengths[:, None, None] + 1, text_eos, out)


@also_right("talker.padded_text_track")
def row_by_row(reply, lengths, text_eos, text_pad, steps):
    rows = []
    for vectors, length in zip(reply, lengths.tolist(), strict=True):
        row = [*vectors[:length], text_eos] + [text_pad] * steps
        rows.append(torch.stack(row[:steps]))
    return torch.stack(rows)


# 5.7


@cases("talker.talker_inputs")
def _(rng):
    dim = int(rng.integers(3, 7))

    def case(name, batch, length, steps, voices=1):
        return Case(
            name, context=draw(rng, batch, length, dim), speaker_bos=draw(rng, voices, dim),
            text=draw(rng, batch, steps, dim), codes=draw(rng, batch, steps, dim), codec_pad=draw(rng, dim),
        )  # fmt: skip

    return [
        case("one row", 1, 4, 5),
        case("one voice for all rows", 3, 3, 4),
        case("a voice for each row", 2, 5, 3, voices=2),
        case("one step", 2, 4, 1),
        case("a long reply", 1, 2, int(rng.integers(8, 14))),
        case("a context of one token", 2, 1, 4),
    ]


def _opening(context, speaker_bos, codec_pad):
    return (speaker_bos + codec_pad).expand(len(context), -1)[:, None]


@wrong("talker.talker_inputs", "The tracks stand on top of each other: add them, do not put one after the other.")
def one_after_the_other(context, speaker_bos, text, codes, codec_pad):
    return torch.cat([context, _opening(context, speaker_bos, codec_pad), text, codes], dim=1)


@wrong("talker.talker_inputs", "The speaker's position is missing between the context and the tracks.")
def no_speaker(context, speaker_bos, text, codes, codec_pad):
    return torch.cat([context, text + codes], dim=1)


@wrong("talker.talker_inputs", "At the speaker's position the code track holds codec_pad: add it.")
def no_codec_pad(context, speaker_bos, text, codes, codec_pad):
    return torch.cat([context, _opening(context, speaker_bos, 0 * codec_pad), text + codes], dim=1)


@wrong("talker.talker_inputs", "The context has no code track: codec_pad belongs to the speaker's position alone.")
def pad_on_context(context, speaker_bos, text, codes, codec_pad):
    return torch.cat([context + codec_pad, _opening(context, speaker_bos, codec_pad), text + codes], dim=1)


@wrong("talker.talker_inputs", "The talker must also hear the codes it has made: add the code track.")
def text_alone(context, speaker_bos, text, codes, codec_pad):
    return torch.cat([context, _opening(context, speaker_bos, codec_pad), text], dim=1)


@wrong("talker.talker_inputs", "The talker must know what to say: add the text track.")
def codes_alone(context, speaker_bos, text, codes, codec_pad):
    return torch.cat([context, _opening(context, speaker_bos, codec_pad), codes], dim=1)


@wrong("talker.talker_inputs", "The speaker's position stands behind the context, right before the reply.")
def speaker_first(context, speaker_bos, text, codes, codec_pad):
    return torch.cat([_opening(context, speaker_bos, codec_pad), context, text + codes], dim=1)


@also_right("talker.talker_inputs")
def by_assignment(context, speaker_bos, text, codes, codec_pad):
    batch, length, dim = context.shape
    out = context.new_empty(batch, length + 1 + text.shape[1], dim)
    out[:, :length], out[:, length], out[:, length + 1 :] = context, speaker_bos + codec_pad, codes + text
    return out


# 5.8


@cases("talker.code_targets")
def _(rng):
    def case(name, counts, end=1030):
        rows = torch.full((len(counts), max(counts)), IGNORE)
        for row, count in zip(rows, counts, strict=True):
            row[:count] = torch.from_numpy(rng.integers(0, 1000, size=count))
        return Case(name, codes=rows, end_token=end)

    return [
        case("one row", [int(rng.integers(4, 9))]),
        case("rows of different lengths", [5, 2, 3]),
        case("rows of one length", [4, 4]),
        case("the released model's end", [6, 3], 8294),
        case("one code", [1, 3]),
        case("many codes", [12, int(rng.integers(3, 8))]),
    ]


def _counted(codes):
    return (codes != IGNORE).sum(1, keepdim=True)


@wrong("talker.code_targets", "The end follows each row's own last code: yours stands in the last column.")
def end_in_the_last_column(codes, end_token):
    out = F.pad(codes, (0, 1), value=IGNORE)
    out[:, -1] = end_token
    return out


@wrong("talker.code_targets", "The end is missing: without it the talker never learns to stop.")
def no_end(codes, end_token):
    return F.pad(codes, (0, 1), value=IGNORE)


@wrong("talker.code_targets", "You shifted once too often: place 0 sees codec_bos and predicts the first code.")
def shifted(codes, end_token):
    out = F.pad(codes[:, 1:], (0, 2), value=IGNORE)
    return out.scatter(1, _counted(codes) - 1, end_token)


@wrong("talker.code_targets", "The end has replaced the last code: it stands behind it.")
def last_code_lost(codes, end_token):
    return F.pad(codes, (0, 1), value=IGNORE).scatter(1, _counted(codes) - 1, end_token)


@wrong("talker.code_targets", "The end is learned once a row: behind it stands IGNORE, which does not count.")
def end_for_ever(codes, end_token):
    out = F.pad(codes, (0, 1), value=IGNORE)
    return out.masked_fill(out == IGNORE, end_token)


@wrong("talker.code_targets", "The end stands behind the codes, not before them.")
def end_first(codes, end_token):
    return F.pad(codes, (1, 0), value=end_token)


@wrong("talker.code_targets", "Padding must stay IGNORE (-100): as code 0 it would be learned.")
def padding_as_zero(codes, end_token):
    out = F.pad(codes, (0, 1), value=IGNORE).scatter(1, _counted(codes), end_token)
    return out.masked_fill(out == IGNORE, 0)


@also_right("talker.code_targets")
def by_rows(codes, end_token):
    out = torch.full((codes.shape[0], codes.shape[1] + 1), IGNORE)
    for row, given in zip(out, codes, strict=True):
        kept = given[given != IGNORE]
        row[: len(kept)], row[len(kept)] = kept, end_token
    return out


# 5.9


@cases("talker.delay_pattern")
def _(rng):
    def case(name, books, n, pad):
        codes = torch.from_numpy(rng.integers(1, 900, size=(books, n)))
        return Case(name, codes=codes, pad=pad)

    return [
        case("four books", 4, 6, 2048),
        case("as many steps as books", 3, 3, 1000),
        case("one book", 1, int(rng.integers(4, 9)), 1000),
        case("eight books", 8, int(rng.integers(9, 14)), 2000),
        case("seven books, few steps", 7, 3, 4096),
        case("another pad", 3, int(rng.integers(5, 9)), -1),
    ]


def _delayed(codes, pad, delays, width):
    out = codes.new_full((len(codes), width), pad)
    for row, (line, delay) in enumerate(zip(codes, delays, strict=True)):
        part = line[: width - delay]
        out[row, delay : delay + len(part)] = part
    return out


@wrong("talker.delay_pattern", "The last codes of the delayed books are cut off: the result is books - 1 steps longer.")
def cut(codes, pad):
    return _delayed(codes, pad, [min(b, codes.shape[1]) for b in range(len(codes))], codes.shape[1])


@wrong("talker.delay_pattern", "The first book is the one without delay: yours delays it most.")
def reversed_delay(codes, pad):
    books, n = codes.shape
    return _delayed(codes, pad, list(range(books))[::-1], n + books - 1)


@wrong("talker.delay_pattern", "What is pushed out at the end must not come in again at the front: fill with pad.")
def rolled(codes, pad):
    wide = F.pad(codes, (0, len(codes) - 1), value=pad)
    return torch.stack([row[: codes.shape[1]].roll(b) for b, row in enumerate(wide)])


@wrong("talker.delay_pattern", "Book b waits b steps: yours all wait one (that is how Moshi's acoustic books do it).")
def all_by_one(codes, pad):
    books, n = codes.shape
    return _delayed(codes, pad, [0] + [1] * (books - 1), max(n + books - 1, n + 1))


@wrong("talker.delay_pattern", "Empty places hold `pad`, not 0, which is a code.")
def zeros(codes, pad):
    books, n = codes.shape
    return _delayed(codes, 0, list(range(books)), n + books - 1)


@wrong("talker.delay_pattern", "Books are rows and steps are columns: yours is the other way round.")
def transposed(codes, pad):
    books, n = codes.shape
    return _delayed(codes, pad, list(range(books)), n + books - 1).T


@wrong("talker.delay_pattern", "Book b waits b steps, the first none: yours all wait one step too long.")
def one_too_late(codes, pad):
    books, n = codes.shape
    return _delayed(codes, pad, [b + 1 for b in range(books)], n + books)


@also_right("talker.delay_pattern")
def by_index(codes, pad):
    books, n = codes.shape
    source = torch.arange(n + books - 1)[None] - torch.arange(books)[:, None]  # which code stands at each step
    found = codes.gather(1, source.clamp(0, n - 1))
    return torch.where((source >= 0) & (source < n), found, torch.tensor(pad))


# 5.10


@cases("talker.interleave")
def _(rng):
    def case(name, n, m, text_chunk, code_chunk, offset):
        text = torch.from_numpy(rng.integers(1, 100, size=n))
        codes = torch.from_numpy(rng.integers(100, 200, size=m))
        return Case(name, text=text, codes=codes, text_chunk=text_chunk, code_chunk=code_chunk, offset=offset)

    return [
        case("13 text, 26 speech", 30, int(rng.integers(70, 90)), 13, 26, 151552),
        case("codes go on after the text", 5, 24, 2, 4, 2048),
        case("text goes on after the codes", 14, 5, 2, 3, 2048),
        case("they end together", 6, 12, 2, 4, 1000),
        case("one by two", 4, int(rng.integers(8, 13)), 1, 2, 500),
        case("less than a chunk of either", 2, 3, 5, 9, 300),
    ]


def _woven(text, codes, text_chunk, code_chunk):
    pieces, rounds = [], max(-(-len(text) // text_chunk), -(-len(codes) // code_chunk))
    for i in range(rounds):
        pieces += [text[i * text_chunk :][:text_chunk], codes[i * code_chunk :][:code_chunk]]
    return torch.cat(pieces)


@wrong("talker.interleave", "Text comes first in each round: the codes say what has just been written.")
def codes_first(text, codes, text_chunk, code_chunk, offset):
    return _woven(codes + offset, text, code_chunk, text_chunk)


@wrong(
    "talker.interleave", "Codes share the vocabulary with text: add `offset` to each code, or nobody can tell which."
)
def no_offset(text, codes, text_chunk, code_chunk, offset):
    return _woven(text, codes, text_chunk, code_chunk)


@wrong("talker.interleave", "`offset` moves the codes, not the text.")
def offset_on_text(text, codes, text_chunk, code_chunk, offset):
    return _woven(text + offset, codes, text_chunk, code_chunk)


@wrong("talker.interleave", "When one stream has ended the other goes on: you dropped what was left.")
def rest_dropped(text, codes, text_chunk, code_chunk, offset):
    rounds = min(len(text) // text_chunk, len(codes) // code_chunk)
    return _woven(text[: rounds * text_chunk], codes[: rounds * code_chunk] + offset, text_chunk, code_chunk) \
        if rounds else text[:0]  # fmt: skip


@wrong("talker.interleave", "The chunk sizes are exchanged.")
def chunks_exchanged(text, codes, text_chunk, code_chunk, offset):
    return _woven(text, codes + offset, code_chunk, text_chunk)


@wrong("talker.interleave", "That is all text, then all speech: nobody could listen before the text has ended.")
def all_text_first(text, codes, text_chunk, code_chunk, offset):
    return torch.cat([text, codes + offset])


@wrong("talker.interleave", "`offset` moves every code by the same: you moved the text too.")
def offset_on_both(text, codes, text_chunk, code_chunk, offset):
    return _woven(text + offset, codes + offset, text_chunk, code_chunk)


@also_right("talker.interleave")
def by_keys(text, codes, text_chunk, code_chunk, offset):
    order = [(i // text_chunk, 0, i) for i in range(len(text))]
    order += [(i // code_chunk, 1, i) for i in range(len(codes))]
    return torch.stack([codes[i] + offset if kind else text[i] for _, kind, i in sorted(order)])
