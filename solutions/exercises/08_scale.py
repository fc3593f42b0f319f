"""Cases, wrong answers and other right answers of lab 08."""

import math

import torch
import torch.nn.functional as F

from omni_lab.lab.authoring import Case, Exercise, also_right, cases, wrong

EXERCISES = [
    Exercise(
        "scale.state_bytes", "8.1", "What stays from step to step", points=10, difficulty=1, minutes=8,
        target="omni_lab.train.memory:state_bytes",
        hints=(
            "A frozen parameter must still be read. Does it need a gradient? A moment?",
            '`size = 2 if precision == "bfloat16" else 4`',
        ),
    ),
    Exercise(
        "scale.layer_activations", "8.2", "What a layer keeps", points=15, difficulty=3, minutes=20,
        target="omni_lab.train.memory:layer_activations",
        hints=(
            "Take the list above item by item: how many numbers wide is each, and how often does it stand there?",
            "`stream = 2 * hidden_size` numbers a token of the residual stream: one before each norm.",
        ),
    ),
    Exercise(
        "scale.flops_per_token", "8.3", "What a token costs", points=10, difficulty=2, minutes=10,
        target="omni_lab.train.utilisation:flops_per_token",
        hints=(
            "One multiplication and one addition a parameter make the forward pass. Which two products does the "
            "backward pass do for each product of the forward pass?",
            "`6 * matrices` is the first term; the second has one factor for each name that is left.",
        ),
    ),
    Exercise(
        "scale.mfu", "8.4", "Model FLOPs utilisation", points=5, difficulty=1, minutes=5,
        target="omni_lab.train.utilisation:mfu",
        hints=(
            "How many operations a second did the model need? How many could all cards together have done?",
            "`needed = tokens_per_second * flops_per_token`",
        ),
    ),
    Exercise(
        "scale.loss_scales", "8.5", "A scale that finds itself", points=20, difficulty=3, minutes=20,
        hints=(
            "What does the step that has just overflowed change: the scale it ran with, or the next one's?",
            "Keep two variables, `scale` and `good`, and append `scale` before you look at `overflow`.",
        ),
    ),
    Exercise(
        "scale.decode_limit", "8.6", "Bound by memory", points=10, difficulty=2, minutes=10,
        target="omni_lab.train.utilisation:decode_limit",
        hints=(
            "Which of the two is read once a step for all rows together, and which once for each row?",
            "`seconds = (weight_bytes + batch * cache_bytes) / bandwidth` is one step.",
        ),
    ),
    Exercise(
        "scale.ragged_attention", "8.7", "Requests of different lengths", points=20, difficulty=3, minutes=25,
        rtol=1e-3,
        hints=(
            "What must the score of a place be that nobody has written yet, so that the softmax gives it nothing?",
            "`query = query.view(batch, kv_heads, -1, head_dim)`: the queries that share a key side by side.",
        ),
    ),
    Exercise(
        "scale.quantise_rows", "8.8", "Eight bits a weight", points=10, difficulty=2, minutes=12,
        hints=(
            "Which number must the largest weight of a row become, so that nothing leaves -127 to 127?",
            "`scale = weight.abs().amax(dim=1) / 127`",
        ),
    ),
]  # fmt: skip


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape)).float()


# 8.1


