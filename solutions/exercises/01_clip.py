"""Cases, wrong answers and other right answers of lab 01."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from omni_lab.lab.authoring import Case, Exercise, also_right, cases, wrong

EXERCISES = [
    Exercise(
        "clip.similarity", "1.1", "Similarity", points=5, difficulty=1, minutes=5, target="omni_lab.clip:similarity",
        hints=(
            "The cosine of two vectors of length one is a product you know. How do you make a row have length one?",
            "`queries = queries / queries.norm(dim=-1, keepdim=True)`, and the same for the keys.",
        ),
    ),
    Exercise(
        "clip.info_nce", "1.2", "InfoNCE", points=10, difficulty=2, minutes=10, target="omni_lab.clip:info_nce",
        gradients=("queries", "keys"),
        hints=(
            "Each query is a question with `batch` possible answers. Which loss does one use for such a question?",
            "`logits = similarity(queries, keys) / temperature`, then cross-entropy with the right answer of each row.",
        ),
    ),
    Exercise(
        "clip.symmetric_loss", "1.3", "Both directions", points=5, difficulty=1, minutes=5,
        target="omni_lab.clip:symmetric_loss", gradients=("images", "texts"),
        hints=(
            "`info_nce` asks each query for its key. Which two questions can one ask of pictures and captions?",
            "`which_caption = info_nce(images, texts, temperature)`",
        ),
    ),
    Exercise(
        "clip.temperature", "1.4", "A learned temperature", points=5, difficulty=1, minutes=5,
        target="omni_lab.clip:temperature", gradients=("logit_scale",),
        hints=(
            "The parameter is the logarithm of the scale. Is the temperature the scale, or one over it?",
            "`logit_scale.clamp(max=math.log(100))` keeps the scale at 100 or less.",
        ),
    ),
    Exercise(
        "clip.attention_pooling", "1.5", "Attention pooling", points=15, difficulty=3, minutes=20,
        target="omni_lab.clip:attention_pooling", rtol=1e-3,
        hints=(
            "What shape do queries and keys need so that each head does its own softmax over the places?",
            "`keys = keys.view(batch, places, heads, -1)`; the same for values, and `query.view(batch, heads, -1)`.",
        ),
    ),
    Exercise(
        "clip.eot_pooling", "1.6", "Reading off at the end", points=10, difficulty=2, minutes=10,
        target="omni_lab.clip:eot_pooling",
        hints=(
            "What does `argmax` return where the largest value occurs several times?",
            "`first = (tokens == eot).int().argmax(dim=1)`",
        ),
    ),
    Exercise(
        "clip.prompt_ensemble", "1.7", "Prompt ensembles", points=10, difficulty=2, minutes=8,
        target="omni_lab.clip:prompt_ensemble",
        hints=(
            "A prompt with a long embedding would count more than the others. Should it?",
            "`each = F.normalize(embeddings, dim=-1)`, of the same shape, before the mean.",
        ),
    ),
    Exercise(
        "clip.recall_at_k", "1.8", "Recall at k", points=10, difficulty=2, minutes=12,
        target="omni_lab.clip:recall_at_k",
        hints=(
            "A true key is among the k best when how many others may beat it?",
            "`true = scores.gather(1, targets[:, None])`, of shape (n, 1).",
        ),
    ),
    Exercise(
        "clip.info_nce_positives", "1.9", "Several right answers", points=15, difficulty=3, minutes=20,
        rtol=1e-3, gradients=("queries",),
        hints=(
            "In a row with three right keys, what is the loss of one of them? And of all three, on average?",
            "`log_p = (similarity(queries, keys) / temperature).log_softmax(dim=1)`",
        ),
    ),
    Exercise(
        "clip.reciprocal_rank", "1.10", "A fair rank", points=15, difficulty=3, minutes=20,
        hints=(
            "If three keys tie for places 4, 5 and 6, at which place does each stand on average?",
            "`above = (scores > true).sum(dim=1)` counts keys in front; `(scores == true).sum(dim=1)` those "
            "that share its place, the true key among them.",
        ),
    ),
]  # fmt: skip


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape)).float()


def sizes(rng):
    return int(rng.integers(3, 9)), int(rng.integers(4, 12))


# 1.1


@cases("clip.similarity")
def _(rng):
    n, dim = sizes(rng)
    queries = draw(rng, n, dim)
    return [
        Case("as many keys as queries", queries=queries, keys=draw(rng, n, dim)),
        Case("more keys than queries", queries=queries, keys=draw(rng, n + 3, dim)),
        Case("queries scaled by 7", queries=7 * queries, keys=draw(rng, n, dim)),
        Case("keys of different lengths", queries=queries, keys=draw(rng, n, dim) * torch.arange(1.0, n + 1)[:, None]),
        Case("a set with itself", queries=queries, keys=queries.clone()),
        Case("one query", queries=draw(rng, 1, dim), keys=draw(rng, 5, dim)),
    ]


@wrong("clip.similarity", "A cosine does not depend on length: normalise the rows of both sides before the product.")
def plain_product(queries, keys):
    return queries @ keys.T


@wrong("clip.similarity", "The queries still have their own lengths: normalise them too, not only the keys.")
def keys_only(queries, keys):
    return queries @ F.normalize(keys, dim=-1).T


@wrong("clip.similarity", "The keys still have their own lengths: normalise them too, not only the queries.")
def queries_only(queries, keys):
    return F.normalize(queries, dim=-1) @ keys.T


@wrong("clip.similarity", "You normalised columns. A vector is a row here: use dim=-1.")
def over_the_batch(queries, keys):
    return F.normalize(queries, dim=0) @ F.normalize(keys, dim=0).T


@wrong("clip.similarity", "Divide by the length, not by its square: the root is missing.")
def squared_norm(queries, keys):
    return (queries / queries.square().sum(-1, keepdim=True)) @ (keys / keys.square().sum(-1, keepdim=True)).T


@wrong("clip.similarity", "Rows are queries and columns are keys: yours is the other way round.")
def transposed(queries, keys):
    return F.normalize(keys, dim=-1) @ F.normalize(queries, dim=-1).T


@also_right("clip.similarity")
def by_cosine_similarity(queries, keys):
    return F.cosine_similarity(queries[:, None].double(), keys[None].double(), dim=-1).float()


@also_right("clip.similarity")
def by_division(queries, keys):
    return queries @ keys.T / queries.norm(dim=1)[:, None] / keys.norm(dim=1)


# 1.2


def _cosine(queries, keys):
    return F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T


def _matched(logits):
    return F.cross_entropy(logits, torch.arange(len(logits)))


@cases("clip.info_nce")
def _(rng):
    n, dim = sizes(rng)
    queries, keys = draw(rng, n, dim), draw(rng, n, dim)
    return [
        Case("random rows", queries=queries, keys=keys, temperature=0.5),
        Case("rows scaled by 7", queries=7 * queries, keys=keys * torch.arange(1.0, n + 1)[:, None], temperature=0.3),
        Case("nearly matched rows", queries=queries, keys=queries + 0.3 * keys, temperature=0.07),
        Case("a large batch", queries=draw(rng, 40, dim), keys=draw(rng, 40, dim), temperature=0.2),
        Case("temperature 1", queries=keys, keys=queries, temperature=1.0),
        Case("two rows", queries=draw(rng, 2, dim), keys=draw(rng, 2, dim), temperature=0.1),
    ]


@wrong("clip.info_nce", "The loss must not change when a vector is scaled: normalise both sides first.")
def no_normalisation(queries, keys, temperature):
    return _matched(queries @ keys.T / temperature)


@wrong(
    "clip.info_nce", "You multiplied by the temperature: a low temperature must make the softmax sharper, so divide."
)
def temperature_inverted(queries, keys, temperature):
    return _matched(_cosine(queries, keys) * temperature)


@wrong("clip.info_nce", "The temperature is not used.")
def no_temperature(queries, keys, temperature):
    return _matched(_cosine(queries, keys))


@wrong("clip.info_nce", "You divided by the temperature twice.")
def temperature_twice(queries, keys, temperature):
    return _matched(_cosine(queries, keys) / temperature**2)


@wrong("clip.info_nce", "Take the mean over the batch, not the sum: twice the batch is not twice the loss.")
def sum_for_mean(queries, keys, temperature):
    return len(queries) * _matched(_cosine(queries, keys) / temperature)


@wrong("clip.info_nce", "The softmax runs over the keys of one query, along a row: yours runs along columns.")
def along_columns(queries, keys, temperature):
    return _matched(_cosine(keys, queries) / temperature)


@wrong("clip.info_nce", "Labels off by one: row i belongs to row i.")
def labels_off_by_one(queries, keys, temperature):
    logits = _cosine(queries, keys) / temperature
    return F.cross_entropy(logits, (torch.arange(len(logits)) + 1) % len(logits))


@wrong("clip.info_nce", "The true key belongs to the sum below the fraction too: you summed over the negatives alone.")
def negatives_alone(queries, keys, temperature):
    logits = _cosine(queries, keys) / temperature
    others = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf)
    return (others.logsumexp(dim=1) - logits.diagonal()).mean()


@wrong("clip.info_nce", "The sign is wrong: a loss falls as the true key gets likelier.")
def sign(queries, keys, temperature):
    return -_matched(_cosine(queries, keys) / temperature)


@also_right("clip.info_nce")
def by_logsumexp(queries, keys, temperature):
    logits = (_cosine(queries.double(), keys.double()) / temperature).float()
    return (logits.logsumexp(dim=1) - logits.diagonal()).mean()


@also_right("clip.info_nce")
def by_log_softmax(queries, keys, temperature):
    return -(_cosine(queries, keys) / temperature).log_softmax(dim=1).diagonal().mean()


# 1.3


@cases("clip.symmetric_loss")
def _(rng):
    n, dim = sizes(rng)
    images, texts = draw(rng, n, dim), draw(rng, n, dim)
    one = draw(rng, 1, dim)
    return [
        Case("random rows", images=images, texts=texts, temperature=0.5),
        Case("sides exchanged", images=texts, texts=images, temperature=0.5),
        Case("one caption everywhere", images=images, texts=one + 0.1 * texts, temperature=0.2),
        Case("nearly matched rows", images=images, texts=images + 0.5 * texts, temperature=0.1),
        Case(
            "rows of different lengths", images=images * torch.arange(1.0, n + 1)[:, None], texts=texts, temperature=0.3
        ),
    ]


@wrong(
    "clip.symmetric_loss", "You asked only the pictures for their captions: ask the captions for their pictures too."
)
def images_only(images, texts, temperature):
    return _matched(_cosine(images, texts) / temperature)


@wrong(
    "clip.symmetric_loss", "You asked only the captions for their pictures: ask the pictures for their captions too."
)
def texts_only(images, texts, temperature):
    return _matched(_cosine(texts, images) / temperature)


@wrong("clip.symmetric_loss", "Take the mean of the two directions, not their sum.")
def sum_of_both(images, texts, temperature):
    return images_only(images, texts, temperature) + texts_only(images, texts, temperature)


@wrong("clip.symmetric_loss", "The two directions pull the same way: add them, do not subtract.")
def difference(images, texts, temperature):
    return (images_only(images, texts, temperature) - texts_only(images, texts, temperature)) / 2


@wrong(
    "clip.symmetric_loss",
    "That compares a set with itself. Each direction needs pictures on one side, captions on the other.",
)
def sets_with_themselves(images, texts, temperature):
    return (images_only(images, images, temperature) + images_only(texts, texts, temperature)) / 2


@wrong("clip.symmetric_loss", "Both directions count, not only the worse one: take the mean.")
def worse_direction(images, texts, temperature):
    return torch.maximum(images_only(images, texts, temperature), texts_only(images, texts, temperature))


@also_right("clip.symmetric_loss")
def from_one_matrix(images, texts, temperature):
    logits = _cosine(images, texts) / temperature
    return ((logits.logsumexp(0) + logits.logsumexp(1)) / 2 - logits.diagonal()).mean()


@also_right("clip.symmetric_loss")
def by_halves(images, texts, temperature):
    return 0.5 * images_only(images, texts, temperature) + 0.5 * texts_only(images, texts, temperature)


# 1.4


@cases("clip.temperature")
def _(rng):
    return [
        Case("CLIP's start", logit_scale=torch.tensor(math.log(1 / 0.07))),
        Case("scale 1", logit_scale=torch.tensor(0.0)),
        Case("a random scale", logit_scale=torch.tensor(float(rng.uniform(0.5, 4.0)))),
        Case("a negative parameter", logit_scale=torch.tensor(float(rng.uniform(-2.0, -0.5)))),
        Case("beyond the clamp", logit_scale=torch.tensor(float(rng.uniform(5.0, 8.0)))),
        Case("just below the clamp", logit_scale=torch.tensor(math.log(float(rng.uniform(85, 99))))),
    ]


@wrong("clip.temperature", "That is the scale. The temperature is one over it: logits are divided by it.")
def the_scale(logit_scale):
    return logit_scale.clamp(max=math.log(100)).exp()


# Whoever clamps the parameter at 100, not the scale, gets the same numbers: the sentence must be true of both.
@wrong("clip.temperature", "The scale passes 100: clamp the scale at 100, or the parameter at math.log(100).")
def no_clamp(logit_scale):
    return torch.exp(-logit_scale)


@wrong("clip.temperature", "The scale may reach 100, so the parameter may reach math.log(100): yours is held lower.")
def clamp_before_exp(logit_scale):
    return torch.exp(-logit_scale.clamp(max=4.0))


@wrong("clip.temperature", "The parameter is the logarithm of the scale: the exponential is missing.")
def no_exp(logit_scale):
    return 1 / (logit_scale.clamp(max=math.log(100)) + 1e-9)


@wrong(
    "clip.temperature", "The clamp is on the wrong side: large scales are what must be stopped, small ones may stay."
)
def clamp_below(logit_scale):
    return torch.exp(-logit_scale.clamp(min=math.log(100)))


@wrong(
    "clip.temperature",
    "The sign is wrong: the scale is exp(+logit_scale), so a larger parameter is a lower temperature.",
)
def clamped_wrong_sign(logit_scale):
    return torch.exp(logit_scale).clamp(min=0.01)


@also_right("clip.temperature")
def by_division_of_one(logit_scale):
    return 1 / logit_scale.clamp(max=math.log(100)).exp()


@also_right("clip.temperature")
def by_clamping_the_scale(logit_scale):
    return 1 / logit_scale.exp().clamp(max=100)


# 1.5


@cases("clip.attention_pooling")
def _(rng):
    def case(name, heads, head_dim, places, batch, scale=1.0):
        dim = heads * head_dim
        return Case(
            name,
            query=scale * draw(rng, batch, dim),
            keys=draw(rng, batch, places, dim),
            values=draw(rng, batch, places, dim),
            heads=heads,
        )

    places = int(rng.integers(4, 11))
    return [
        case("one head", 1, 6, places, 3),
        case("two heads", 2, 4, places, 2),
        case("four heads", 4, 3, places, 3, 2.0),
        case("as many places as samples", 2, 5, 4, 4),
        case("a sharp query", 3, 4, places, 2, 4.0),
        case("one sample", 2, 8, places, 1),
    ]


def _heads(query, keys, values, heads):
    batch, places, dim = keys.shape
    split = keys.view(batch, places, heads, -1), values.view(batch, places, heads, -1)
    return query.view(batch, heads, dim // heads), *split


def _pooled(query, keys, values, heads, scale=None, over=1):
    query, k, v = _heads(query, keys, values, heads)
    scores = torch.einsum("bhd,bphd->bph", query, k) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return torch.einsum("bph,bphd->bhd", scores.softmax(dim=over), v).flatten(1)


@wrong("clip.attention_pooling", "The scale is missing: divide the scores by the root of a head's width.")
def no_scale(query, keys, values, heads):
    return _pooled(query, keys, values, heads, scale=1.0)


@wrong("clip.attention_pooling", "Each head has its own width: the scale is the root of dim / heads, not of dim.")
def scale_of_the_whole(query, keys, values, heads):
    # With one head the two scales agree; the other cases tell them apart.
    return _pooled(query, keys, values, heads, scale=query.shape[-1] ** -0.5)


@wrong(
    "clip.attention_pooling",
    "You used one softmax for all heads: split the width first, so that each head looks on its own.",
)
def heads_ignored(query, keys, values, heads):
    return _pooled(query, keys, values, 1)


@wrong(
    "clip.attention_pooling", "The softmax must run over the places: the weights of a head over all places sum to 1."
)
def softmax_over_heads(query, keys, values, heads):
    return _pooled(query, keys, values, heads, over=2)


@wrong("clip.attention_pooling", "That is the plain mean of the values: the query decides nothing.")
def mean_pooling(query, keys, values, heads):
    return values.mean(dim=1)


@wrong("clip.attention_pooling", "You gathered the keys; what is gathered are the values.")
def keys_for_values(query, keys, values, heads):
    return _pooled(query, keys, keys, heads)


@wrong(
    "clip.attention_pooling", "A head's columns stand side by side: view as (heads, head_dim), not (head_dim, heads)."
)
def interleaved_heads(query, keys, values, heads):
    batch, places, dim = keys.shape
    order = torch.arange(dim).view(dim // heads, heads).T.flatten()
    return _pooled(query[:, order], keys[..., order], values[..., order], heads)


@also_right("clip.attention_pooling")
def by_einsum(query, keys, values, heads):
    return _pooled(query.double(), keys.double(), values.double(), heads).float()


@also_right("clip.attention_pooling")
def head_by_head(query, keys, values, heads):
    out = []
    for q, k, v in zip(query.chunk(heads, -1), keys.chunk(heads, -1), values.chunk(heads, -1), strict=True):
        weights = ((k @ q[:, :, None]).squeeze(-1) / math.sqrt(q.shape[-1])).softmax(dim=1)
        out.append((weights[..., None] * v).sum(dim=1))
    return torch.cat(out, dim=-1)


# 1.6


@cases("clip.eot_pooling")
def _(rng):
    def case(name, batch, length, eot, pad, tail=0):
        tokens = rng.integers(2, 50, (batch, length))
        for row, end in enumerate(rng.permutation(np.arange(1, length - tail))[:batch]):
            tokens[row, end] = eot
            tokens[row, end + 1 :] = pad
        return Case(name, hidden=draw(rng, batch, length, 5), tokens=torch.from_numpy(tokens), eot=eot)

    twice = case("an end, some padding, another end", 3, 9, 99, 0, 4)
    twice.inputs["tokens"][:, -2] = 99
    return [
        twice,
        case("padded with 0", 3, 9, 99, 0, 2),
        case("padded with the end itself", 4, 8, 99, 99, 2),
        case("the end is not the highest id", 4, 9, 1, 60, 2),
        case("pad and end are low ids", 3, 10, 1, 0, 2),
        case("one caption", 1, 7, 99, 0, 3),
        case("as many captions as places", 5, 7, 99, 99, 1),
    ]


def _at(hidden, places):
    return hidden[torch.arange(len(hidden)), places]


@wrong("clip.eot_pooling", "The last place is padding in most captions: look for the end-of-text token.")
def last_place(hidden, tokens, eot):
    return hidden[:, -1]


@wrong(
    "clip.eot_pooling",
    "The first place has read nothing but the start: with causal attention only the end has read all.",
)
def first_place(hidden, tokens, eot):
    return hidden[:, 0]


@wrong("clip.eot_pooling", "Off by one: take the vector at the end-of-text token, not at the token before it.")
def before_the_end(hidden, tokens, eot):
    return _at(hidden, (tokens == eot).int().argmax(dim=1) - 1)


@wrong("clip.eot_pooling", "Where padding repeats the end-of-text token, the first one counts: you took the last.")
def last_of_the_ends(hidden, tokens, eot):
    return _at(hidden, tokens.shape[1] - 1 - (tokens == eot).flip(1).int().argmax(dim=1))


@wrong("clip.eot_pooling", "The end-of-text token need not be the highest id: compare with `eot`.")
def highest_id(hidden, tokens, eot):
    return _at(hidden, tokens.argmax(dim=1))


@wrong("clip.eot_pooling", "The mean mixes in places that have not read the whole caption, and padding.")
def mean_of_all(hidden, tokens, eot):
    return hidden.mean(dim=1)


@also_right("clip.eot_pooling")
def by_one_hot(hidden, tokens, eot):
    ends = tokens == eot
    first = ends & (ends.cumsum(dim=1) == 1)
    return (hidden * first[..., None]).sum(dim=1)


@also_right("clip.eot_pooling")
def row_by_row(hidden, tokens, eot):
    return torch.stack([h[t.tolist().index(eot)] for h, t in zip(hidden, tokens, strict=True)])


# 1.7


@cases("clip.prompt_ensemble")
def _(rng):
    classes, dim = sizes(rng)
    prompts = int(rng.integers(2, 6))
    x = draw(rng, classes, prompts, dim)
    return [
        Case("random prompts", embeddings=x),
        Case("prompts of different lengths", embeddings=x * torch.arange(1.0, prompts + 1)[None, :, None]),
        Case("classes of different lengths", embeddings=x * torch.arange(1.0, classes + 1)[:, None, None]),
        Case("as many prompts as classes", embeddings=draw(rng, 4, 4, dim) * torch.arange(1.0, 5)[None, :, None]),
        Case("one prompt", embeddings=draw(rng, classes, 1, dim)),
        Case("one class", embeddings=draw(rng, 1, prompts, dim)),
    ]


@wrong("clip.prompt_ensemble", "Normalise each prompt before the mean: a long one must not count more than the others.")
def mean_then_normalise(embeddings):
    return F.normalize(embeddings.mean(dim=1), dim=-1)


@wrong("clip.prompt_ensemble", "The mean of unit vectors is shorter than 1: normalise again after it.")
def not_again(embeddings):
    return F.normalize(embeddings, dim=-1).mean(dim=1)


@wrong("clip.prompt_ensemble", "The sum of the prompts grows with their number: take the mean, and normalise it.")
def plain_sum(embeddings):
    return F.normalize(embeddings, dim=-1).sum(dim=1)


@wrong("clip.prompt_ensemble", "You averaged over classes: prompts are the second axis.")
def over_classes(embeddings):
    return F.normalize(F.normalize(embeddings, dim=-1).mean(dim=0), dim=-1)


@wrong("clip.prompt_ensemble", "You used the first prompt alone.")
def first_prompt(embeddings):
    return F.normalize(embeddings[:, 0], dim=-1)


@wrong("clip.prompt_ensemble", "Nothing is normalised: prompts must count the same, and the class has length one.")
def plain_mean(embeddings):
    return embeddings.mean(dim=1)


@wrong("clip.prompt_ensemble", "You normalised over the prompts: a vector's values are the last axis.")
def wrong_axis(embeddings):
    return F.normalize(F.normalize(embeddings, dim=1).mean(dim=1), dim=-1)


@also_right("clip.prompt_ensemble")
def by_sum_of_units(embeddings):
    return F.normalize(F.normalize(embeddings.double(), dim=-1).sum(dim=1), dim=-1).float()


@also_right("clip.prompt_ensemble")
def by_norms(embeddings):
    mean = (embeddings / embeddings.norm(dim=2, keepdim=True)).mean(dim=1)
    return mean / mean.norm(dim=1, keepdim=True)


# 1.8


@cases("clip.recall_at_k")
def _(rng):
    def targets(n, m):
        return torch.from_numpy(rng.integers(0, m, n))

    n, m = int(rng.integers(24, 36)), int(rng.integers(40, 60))
    square = draw(rng, n, n) + 1.2 * torch.eye(n)
    ties = torch.from_numpy(rng.integers(0, 4, (n, m))).float()
    return [
        Case("matched, first place", scores=square, k=1, targets=torch.arange(n)),
        Case("matched, five places", scores=square, k=5, targets=torch.arange(n)),
        Case("classes", scores=draw(rng, n, m), k=10, targets=targets(n, m)),
        Case("many classes", scores=draw(rng, n, m), k=m // 2, targets=targets(n, m)),
        Case("true keys that tie", scores=ties, k=8, targets=targets(n, m)),
        Case("other way round", scores=square.T.contiguous() * 2, k=3, targets=torch.arange(n)),
        Case("fewer classes than queries", scores=draw(rng, 40, 12), k=3, targets=targets(40, 12)),
    ]


def _true(scores, targets):
    return scores.gather(1, targets[:, None])


@wrong(
    "clip.recall_at_k", "Off by one: a true key with k others in front of it stands at place k + 1, which is too late."
)
def one_too_many(scores, k, targets):
    return ((scores > _true(scores, targets)).sum(dim=1) <= k).double().mean().item()


@wrong("clip.recall_at_k", "The best scores are the highest: you looked for the lowest.")
def lowest(scores, k, targets):
    return ((scores < _true(scores, targets)).sum(dim=1) < k).double().mean().item()


@wrong("clip.recall_at_k", "A key that ties with the true one does not push it down: count only higher scores.")
def ties_push_down(scores, k, targets):
    return ((scores >= _true(scores, targets)).sum(dim=1) <= k).double().mean().item()


@wrong("clip.recall_at_k", "That is recall at 1: k is not used.")
def k_ignored(scores, k, targets):
    return ((scores > _true(scores, targets)).sum(dim=1) < 1).double().mean().item()


@wrong("clip.recall_at_k", "Recall is a share: divide the number of hits by the number of queries, not by k.")
def precision(scores, k, targets):
    return ((scores > _true(scores, targets)).sum(dim=1) < k).double().mean().item() / k


@wrong("clip.recall_at_k", "Recall is a share: divide the number of hits by the number of queries.")
def a_count(scores, k, targets):
    return ((scores > _true(scores, targets)).sum(dim=1) < k).double().sum().item()


@wrong("clip.recall_at_k", "The true key of query i is targets[i], not key i.")
def diagonal(scores, k, targets):
    own = torch.arange(len(scores)) % scores.shape[1]
    return ((scores > _true(scores, own)).sum(dim=1) < k).double().mean().item()


@also_right("clip.recall_at_k")
def by_sorting(scores, k, targets):
    least = scores.sort(dim=1, descending=True).values[:, k - 1]
    return float(np.mean([s[t] >= low for s, t, low in zip(scores, targets, least, strict=True)]))


@also_right("clip.recall_at_k")
def by_kth_value(scores, k, targets):
    least = scores.kthvalue(scores.shape[1] - k + 1, dim=1, keepdim=True).values
    return (_true(scores, targets) >= least).double().mean().item()


# 1.9


@cases("clip.info_nce_positives")
def _(rng):
    def case(name, rows, cols, labels, temperature=0.4, scale=1.0):
        dim = 6
        key_labels = np.concatenate([np.arange(labels), rng.integers(0, labels, cols - labels)])
        query_labels = rng.integers(0, labels, rows)
        return Case(
            name,
            queries=scale * draw(rng, rows, dim),
            keys=draw(rng, cols, dim),
            query_labels=torch.from_numpy(query_labels),
            key_labels=torch.from_numpy(rng.permutation(key_labels)),
            temperature=temperature,
        )

    return [
        case("three things, many drawings", 6, 12, 3),
        case("uneven numbers of drawings", 7, 9, 4),
        case("one drawing of each", 5, 5, 5),
        case("rows scaled by 7", 6, 11, 3, 0.3, 7.0),
        case("a low temperature", 8, 10, 4, 0.1),
        case("everything is the same thing", 4, 6, 1),
    ]


def _log_p(queries, keys, temperature):
    return (_cosine(queries, keys) / temperature).log_softmax(dim=1)


def _same(query_labels, key_labels):
    return (query_labels[:, None] == key_labels[None]).float()


@wrong(
    "clip.info_nce_positives",
    "Average over the right keys of a row; you summed, so a thing with many drawings counts more.",
)
def summed_positives(queries, keys, query_labels, key_labels, temperature):
    return -(_log_p(queries, keys, temperature) * _same(query_labels, key_labels)).sum(dim=1).mean()


@wrong(
    "clip.info_nce_positives",
    "Each query counts the same: average within a row first, then over rows, not over all pairs at once.",
)
def all_pairs_at_once(queries, keys, query_labels, key_labels, temperature):
    same = _same(query_labels, key_labels)
    return -(_log_p(queries, keys, temperature) * same).sum() / same.sum()


@wrong(
    "clip.info_nce_positives",
    "You averaged probabilities before the logarithm; every right key has a loss of its own: logarithm first.",
)
def log_of_the_mean(queries, keys, query_labels, key_labels, temperature):
    same = _same(query_labels, key_labels)
    mean = (_log_p(queries, keys, temperature).exp() * same).sum(dim=1) / same.sum(dim=1)
    return -mean.log().mean()


@wrong("clip.info_nce_positives", "One of the right keys is not enough: all keys with the query's label are right.")
def first_positive(queries, keys, query_labels, key_labels, temperature):
    first = _same(query_labels, key_labels).argmax(dim=1, keepdim=True)
    return -_log_p(queries, keys, temperature).gather(1, first).mean()


@wrong("clip.info_nce_positives", "The right keys belong to the sum below the fraction too: you left them out.")
def positives_left_out(queries, keys, query_labels, key_labels, temperature):
    logits, same = _cosine(queries, keys) / temperature, _same(query_labels, key_labels)
    others = (logits.exp() * (1 - same)).sum(dim=1, keepdim=True) + logits.exp() * same
    return -((logits - others.log()) * same).sum(dim=1).div(same.sum(dim=1)).mean()


@wrong("clip.info_nce_positives", "The softmax runs over the keys of one query, along a row: yours runs along columns.")
def softmax_along_columns(queries, keys, query_labels, key_labels, temperature):
    log_p, same = (_cosine(queries, keys) / temperature).log_softmax(dim=0), _same(query_labels, key_labels)
    return -((log_p * same).sum(dim=1) / same.sum(dim=1)).mean()


@wrong("clip.info_nce_positives", "The loss must not change when a vector is scaled: normalise both sides first.")
def positives_not_normalised(queries, keys, query_labels, key_labels, temperature):
    log_p, same = (queries @ keys.T / temperature).log_softmax(dim=1), _same(query_labels, key_labels)
    return -((log_p * same).sum(dim=1) / same.sum(dim=1)).mean()


@also_right("clip.info_nce_positives")
def by_loops(queries, keys, query_labels, key_labels, temperature):
    log_p = _log_p(queries, keys, temperature)
    rows = [-log_p[i, key_labels == label].mean() for i, label in enumerate(query_labels)]
    return torch.stack(rows).mean()


@also_right("clip.info_nce_positives")
def by_soft_targets(queries, keys, query_labels, key_labels, temperature):
    same = _same(query_labels, key_labels)
    return F.cross_entropy(_cosine(queries, keys) / temperature, same / same.sum(dim=1, keepdim=True))


# 1.10


@cases("clip.reciprocal_rank")
def _(rng):
    def targets(n, m):
        return torch.from_numpy(rng.integers(0, m, n))

    def ties(n, m, high):
        return torch.from_numpy(rng.integers(0, high, (n, m))).float()

    n, m = int(rng.integers(6, 12)), int(rng.integers(12, 20))
    return [
        Case("no ties", scores=draw(rng, n, m), targets=targets(n, m)),
        Case("many ties", scores=ties(n, m, 3), targets=targets(n, m)),
        Case("pairs of ties", scores=ties(n, m, m), targets=targets(n, m)),
        Case("all scores are the same", scores=torch.zeros(n, m), targets=targets(n, m)),
        Case("more queries than keys", scores=ties(20, 7, 4), targets=targets(20, 7)),
        Case("negative scores", scores=-ties(n, m, 5), targets=targets(n, m)),
    ]


def _rank(scores, targets, ties):
    true = _true(scores, targets)
    above, beside = (scores > true).sum(dim=1), (scores == true).sum(dim=1)  # beside counts the true key itself
    return {"best": above + 1.0, "mean": above + (beside + 1) / 2, "worst": above + beside}[ties]


@wrong(
    "clip.reciprocal_rank",
    "You gave tied keys the best place among them: a model that gives all keys one score would be perfect.",
)
def best_of_ties(scores, targets):
    return (1 / _rank(scores, targets, "best")).double().mean().item()


@wrong("clip.reciprocal_rank", "You gave tied keys the worst place among them: on average they stand in the middle.")
def worst_of_ties(scores, targets):
    return (1 / _rank(scores, targets, "worst")).double().mean().item()


@wrong("clip.reciprocal_rank", "Places are counted from 1: the best key has rank 1, not 0.")
def from_zero(scores, targets):
    return (1 / (_rank(scores, targets, "mean") + 1)).double().mean().item()


@wrong("clip.reciprocal_rank", "Average the inverse ranks; you inverted the average rank.")
def inverse_of_the_mean(scores, targets):
    return (1 / _rank(scores, targets, "mean").double().mean()).item()


@wrong("clip.reciprocal_rank", "That is the mean rank itself: the inverse is missing.")
def mean_rank(scores, targets):
    return _rank(scores, targets, "mean").double().mean().item()


@wrong("clip.reciprocal_rank", "The best scores are the highest: you ranked from the lowest.")
def ranked_upwards(scores, targets):
    return (1 / _rank(-scores, targets, "mean")).double().mean().item()


@wrong("clip.reciprocal_rank", "The true key ties with itself: half of it too much was added to the rank.")
def counts_itself(scores, targets):
    return (1 / (_rank(scores, targets, "mean") + 0.5)).double().mean().item()


@also_right("clip.reciprocal_rank")
def by_counting(scores, targets):
    total = 0.0
    for row, target in zip(scores.tolist(), targets.tolist(), strict=True):
        above = sum(s > row[target] for s in row)
        beside = sum(s == row[target] for s in row)
        total += 1 / (above + (1 + beside) / 2)
    return total / len(scores)


@also_right("clip.reciprocal_rank")
def by_mean_of_extremes(scores, targets):
    rank = (_rank(scores, targets, "best").double() + _rank(scores, targets, "worst").double()) / 2
    return float((1 / rank).mean())
