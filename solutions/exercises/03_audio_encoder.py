"""Cases, wrong answers and other right answers of lab 03."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from omni_lab.lab.authoring import Case, Exercise, also_right, cases, wrong

EXERCISES = [
    Exercise(
        "audio.frame_signal", "3.1", "Frames", points=10, difficulty=2, minutes=12,
        hints=(
            "If frame 0 is centred at sample 0, how many samples does it need from before the sound begins?",
            '`padded = F.pad(wave[None], (window // 2, window // 2), mode="reflect")[0]`, then `unfold`.',
        ),
    ),
    Exercise(
        "audio.mel_filters", "3.2", "Mel filters", points=15, difficulty=3, minutes=20, rtol=1e-3,
        hints=(
            "A triangle is the smaller of two straight lines, but never below zero. Which two lines?",
            "`rising = (frequencies - left) / (top - left)`, with `left = edges[:-2, None]`.",
        ),
    ),
    Exercise(
        "audio.log_compress", "3.3", "Log compression", points=10, difficulty=2, minutes=8,
        hints=(
            "The floor depends on the loudest place: of one frame, of one filter, or of the whole clip?",
            "`level = mel_power.clamp(min=1e-10).log10()`",
        ),
    ),
    Exercise(
        "audio.token_count", "3.4", "How many tokens?", points=10, difficulty=2, minutes=10,
        target="omni_lab.encoders.audio:token_count",
        hints=(
            "With one zero on each side, does the convolution of 5 frames give 2 or 3?",
            "`halved = (frames - 1) // 2 + 1`",
        ),
    ),
    Exercise(
        "audio.pair_average", "3.5", "Neighbours in pairs", points=5, difficulty=1, minutes=5,
        target="omni_lab.encoders.audio:pair_average",
        hints=(
            "Which slices of the second-to-last dimension give every first and every second of a pair?",
            "`even = frames.shape[-2] // 2 * 2`",
        ),
    ),
    Exercise(
        "audio.chunk_lengths", "3.6", "Cut into chunks", points=5, difficulty=1, minutes=6,
        target="omni_lab.encoders.audio:chunk_lengths",
        hints=(
            "What remains of 400 frames after two chunks of 200? Should it be in the list?",
            "`lengths += [chunk] * (total // chunk)` for each clip.",
        ),
    ),
    Exercise(
        "audio.block_mask", "3.7", "The block mask", points=15, difficulty=3, minutes=20,
        hints=(
            "Two numbers say all about a frame: its clip, and its block within that clip. When may one see another?",
            "`blocks = torch.cat([torch.arange(n) // block for n in lengths])`",
        ),
    ),
    Exercise(
        "audio.settled_tokens", "3.8", "What is settled?", points=15, difficulty=3, minutes=20,
        hints=(
            "How many mel frames are known after 200 samples? After 359? After 360?",
            "`known = (samples - 200) // 160 + 1 if samples >= 200 else 0`",
        ),
    ),
    Exercise(
        "audio.word_error_rate", "3.9", "Word error rate", points=15, difficulty=3, minutes=20,
        hints=(
            "If the last words agree, what does the entry cost? And what are the other ways to get there?",
            "`row = list(range(len(other) + 1))`: making j heard words from nothing costs j.",
        ),
    ),
]  # fmt: skip


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape)).float()


# 3.1


@cases("audio.frame_signal")
def _(rng):
    return [
        Case("window 16, hop 6", wave=draw(rng, int(rng.integers(80, 99))), window=16, hop=6),
        Case("hop divides the length", wave=draw(rng, 60), window=8, hop=5),
        Case("an odd window", wave=draw(rng, int(rng.integers(50, 70))), window=9, hop=4),
        Case("no overlap", wave=draw(rng, 64), window=8, hop=8),
        Case("Whisper's numbers", wave=draw(rng, int(rng.integers(1700, 2000))), window=400, hop=160),
        Case("a ramp", wave=torch.arange(40.0), window=10, hop=3),
    ]


def _frames(wave, window, hop, mode="reflect", left=None, drop=True):
    half = window // 2 if left is None else left
    padded = F.pad(wave[None], (half, window // 2), mode=mode)[0]
    found = padded.unfold(0, window, hop)
    return (found[: len(wave) // hop] if drop else found).clone()


@wrong("audio.frame_signal", "At the ends you put zeros: mirror the sound instead.")
def zeros_at_the_ends(wave, window, hop):
    return _frames(wave, window, hop, mode="constant")


@wrong(
    "audio.frame_signal", "Your frames start at i * hop: they must be centred there, so pad window // 2 on both sides."
)
def not_centred(wave, window, hop):
    return wave.unfold(0, window, hop).clone()


@wrong("audio.frame_signal", "At the ends you repeat the last sample: mirror the sound instead.")
def repeated_ends(wave, window, hop):
    return _frames(wave, window, hop, mode="replicate")


@wrong("audio.frame_signal", "One frame too many: Whisper drops the last, keep samples // hop.")
def one_too_many(wave, window, hop):
    return _frames(wave, window, hop, drop=False)


@wrong("audio.frame_signal", "You dropped the first frame: it is the last that goes.")
def first_dropped(wave, window, hop):
    return _frames(wave, window, hop, drop=False)[1 : 1 + len(wave) // hop]


@wrong("audio.frame_signal", "A frame is a row: yours stand in columns.")
def columns(wave, window, hop):
    return _frames(wave, window, hop).T.clone()


@wrong("audio.frame_signal", "The window is faded in the next step: frames are the samples themselves.")
def faded(wave, window, hop):
    return _frames(wave, window, hop) * torch.hann_window(window)


@also_right("audio.frame_signal")
def by_index(wave, window, hop):
    padded = F.pad(wave[None], (window // 2, window // 2), mode="reflect")[0]
    starts = torch.arange(len(wave) // hop) * hop
    return padded[starts[:, None] + torch.arange(window)]


# 3.2


@cases("audio.mel_filters")
def _(rng):
    def edges(count, top):
        steps = torch.from_numpy(rng.uniform(0.5, 1.5, count + 1)).float().cumsum(0)
        return torch.cat([torch.zeros(1), steps / steps[-1] * top])

    return [
        Case("four filters", edges=edges(4, 80.0), frequencies=torch.linspace(0, 80, 33)),
        Case("ten filters", edges=edges(10, 8000.0), frequencies=torch.linspace(0, 8000, 101)),
        Case("frequencies beyond the last edge", edges=edges(5, 50.0), frequencies=torch.linspace(0, 90, 46)),
        Case("even edges", edges=torch.linspace(0, 60, 8), frequencies=torch.linspace(0, 60, 31)),
        Case("a first edge above zero", edges=20 + edges(3, 40.0), frequencies=torch.linspace(0, 70, 36)),
        Case(
            "frequencies out of order",
            edges=edges(4, 30.0),
            frequencies=torch.from_numpy(rng.uniform(0, 30, 25)).float(),
        ),
    ]


def _triangles(edges, frequencies):
    left, top, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return torch.minimum((frequencies - left) / (top - left), (right - frequencies) / (right - top)), left, top, right


@wrong("audio.mel_filters", "All your triangles have height 1: the top is 2 / (right - left), so that the area is 1.")
def height_one(edges, frequencies):
    return _triangles(edges, frequencies)[0].clamp(min=0)


@wrong("audio.mel_filters", "Outside its edges a triangle is zero: yours goes below.")
def below_zero(edges, frequencies):
    found, left, _, right = _triangles(edges, frequencies)
    return found * 2 / (right - left)


@wrong("audio.mel_filters", "The area is half of width times height: your triangles have area 1/2, the 2 is missing.")
def half_area(edges, frequencies):
    found, left, _, right = _triangles(edges, frequencies)
    return found.clamp(min=0) / (right - left)


@wrong("audio.mel_filters", "That is (bins, mels): rows are filters.")
def transposed(edges, frequencies):
    found, left, _, right = _triangles(edges, frequencies)
    return (found.clamp(min=0) * 2 / (right - left)).T.clone()


@wrong("audio.mel_filters", "Your filters are boxes: they must rise to the top and fall again.")
def boxes(edges, frequencies):
    _, left, _, right = _triangles(edges, frequencies)
    return ((frequencies > left) & (frequencies < right)).float() / (right - left)


@wrong("audio.mel_filters", "Your triangles only rise: from the top on they fall to zero at the right edge.")
def only_rising(edges, frequencies):
    _, left, top, right = _triangles(edges, frequencies)
    return ((frequencies - left) / (top - left)).clamp(0, 1) * 2 / (right - left)


@wrong("audio.mel_filters", "Each weight row sums to 1 in yours: it is the area under the triangle that is 1, in Hz.")
def sums_to_one(edges, frequencies):
    found = _triangles(edges, frequencies)[0].clamp(min=0)
    return found / found.sum(dim=1, keepdim=True).clamp(min=1e-9)


@also_right("audio.mel_filters")
def one_by_one(edges, frequencies):
    rows = []
    for left, top, right in zip(edges, edges[1:], edges[2:], strict=False):
        rise, fall = (frequencies - left) / (top - left), (right - frequencies) / (right - top)
        inside = (frequencies > left) & (frequencies < right)
        rows.append(torch.where(inside, torch.where(frequencies < top, rise, fall), 0.0) * 2 / (right - left))
    return torch.stack(rows)


# 3.3


@cases("audio.log_compress")
def _(rng):
    def power(rows, columns, low, high):
        return torch.from_numpy(10 ** rng.uniform(low, high, (rows, columns))).float()

    loud = power(4, 9, -3, 0)
    loud[1, 2] = 300.0
    silent = power(3, 8, -6, 2)
    silent[:, 3] = 0
    return [
        Case("speech-like", mel_power=power(5, 12, -4, 2)),
        Case("silence within", mel_power=silent),
        Case("all silent", mel_power=torch.zeros(4, 6)),
        Case("a range of 14 powers of ten", mel_power=power(6, 15, -9, 5)),
        Case("one loud place", mel_power=loud),
        Case("very faint", mel_power=power(3, 7, -16, -8)),
    ]


def _log(power):
    return power.clamp(min=1e-10).log10()


@wrong("audio.log_compress", "That is the natural logarithm: take the base-10 one.")
def natural(mel_power):
    level = mel_power.clamp(min=1e-10).log()
    return (torch.maximum(level, level.max() - 8) + 4) / 4


@wrong("audio.log_compress", "The floor 8 below the loudest place is missing.")
def no_floor(mel_power):
    return (_log(mel_power) + 4) / 4


@wrong("audio.log_compress", "You took the loudest place of each frame: take that of the whole clip.")
def each_frame(mel_power):
    level = _log(mel_power)
    return (torch.maximum(level, level.amax(dim=0) - 8) + 4) / 4


@wrong("audio.log_compress", "You took the loudest place of each filter: take that of the whole clip.")
def each_filter(mel_power):
    level = _log(mel_power)
    return (torch.maximum(level, level.amax(dim=1, keepdim=True) - 8) + 4) / 4


@wrong("audio.log_compress", "The last step is missing: add 4, then divide by 4.")
def not_scaled(mel_power):
    level = _log(mel_power)
    return torch.maximum(level, level.max() - 8)


@wrong("audio.log_compress", "First add 4, then divide: you divided first.")
def divided_first(mel_power):
    level = _log(mel_power)
    return torch.maximum(level, level.max() - 8) / 4 + 4


@wrong("audio.log_compress", "That is decibel: the logarithm is not to be multiplied by 10.")
def decibel(mel_power):
    level = 10 * _log(mel_power)
    return (torch.maximum(level, level.max() - 80) + 4) / 4


@wrong("audio.log_compress", "You added 1e-10 to the power: raise to at least 1e-10 what is below it.")
def added(mel_power):
    level = (mel_power + 1e-10).log10()
    return (torch.maximum(level, level.max() - 8) + 4) / 4


@also_right("audio.log_compress")
def by_numpy(mel_power):
    level = np.log10(np.maximum(mel_power.numpy(), 1e-10))
    return torch.from_numpy((np.maximum(level, level.max() - 8) + 4) / 4).float()


# 3.4


@cases("audio.token_count")
def _(rng):
    odd = 4 * int(rng.integers(30, 400))
    return [
        Case("2 s", frames=200),
        Case("one frame", frames=1),
        Case("two frames", frames=2),
        Case("three frames", frames=3),
        Case("203 frames", frames=203),
        Case("a multiple of four", frames=odd),
        Case("one more", frames=odd + 1),
        Case("two more", frames=odd + 2),
        Case("three more", frames=odd + 3),
    ]


@wrong("audio.token_count", "The stride-2 convolution rounds up: of 3 frames it makes 2. You rounded down.")
def quarter(frames):
    return frames // 4


@wrong("audio.token_count", "The averaging drops an odd frame: the second step rounds down. You rounded up.")
def rounded_up_twice(frames):
    return math.ceil(math.ceil(frames / 2) / 2)


@wrong("audio.token_count", "That is the number of 20 ms frames: the averaging in pairs is missing.")
def not_averaged(frames):
    return (frames - 1) // 2 + 1


@wrong("audio.token_count", "A number of tokens is an integer: round down where a pair is incomplete.")
def a_fraction(frames):
    return frames / 4


@wrong("audio.token_count", "You rounded to the nearest: the first step rounds up, the second down.")
def to_the_nearest(frames):
    return int(frames / 4 + 0.5)


@wrong("audio.token_count", "One too many: a half pair at the end gives no token, and 1 or 2 frames give none.")
def one_too_many_tokens(frames):
    return ((frames - 1) // 2 + 1) // 2 + 1


@also_right("audio.token_count")
def by_halves(frames):
    return (frames + 1) // 2 // 2


# 3.5


@cases("audio.pair_average")
def _(rng):
    dim = int(rng.integers(3, 7))
    return [
        Case("an even length", frames=draw(rng, 8, dim)),
        Case("an odd length", frames=draw(rng, 9, dim)),
        Case("a batch", frames=draw(rng, 3, 7, dim)),
        Case("one pair", frames=draw(rng, 2, dim)),
        Case("a single frame", frames=draw(rng, 1, dim)),
        Case("no feature like another", frames=draw(rng, 2, 6, 5) * torch.arange(1.0, 6.0)),
    ]


@wrong("audio.pair_average", "That is the sum of each pair: divide by 2.")
def summed(frames):
    even = frames.shape[-2] // 2 * 2
    return frames[..., 0:even:2, :] + frames[..., 1:even:2, :]


@wrong("audio.pair_average", "You kept the first of each pair: average the two.")
def first_of_each(frames):
    return frames[..., 0 : frames.shape[-2] // 2 * 2 : 2, :].clone()


@wrong("audio.pair_average", "You averaged frame i with frame i + half: neighbours are 0 and 1, 2 and 3.")
def halves(frames):
    pairs = frames.shape[-2] // 2
    return (frames[..., :pairs, :] + frames[..., pairs : 2 * pairs, :]) / 2


@wrong("audio.pair_average", "You averaged features: the pairs lie along the length, the second-to-last dimension.")
def over_features(frames):
    even = frames.shape[-1] // 2 * 2
    return (frames[..., 0:even:2] + frames[..., 1:even:2]) / 2


@wrong("audio.pair_average", "An odd frame at the end falls away: yours stays as a token of its own.")
def odd_kept(frames):
    even = frames.shape[-2] // 2 * 2
    pairs = (frames[..., 0:even:2, :] + frames[..., 1:even:2, :]) / 2
    return torch.cat([pairs, frames[..., even:, :]], dim=-2)


@wrong("audio.pair_average", "Your pairs overlap: after 0 and 1 come 2 and 3, not 1 and 2.")
def sliding(frames):
    return (frames[..., :-1, :] + frames[..., 1:, :]) / 2


@wrong("audio.pair_average", "With an odd length it is the last frame that falls away, not the first.")
def first_falls(frames):
    rest = frames[..., frames.shape[-2] % 2 :, :]
    return (rest[..., 0::2, :] + rest[..., 1::2, :]) / 2


@also_right("audio.pair_average")
def by_reshape(frames):
    pairs = frames.shape[-2] // 2
    return frames[..., : 2 * pairs, :].reshape(*frames.shape[:-2], pairs, 2, frames.shape[-1]).mean(dim=-2)


# 3.6


@cases("audio.chunk_lengths")
def _(rng):
    return [
        Case("one clip", frames=[int(rng.integers(410, 590))], chunk=200),
        Case("a multiple of the chunk", frames=[30 * int(rng.integers(3, 60))], chunk=30),
        Case("several clips", frames=[int(n) for n in rng.integers(100, 900, 4)], chunk=200),
        Case("shorter than a chunk", frames=[int(rng.integers(1, 90))], chunk=100),
        Case("another chunk", frames=[int(n) for n in rng.integers(30, 200, 3)], chunk=32),
        Case("clips of whole chunks and not", frames=[64, 65, 63], chunk=64),
        Case("no clips", frames=[], chunk=200),
    ]


def _chunks(frames, chunk):
    return [min(chunk, total - at) for total in frames for at in range(0, total, chunk)]


@wrong("audio.chunk_lengths", "What remains of a clip is missing: it is a shorter last chunk.")
def remainder_lost(frames, chunk=200):
    return [chunk for total in frames for _ in range(total // chunk)]


@wrong("audio.chunk_lengths", "Where a clip is a multiple of the chunk, you add an empty one: none is empty.")
def empty_chunk(frames, chunk=200):
    return [n for total in frames for n in [chunk] * (total // chunk) + [total % chunk]]


@wrong("audio.chunk_lengths", "You cut the clips as if they were one: no chunk holds frames of two clips.")
def across_clips(frames, chunk=200):
    return _chunks([sum(frames)], chunk)


@wrong("audio.chunk_lengths", "The last chunk is not padded: it has the length that remains.")
def padded(frames, chunk=200):
    return [chunk for total in frames for _ in range(0, total, chunk)]


@wrong("audio.chunk_lengths", "The shorter chunk comes last in its clip, not first.")
def short_first(frames, chunk=200):
    return [n for total in frames for n in reversed(_chunks([total], chunk))]


@wrong("audio.chunk_lengths", "You made the chunks equally long: all are full but the last.")
def equal_parts(frames, chunk=200):
    found = []
    for total in frames:
        count = math.ceil(total / chunk)
        found += [total // count + (i < total % count) for i in range(count)]
    return found


@wrong("audio.chunk_lengths", "One flat list for all clips, not a list for each.")
def nested(frames, chunk=200):
    return [_chunks([total], chunk) for total in frames]


@also_right("audio.chunk_lengths")
def by_divmod(frames, chunk=200):
    found = []
    for total in frames:
        whole, rest = divmod(total, chunk)
        found.extend([chunk] * whole + [rest] * (rest > 0))
    return found


# 3.7


@cases("audio.block_mask")
def _(rng):
    some = [int(n) for n in rng.integers(5, 14, 3)]
    return [
        Case("one clip, no block back", lengths=[int(rng.integers(11, 40))], block=4, back=0),
        Case("one block back", lengths=[int(rng.integers(13, 40))], block=4, back=1),
        Case("several clips", lengths=some, block=4, back=0),
        Case("several clips, one block back", lengths=some, block=3, back=1),
        Case("two blocks back", lengths=[int(n) for n in rng.integers(13, 25, 2)], block=3, back=2),
        Case("clips shorter than a block", lengths=[int(n) for n in rng.integers(2, 7, 4)], block=7, back=1),
    ]


def _mask(lengths, block, back, clip_aware=True, ahead=False, causal=False, over_all=False):
    clips = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    places = torch.arange(sum(lengths)) if over_all else torch.cat([torch.arange(n) for n in lengths])
    step = places[:, None] // block - places[None] // block
    seen = (step.abs() <= back) if ahead else (step >= 0) & (step <= back)
    if clip_aware:
        seen = seen & (clips[:, None] == clips[None])
    if causal:
        seen = seen & torch.ones_like(seen).tril()
    return seen


@wrong("audio.block_mask", "Frames of different clips see each other: compare the clips too.")
def other_clips(lengths, block, back):
    return _mask(lengths, block, back, clip_aware=False)


@wrong("audio.block_mask", "Within its block a frame sees later frames too: yours is causal.")
def causal(lengths, block, back):
    return _mask(lengths, block, back, causal=True)


@wrong("audio.block_mask", "Yours looks ahead as far as back: later blocks have not been spoken yet.")
def looks_ahead(lengths, block, back):
    return _mask(lengths, block, back, ahead=True)


@wrong("audio.block_mask", "The blocks before its own are missing: `back` of them may be seen.")
def no_look_back(lengths, block, back):
    return _mask(lengths, block, 0)


@wrong("audio.block_mask", "Count blocks from the start of each clip, not of the whole row.")
def counted_over_all(lengths, block, back):
    return _mask(lengths, block, back, over_all=True)


@wrong("audio.block_mask", "Rows look and columns are looked at: yours is transposed.")
def transposed_mask(lengths, block, back):
    return _mask(lengths, block, back).T.clone()


@wrong("audio.block_mask", "True is for what may be seen: yours is the opposite.")
def inverted(lengths, block, back):
    return ~_mask(lengths, block, back)


@wrong("audio.block_mask", "One block too many: with back = 0 a frame sees its own block alone.")
def one_block_too_many(lengths, block, back):
    return _mask(lengths, block, back + 1)


@also_right("audio.block_mask")
def by_block_diagonal(lengths, block, back):
    parts = []
    for total in lengths:
        mask = torch.zeros(total, total, dtype=torch.bool)
        for start in range(0, total, block):
            mask[start : start + block, max(0, start - back * block) : start + block] = True
        parts.append(mask)
    return torch.block_diag(*parts)


# 3.8


@cases("audio.settled_tokens")
def _(rng):
    border = 199 * 160 + 200  # the last mel frame of the first block is known
    a, b, c, d, e, f = (32_000 * int(n) for n in rng.integers(1, 60, 6))  # whole blocks
    return [
        Case("nothing yet", samples=0, ended=False),
        Case("one sample short of a block", samples=a + border - 1, ended=False),
        Case("a block, to the sample", samples=border, ended=False),
        Case("a multiple of 2 s", samples=b, ended=False),
        Case("a little over a multiple of 2 s", samples=c + 220, ended=False),
        Case("a later block, to the sample", samples=d + border, ended=False),
        Case("somewhere", samples=int(rng.integers(80_000, 90_000)), ended=False),
        Case("ended, with a rest", samples=int(rng.integers(105_000, 108_000)), ended=True),
        Case("ended after a multiple of 2 s", samples=e, ended=True),
        Case("ended before one token", samples=int(rng.integers(160, 480)), ended=True),
        Case("ended before one frame", samples=int(rng.integers(1, 160)), ended=True),
        Case("ended just after a block", samples=f + 3 * 160 + int(rng.integers(0, 40)), ended=True),
    ]


def _known(samples):
    return (samples - 200) // 160 + 1 if samples >= 200 else 0


def _tokens(samples):
    return (samples // 160 + 1) // 2 // 2


@wrong("audio.settled_tokens", "Without the window's half: frame i needs the 200 samples after its centre.")
def no_look_ahead(samples, ended):
    return _tokens(samples) if ended else samples // 32000 * 50


@wrong("audio.settled_tokens", "Frame i needs half a window after its centre, 200 samples, not a whole one of 400.")
def whole_window(samples, ended):
    known = (samples - 400) // 160 + 1 if samples >= 400 else 0
    return _tokens(samples) if ended else known // 200 * 50


@wrong("audio.settled_tokens", "A token within an unfinished block still changes: later frames of its block are seen.")
def token_by_token(samples, ended):
    return _tokens(samples) if ended else (_known(samples) + 1) // 2 // 2


@wrong("audio.settled_tokens", "When the sound has ended, the rest counts too, as a shorter block.")
def rest_lost(samples, ended):
    return _known(samples) // 200 * 50


@wrong("audio.settled_tokens", "Frames are known from sample 200 on: the first is frame 0, so add 1.")
def frame_zero_forgotten(samples, ended):
    return _tokens(samples) if ended else max(0, (samples - 200) // 160) // 200 * 50


@wrong("audio.settled_tokens", "A block of 200 frames gives 50 tokens: frames are halved twice.")
def halved_once(samples, ended):
    return _tokens(samples) if ended else _known(samples) // 200 * 100


@wrong(
    "audio.settled_tokens", "After the end all samples // 160 frames count, also those whose window reaches beyond it."
)
def end_not_padded(samples, ended):
    return (_known(samples) + 1) // 2 // 2 if ended else _known(samples) // 200 * 50


@also_right("audio.settled_tokens")
def by_counting(samples, ended):
    if ended:
        return max(0, math.ceil((samples // 160) / 2) // 2)
    blocks = 0
    while (200 * (blocks + 1) - 1) * 160 + 200 <= samples:
        blocks += 1
    return 50 * blocks


# 3.9

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "ran", "in", "sun", "red", "big", "is", "it"]


@cases("audio.word_error_rate")
def _(rng):
    def text(count):
        return " ".join(WORDS[int(i)] for i in rng.integers(0, len(WORDS), count))

    # In most of them something differs that `metrics.word_error_rate` forgives: two and 2, a comma, a full stop.
    a, b, c, d = text(3), text(4), text(5), text(6)
    return [
        Case("one word wrong", references=[f"The {a} saw Two {b}"], heard=[f"the {a} saw 2 {b}"]),
        Case("words missing", references=[f"hats {a} and {b} hats. {c}"], heard=[f"{a} {b} hats {c}"]),
        Case("a word too many", references=[f"{c}, three"], heard=[f"{c} a 3"]),
        Case("shifted by one", references=[f"a {d}, and he"], heard=[f"we a {d} and he"]),
        Case("nothing alike", references=[f"{text(12)} six"], heard=[f"{text(11)} 6"]),
        Case("short and long texts", references=["red", f"{text(9)} cat."], heard=["dog", f"{text(9)} cat"]),
        Case("nothing heard", references=[a, f"{b} two"], heard=["", f"{b} 2"]),
        Case("more heard than said", references=["two"], heard=[f"2 {d}"]),
        Case("nothing said", references=[""], heard=["dog ran"]),
        Case("silence on both sides", references=["", ""], heard=["", ""]),
    ]


def _edits(one, other, replace=1, drop=1, add=1):
    row = [add * j for j in range(len(other) + 1)]
    for i, word in enumerate(one, 1):
        last, row = row, [drop * i]
        for j, guess in enumerate(other, 1):
            row.append(min(last[j] + drop, row[j - 1] + add, last[j - 1] + replace * (word != guess)))
    return row[-1]


def _rate(references, heard, errors_of, split=lambda text: text.lower().split()):
    pairs = [(split(one), split(other)) for one, other in zip(references, heard, strict=True)]
    errors, words = sum(errors_of(*pair) for pair in pairs), sum(len(one) for one, _ in pairs)
    return errors / words if words else float(errors > 0)


@wrong("audio.word_error_rate", "You took the mean of the texts' rates: sum the errors, then divide by all words.")
def mean_of_rates(references, heard):
    rates = [_rate([one], [other], _edits) for one, other in zip(references, heard, strict=True)]
    return sum(rates) / len(rates) if any(references) else float(any(heard))


@wrong(
    "audio.word_error_rate",
    "You compared word by word at the same place: one extra word must not cost all that follow.",
)
def place_by_place(references, heard):
    def errors(one, other):
        return sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))

    return _rate(references, heard, errors)


@wrong("audio.word_error_rate", "Upper and lower case are alike.")
def case_matters(references, heard):
    return _rate(references, heard, _edits, str.split)


@wrong("audio.word_error_rate", "A changed word is one error, not a dropped one and an added one.")
def change_costs_two(references, heard):
    return _rate(references, heard, lambda a, b: _edits(a, b, replace=2))


@wrong("audio.word_error_rate", "Words heard too many are errors as well: insertions are missing.")
def insertions_free(references, heard):
    return _rate(references, heard, lambda a, b: _edits(a, b, add=0))


@wrong("audio.word_error_rate", "Divide by the words of the references, not by those heard.")
def over_the_heard(references, heard):
    return _rate(heard, references, _edits) if any(references) else float(any(heard))


@wrong("audio.word_error_rate", "That is the letter error rate: compare words.")
def letters(references, heard):
    return _rate(references, heard, _edits, lambda text: list(" ".join(text.lower().split())))


@wrong("audio.word_error_rate", "The rate may exceed 1: more can be heard than was said.")
def at_most_one(references, heard):
    return min(1.0, _rate(references, heard, _edits))


@also_right("audio.word_error_rate")
def by_jiwer(references, heard):
    import jiwer

    said = [" ".join(text.lower().split()) for text in references]
    found = [" ".join(text.lower().split()) for text in heard]
    errors = sum(len(b.split()) for a, b in zip(said, found, strict=True) if not a)
    pairs = [(a, b) for a, b in zip(said, found, strict=True) if a]
    if not pairs:
        return float(errors > 0)
    result = jiwer.process_words([a for a, _ in pairs], [b for _, b in pairs])
    errors += result.substitutions + result.deletions + result.insertions
    return errors / sum(len(a.split()) for a, _ in pairs)