@cases("scale.state_bytes")
def _(rng):
    n = int(rng.integers(1000, 10**7))
    return [
        Case("float32, all learn", parameters=n, learning=n, precision="float32"),
        Case("autocast, all learn", parameters=n, learning=n, precision="autocast"),
        Case("bfloat16, all learn", parameters=n, learning=n, precision="bfloat16"),
        Case("autocast, most frozen", parameters=n, learning=n // 7, precision="autocast"),
        Case("bfloat16, most frozen", parameters=n, learning=n // 5, precision="bfloat16"),
        Case("inference: nothing learns", parameters=n, learning=0, precision="float32"),
    ]


def _states(weights, gradients, optimiser, copies):
    return {"weights": weights, "gradients": gradients, "optimiser": optimiser, "copies": copies}


def _size(precision):
    return 2 if precision == "bfloat16" else 4


@wrong("scale.state_bytes", "AdamW keeps two moments of every learning parameter: yours keeps one.")
def one_moment(parameters, learning, precision):
    size = _size(precision)
    return _states(size * parameters, size * learning, size * learning, 2 * parameters * (precision == "autocast"))


@wrong("scale.state_bytes", "A frozen parameter has no gradient and no moments: count those of `learning` only.")
def frozen_learn_too(parameters, learning, precision):
    size = _size(precision)
    copies = 2 * parameters * (precision == "autocast")
    return _states(size * parameters, size * parameters, 2 * size * parameters, copies)


@wrong("scale.state_bytes", "Under autocast the weights themselves stay in float32: the 16-bit ones are copies.")
def autocast_halves_the_weights(parameters, learning, precision):
    size = 4 if precision == "float32" else 2
    return _states(size * parameters, 4 * learning if size == 4 or precision == "autocast" else 2 * learning,
                   2 * _size(precision) * learning, 2 * parameters * (precision == "autocast"))  # fmt: skip


@wrong("scale.state_bytes", "Autocast keeps a 16-bit copy of every weight until the backward pass: it is missing.")
def no_copies(parameters, learning, precision):
    size = _size(precision)
    return _states(size * parameters, size * learning, 2 * size * learning, 0)


@wrong("scale.state_bytes", "Frozen weights take part in the forward pass, so they are copied too: copies of all.")
def copies_of_learning(parameters, learning, precision):
    size = _size(precision)
    return _states(size * parameters, size * learning, 2 * size * learning, 2 * learning * (precision == "autocast"))


@wrong("scale.state_bytes", "In pure bfloat16 the moments have the type of the weights: 2 bytes each, not 4.")
def moments_in_float32(parameters, learning, precision):
    size = _size(precision)
    return _states(size * parameters, size * learning, 8 * learning, 2 * parameters * (precision == "autocast"))


@also_right("scale.state_bytes")
def by_table(parameters, learning, precision):
    table = {"float32": (4, 4, 8, 0), "autocast": (4, 4, 8, 2), "bfloat16": (2, 2, 4, 0)}
    a, b, c, d = table[precision]
    return {"copies": d * parameters, "optimiser": c * learning, "gradients": b * learning, "weights": a * parameters}


# 8.2


@cases("scale.layer_activations")
def _(rng):
    def shape(heads, kv_heads, compute, residual):
        return dict(
            tokens=int(rng.integers(64, 4096)),
            hidden_size=64 * int(rng.integers(2, 32)),
            intermediate_size=64 * int(rng.integers(5, 90)),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=int(rng.choice([32, 64, 128])),
            compute_bytes=compute,
            residual_bytes=residual,
        )

    return [
        Case("float32", **shape(4, 2, 4, 4)),
        Case("autocast", **shape(16, 2, 2, 4)),
        Case("all in 16 bits", **shape(28, 4, 2, 2)),
        Case("a key head for each query head", **shape(8, 8, 2, 4)),
        Case("one key head", **shape(6, 1, 4, 4)),
    ]


def _kept(tokens, residual_bytes, stream, compute_bytes, inside):
    return tokens * (residual_bytes * stream + compute_bytes * inside)


def _attention(heads, kv_heads, head_dim):
    return 2 * heads * head_dim + 2 * kv_heads * head_dim


@wrong("scale.layer_activations", "A layer has two norms, and each needs its input: the stream is kept twice.")
def stream_once(tokens, hidden_size, intermediate_size, heads, kv_heads, head_dim, compute_bytes, residual_bytes):
    inside = 2 * hidden_size + _attention(heads, kv_heads, head_dim) + 4 * intermediate_size
    return _kept(tokens, residual_bytes, hidden_size, compute_bytes, inside)


@wrong("scale.layer_activations", "What the norms give is the input of the projections, and kept: it is missing.")
def no_norm_outputs(tokens, hidden_size, intermediate_size, heads, kv_heads, head_dim, compute_bytes, residual_bytes):
    inside = _attention(heads, kv_heads, head_dim) + 4 * intermediate_size
    return _kept(tokens, residual_bytes, 2 * hidden_size, compute_bytes, inside)


@wrong("scale.layer_activations", "SwiGLU keeps four wide tables: gate, up, silu(gate) and their product. One is gone.")
def three_tables(tokens, hidden_size, intermediate_size, heads, kv_heads, head_dim, compute_bytes, residual_bytes):
    inside = 2 * hidden_size + _attention(heads, kv_heads, head_dim) + 3 * intermediate_size
    return _kept(tokens, residual_bytes, 2 * hidden_size, compute_bytes, inside)


@wrong("scale.layer_activations", "Keys and values have kv_heads heads, fewer than the queries: not `heads`.")
def keys_for_every_head(
    tokens, hidden_size, intermediate_size, heads, kv_heads, head_dim, compute_bytes, residual_bytes
):
    inside = 2 * hidden_size + 4 * heads * head_dim + 4 * intermediate_size
    return _kept(tokens, residual_bytes, 2 * hidden_size, compute_bytes, inside)


@wrong("scale.layer_activations", "The output projection needs what attention gives: queries' width is kept twice.")
def no_attention_output(
    tokens, hidden_size, intermediate_size, heads, kv_heads, head_dim, compute_bytes, residual_bytes
):
    inside = 2 * hidden_size + (heads + 2 * kv_heads) * head_dim + 4 * intermediate_size
    return _kept(tokens, residual_bytes, 2 * hidden_size, compute_bytes, inside)


@wrong("scale.layer_activations", "The residual stream has its own bytes a number: residual_bytes, not compute_bytes.")
def one_size_for_all(tokens, hidden_size, intermediate_size, heads, kv_heads, head_dim, compute_bytes, residual_bytes):
    inside = 2 * hidden_size + _attention(heads, kv_heads, head_dim) + 4 * intermediate_size
    return _kept(tokens, compute_bytes, 2 * hidden_size, compute_bytes, inside)


@also_right("scale.layer_activations")
def tensor_by_tensor(tokens, hidden_size, intermediate_size, heads, kv_heads, head_dim, compute_bytes, residual_bytes):
    kept = [residual_bytes * hidden_size] * 2 + [compute_bytes * hidden_size] * 2
    kept += [compute_bytes * heads * head_dim] * 2 + [compute_bytes * kv_heads * head_dim] * 2
    kept += [compute_bytes * intermediate_size] * 4
    return sum(tokens * size for size in kept)


# 8.3


@cases("scale.flops_per_token")
def _(rng):
    def shape(length):
        return dict(
            matrices=int(rng.integers(10**6, 10**9)),
            layers=int(rng.integers(2, 40)),
            heads=int(rng.integers(2, 32)),
            head_dim=int(rng.choice([32, 64, 80, 128])),
            length=length,
        )

    return [
        Case("short rows", **shape(128)),
        Case("rows of 8192 tokens", **shape(8192)),
        Case("rows of 32768 tokens", **shape(32768)),
        Case("any length", **shape(int(rng.integers(100, 5000)))),
        Case("a row of one token", **shape(1)),
    ]


@wrong("scale.flops_per_token", "This is the forward pass alone: the backward pass costs twice as much again.")
def forward_only(matrices, layers, heads, head_dim, length):
    return 2 * matrices + 4 * layers * heads * head_dim * length


@wrong("scale.flops_per_token", "The backward pass does two products for each one of the forward pass, not one.")
def backward_like_forward(matrices, layers, heads, head_dim, length):
    return 4 * matrices + 8 * layers * heads * head_dim * length


@wrong("scale.flops_per_token", "Attention itself multiplies too: the term with the length is missing.")
def no_attention(matrices, layers, heads, head_dim, length):
    return 6 * matrices


@wrong("scale.flops_per_token", "Attention has two products, scores and values, and causality is not taken off here.")
def half_the_attention(matrices, layers, heads, head_dim, length):
    return 6 * matrices + 6 * layers * heads * head_dim * length


@wrong("scale.flops_per_token", "A token looks at `length` keys. Length squared is the whole row's cost.")
def whole_row(matrices, layers, heads, head_dim, length):
    return 6 * matrices + 12 * layers * heads * head_dim * length**2


@wrong("scale.flops_per_token", "A multiplication and an addition are two operations: yours counts one.")
def one_operation(matrices, layers, heads, head_dim, length):
    return 3 * matrices + 6 * layers * heads * head_dim * length


@also_right("scale.flops_per_token")
def by_parts(matrices, layers, heads, head_dim, length):
    forward = 2 * matrices + layers * heads * 2 * (2 * head_dim * length)
    return 3 * forward


# 8.4


@cases("scale.mfu")
def _(rng):
    def run(processes):
        return dict(
            tokens_per_second=float(rng.uniform(1e3, 1e6)),
            flops_per_token=float(rng.uniform(1e8, 1e11)),
            peak_flops=float(rng.uniform(1e13, 1e15)),
            processes=processes,
        )

    names = {"one card": 1, "two cards": 2, "a node": 8, "four nodes": 32, "an odd number": 3}
    return [Case(name, **run(count)) for name, count in names.items()]


@wrong("scale.mfu", "All cards together could have done more than one of them: the number of processes is not used.")
def one_card(tokens_per_second, flops_per_token, peak_flops, processes):
    return tokens_per_second * flops_per_token / peak_flops


@wrong("scale.mfu", "tokens_per_second is of all processes together already: divide by their number, do not multiply.")
def processes_multiplied(tokens_per_second, flops_per_token, peak_flops, processes):
    return tokens_per_second * flops_per_token * processes / peak_flops


@wrong("scale.mfu", "Needed over possible: yours is the other way round.")
def inverted(tokens_per_second, flops_per_token, peak_flops, processes):
    return peak_flops * processes / (tokens_per_second * flops_per_token)


@wrong("scale.mfu", "A fraction is wanted, not percent.")
def percent(tokens_per_second, flops_per_token, peak_flops, processes):
    return 100 * tokens_per_second * flops_per_token / (peak_flops * processes)


@wrong("scale.mfu", "Recomputed layers earn nothing: count what the model needs, not a third more.")
def recomputed_counted(tokens_per_second, flops_per_token, peak_flops, processes):
    return 4 / 3 * tokens_per_second * flops_per_token / (peak_flops * processes)


@also_right("scale.mfu")
def by_speed(tokens_per_second, flops_per_token, peak_flops, processes):
    possible = peak_flops / flops_per_token * processes
    return tokens_per_second / possible


# 8.5


@cases("scale.loss_scales")
def _(rng):
    def some(count, share):
        return [bool(v) for v in rng.random(count) < share]

    high, low = (2.0 ** int(n) for n in rng.integers([14, 3], [21, 8]))
    bad, cycles = [True] * int(rng.integers(7, 14)), int(rng.integers(3, 9))
    # All but the first reach the floor: without one none of them is right.
    return [
        Case("no overflow", overflowed=[False] * 11, start=4.0, interval=3, least=1.0),
        Case("always", overflowed=bad, start=high, interval=4, least=high / 8),
        Case("now and then", overflowed=[True] * 3 + some(40, 0.2), start=16 * low, interval=3, least=4 * low),
        Case("a scale far too high", overflowed=bad + [False] * 9 + [True, False], start=high, interval=4, least=low),
        Case("grows every step", overflowed=[True, True, *some(20, 0.4)], start=2 * low, interval=1, least=low),
        Case("a floor that is no half of the start", overflowed=[True, *bad, *[False, False, True, False] * cycles],
             start=64.0, interval=2, least=3.0),
    ]  # fmt: skip


def _scales(overflowed, start, interval, least, resets=True, counts_on=False, after=False, late=0):
    scale, good, out = start, 0, []
    for overflow in overflowed:
        before = scale
        if overflow:
            scale, good = max(scale / 2, least), 0 if resets else good
        else:
            good += 1
            if good >= interval + late:
                scale, good = scale * 2, good if counts_on else 0
        out.append(scale if after else before)
    return out


@wrong("scale.loss_scales", "An overflow starts the count of good steps anew: yours goes on counting.")
def overflow_keeps_the_count(overflowed, start, interval, least):
    return _scales(overflowed, start, interval, least, resets=False)


@wrong("scale.loss_scales", "After the scale has grown the count starts anew: yours doubles at every step from there.")
def grows_on(overflowed, start, interval, least):
    return _scales(overflowed, start, interval, least, counts_on=True)


@wrong("scale.loss_scales", "Give the scale that each step ran with, not the one it left behind.")
def after_the_step(overflowed, start, interval, least):
    return _scales(overflowed, start, interval, least, after=True)


@wrong("scale.loss_scales", "The scale grows once `interval` good steps have gone by: yours waits for one more.")
def one_step_late(overflowed, start, interval, least):
    return _scales(overflowed, start, interval, least, late=1)


@wrong("scale.loss_scales", "The scale never grows: a run that once overflowed would stay too low for ever.")
def only_down(overflowed, start, interval, least):
    return _scales(overflowed, start, 10**9, least)


@wrong("scale.loss_scales", "An overflow must lower the scale: yours only skips the step.")
def only_up(overflowed, start, interval, least):
    scale, good, out = start, 0, []
    for overflow in overflowed:
        out.append(scale)
        good = 0 if overflow else good + 1
        if good == interval:
            scale, good = scale * 2, 0
    return out


@wrong("scale.loss_scales", "The floor is missing: the scale never falls below `least`.")
def no_floor(overflowed, start, interval, least):
    return _scales(overflowed, start, interval, 0.0)


@wrong("scale.loss_scales", "You raise what you return to `least`, but go on from less: the scale itself stays there.")
def floor_on_paper(overflowed, start, interval, least):
    return [max(scale, least) for scale in _scales(overflowed, start, interval, 0.0)]


@wrong("scale.loss_scales", "Where half the scale would be below `least` it becomes `least`: yours stays where it was.")
def stays_above(overflowed, start, interval, least):
    scale, good, out = start, 0, []
    for overflow in overflowed:
        out.append(scale)
        good = 0 if overflow else good + 1
        if overflow:
            scale = scale / 2 if scale / 2 >= least else scale
        elif good == interval:
            scale, good = scale * 2, 0
    return out


@also_right("scale.loss_scales")
def by_runs(overflowed, start, interval, least):
    scales, run = [start], []
    for overflow in overflowed:
        run = [] if overflow or len(run) == interval else run
        run = run if overflow else [*run, True]
        grown = 2.0 if len(run) == interval else 1.0
        scales.append(max(scales[-1] * 0.5, least) if overflow else scales[-1] * grown)
    return scales[:-1]


# 8.6


@cases("scale.decode_limit")
def _(rng):
    def sizes(batch, share):
        weights = float(rng.uniform(1e9, 2e10))
        return dict(
            weight_bytes=weights,
            cache_bytes=weights * share,
            bandwidth=float(rng.uniform(2e11, 5e12)),
            batch=batch,
        )

    return [
        Case("batch 1, a short reply", **sizes(1, 0.001)),
        Case("batch 1, a long history", **sizes(1, 0.6)),
        Case("a batch of 8", **sizes(8, 0.05)),
        Case("64 long rows: the cache rules", **sizes(64, 0.4)),
        Case("no cache", **sizes(4, 0.0)),
    ]


@wrong("scale.decode_limit", "Each step reads the cache too: it is missing.")
def no_cache(weight_bytes, cache_bytes, bandwidth, batch):
    return batch * bandwidth / weight_bytes


@wrong("scale.decode_limit", "Every row has a cache of its own: yours reads one for all.")
def one_cache(weight_bytes, cache_bytes, bandwidth, batch):
    return batch * bandwidth / (weight_bytes + cache_bytes)


@wrong("scale.decode_limit", "The rows share one reading of the weights: that is what a batch is for.")
def weights_per_row(weight_bytes, cache_bytes, bandwidth, batch):
    return bandwidth / (weight_bytes + cache_bytes)


@wrong("scale.decode_limit", "These are steps a second. A step makes one token for every row.")
def steps(weight_bytes, cache_bytes, bandwidth, batch):
    return bandwidth / (weight_bytes + batch * cache_bytes)


@wrong("scale.decode_limit", "Tokens a second are wanted: yours are seconds a token.")
def seconds(weight_bytes, cache_bytes, bandwidth, batch):
    return (weight_bytes + batch * cache_bytes) / (bandwidth * batch)


@also_right("scale.decode_limit")
def by_bytes_per_token(weight_bytes, cache_bytes, bandwidth, batch):
    return bandwidth / (weight_bytes / batch + cache_bytes)


# 8.7


@cases("scale.ragged_attention")
def _(rng):
    def held(batch, heads, kv_heads, capacity, lengths=None):
        dim = int(rng.choice([4, 8, 16]))
        lengths = lengths or [int(n) for n in rng.integers(1, capacity, batch)]
        return dict(
            query=2 * draw(rng, batch, heads, dim),
            keys=draw(rng, batch, kv_heads, capacity, dim),
            values=draw(rng, batch, kv_heads, capacity, dim),
            lengths=torch.tensor(lengths),
        )

    return [
        Case("three rows, grouped queries", **held(3, 6, 2, 11)),
        Case("a full cache", **held(2, 4, 2, 7, [7, 7])),
        Case("a row with one token", **held(2, 4, 2, 9, [1, 6])),
        Case("a key head for each query head", **held(3, 4, 4, 10)),
        Case("one key head for all", **held(4, 5, 1, 8)),
        Case("one row", **held(1, 8, 2, 12, [5])),
    ]


def _attend(query, keys, values, seen, keys_of=None, scale=None):
    heads, kv_heads = query.shape[1], keys.shape[1]
    chosen = torch.arange(heads) // (heads // kv_heads) if keys_of is None else keys_of
    scores = torch.einsum("bhd,bhld->bhl", query, keys[:, chosen])
    scores = scores / math.sqrt(query.shape[-1]) if scale is None else scores * scale
    if seen is not None:
        scores = scores.masked_fill(~seen[:, None], -math.inf)
    return torch.einsum("bhl,bhld->bhd", scores.softmax(-1), values[:, chosen])


def _seen(keys, lengths):
    return torch.arange(keys.shape[2])[None] < lengths[:, None]


@wrong("scale.ragged_attention", "Places that nobody has written yet take part: mask all from each row's length on.")
def no_mask(query, keys, values, lengths):
    return _attend(query, keys, values, None)


@wrong("scale.ragged_attention", "A row of length n holds places 0 to n - 1: yours sees one too many.")
def one_too_many(query, keys, values, lengths):
    return _attend(query, keys, values, _seen(keys, lengths + 1))


@wrong("scale.ragged_attention", "Every row has a length of its own: yours uses the longest for all.")
def longest_for_all(query, keys, values, lengths):
    return _attend(query, keys, values, _seen(keys, lengths.max().expand(len(lengths))))


@wrong("scale.ragged_attention", "Neighbouring query heads share a key head: yours deals them out in turn.")
def dealt_in_turn(query, keys, values, lengths):
    turn = torch.arange(query.shape[1]) % keys.shape[1]
    return _attend(query, keys, values, _seen(keys, lengths), keys_of=turn)


@wrong("scale.ragged_attention", "Scores are divided by the root of head_dim: it is missing.")
def no_scale(query, keys, values, lengths):
    return _attend(query, keys, values, _seen(keys, lengths), scale=1.0)


@wrong("scale.ragged_attention", "A score of zero still gets weight from the softmax: mask with minus infinity.")
def masked_with_zero(query, keys, values, lengths):
    seen = _seen(keys, lengths)
    return _attend(query, keys * seen[:, None, :, None], values, None)


@also_right("scale.ragged_attention")
def by_torch(query, keys, values, lengths):
    mask = _seen(keys, lengths)[:, None, None]
    out = F.scaled_dot_product_attention(query.unsqueeze(2), keys, values, attn_mask=mask, enable_gqa=True)
    return out.squeeze(2)


@also_right("scale.ragged_attention")
def row_by_row(query, keys, values, lengths):
    rows = []
    for q, k, v, n in zip(query, keys, values, lengths.tolist(), strict=True):
        group = len(q) // len(k)
        heads = [(k[h // group, :n] @ q[h] / len(q[h]) ** 0.5).softmax(0) @ v[h // group, :n] for h in range(len(q))]
        rows.append(torch.stack(heads))
    return torch.stack(rows)


# 8.8


@cases("scale.quantise_rows")
def _(rng):
    rows, columns = int(rng.integers(4, 9)), int(rng.integers(10, 20))
    weight = draw(rng, rows, columns)
    zero = weight.clone()
    zero[1] = 0
    return [
        Case("random weights", weight=draw(rng, rows, columns)),
        Case("rows of different sizes", weight=weight * torch.logspace(-2, 2, rows)[:, None]),
        Case("a row of zeros", weight=zero),
        Case("one outlier", weight=torch.cat([weight[:, :-1], 30 * weight[:, -1:]], dim=1)),
        Case("tall", weight=draw(rng, 3 * columns, 5)),
        Case("weights of a real size", weight=0.02 * draw(rng, rows, columns)),
    ]


def _rounded(weight, scale):
    return torch.where(scale > 0, weight / scale.clamp(min=1e-30), 0.0).round()


def _row_scale(weight, largest=127):
    return weight.abs().amax(dim=1) / largest


@wrong("scale.quantise_rows", "Each row has a scale of its own: one for the whole matrix wastes the small rows.")
def one_scale(weight):
    scale = (weight.abs().max() / 127).expand(len(weight)).clone()
    return _rounded(weight, scale[:, None]).to(torch.int8), scale


@wrong("scale.quantise_rows", "Round to the nearest integer: yours cuts off.")
def cut_off(weight):
    scale = _row_scale(weight)
    whole = torch.where(scale[:, None] > 0, weight / scale[:, None].clamp(min=1e-30), 0.0)
    return (whole + 1e-4 * whole.sign()).to(torch.int8), scale


@wrong("scale.quantise_rows", "The largest weight becomes 127: with 128 it has no place in int8.")
def up_to_128(weight):
    scale = _row_scale(weight, 128)
    return _rounded(weight, scale[:, None]).clamp(-128, 127).to(torch.int8), scale


@wrong("scale.quantise_rows", "Weight = integer * scale: yours returns one over the scale.")
def one_over(weight):
    scale = _row_scale(weight)
    return _rounded(weight, scale[:, None]).to(torch.int8), torch.where(scale > 0, 1 / scale.clamp(min=1e-30), 0.0)


@wrong("scale.quantise_rows", "The largest by size counts, be it negative: take the absolute value first.")
def signed_maximum(weight):
    scale = weight.amax(dim=1).clamp(min=0) / 127
    return _rounded(weight, scale[:, None]).clamp(-127, 127).to(torch.int8), scale


@wrong("scale.quantise_rows", "The scale is the largest over 127: yours is twice that, and a bit is wasted.")
def a_bit_wasted(weight):
    scale = 2 * _row_scale(weight)
    return _rounded(weight, scale[:, None]).to(torch.int8), scale


@also_right("scale.quantise_rows")
def row_after_row(weight):
    whole, scales = [], []
    for row in weight.double():
        scale = row.abs().max().item() / 127
        whole.append((row / scale).round() if scale else torch.zeros_like(row))
        scales.append(scale)
    return torch.stack(whole).to(torch.int8), torch.tensor(scales)
