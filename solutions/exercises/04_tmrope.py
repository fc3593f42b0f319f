"""Cases, wrong answers and other right answers of lab 04."""

import bisect
import math

import numpy as np
import torch

from omni_lab.lab.authoring import Case, Exercise, also_right, cases, wrong

EXERCISES = [
    Exercise(
        "rope.rotate", "4.1", "Turn by position", points=10, difficulty=2, minutes=12, rtol=1e-3, atol=1e-5,
        hints=(
            "Which two numbers of x are the first pair? And by what angle do they turn at position 3?",
            "`angle = positions[:, None] * theta ** (-torch.arange(half) / half)`, with `half = x.shape[-1] // 2`; "
            "`first = x[..., 0::2]`.",
        ),
    ),
    Exercise(
        "rope.mrope_angles", "4.2", "Three axes", points=15, difficulty=2, minutes=15, rtol=1e-3, atol=1e-5,
        hints=(
            "The angles of all pairs for all three axes are one product. Which part of it does each section keep?",
            "`angles = ids[..., None] * frequencies`, of shape (3, length, pairs); then split the last dimension.",
        ),
    ),
    Exercise(
        "tmrope.grid_ids", "4.3", "A grid of tokens", points=15, difficulty=2, minutes=15,
        target="omni_lab.tmrope:grid_ids",
        hints=(
            "In which order do the tokens stand? Which of the three ids changes from one token to the next?",
            '`torch.meshgrid(times, torch.arange(height), torch.arange(width), indexing="ij")`',
        ),
    ),
    Exercise(
        "tmrope.video_ids", "4.4", "Frames in time", points=10, difficulty=2, minutes=10,
        target="omni_lab.tmrope:video_ids",
        hints=(
            "How many ids of 40 ms pass from one frame to the next, if frames are 0.5 s apart? And where do you round?",
            "`times = (torch.arange(frames) * second_per_grid * ids_per_second).long()`",
        ),
    ),
    Exercise(
        "rope.frame_at", "4.5", "What was seen just then?", points=10, difficulty=2, minutes=10,
        hints=(
            "A frame is seen until the next begins. Which frames have begun by a moment?",
            "`torch.searchsorted(times, moments, right=True)` counts them.",
        ),
    ),
    Exercise(
        "tmrope.chunk_spans", "4.6", "Cut by time", points=15, difficulty=3, minutes=20,
        target="omni_lab.tmrope:chunk_spans",
        hints=(
            "Which token begins the second chunk? What if it has begun one already?",
            "For each `limit in range(ids_per_chunk, int(times[-1]) + 1, ids_per_chunk)`: `first = int((times < "
            "limit).sum())`. What if `first` is not beyond the last cut?",
        ),
    ),
    Exercise(
        "tmrope.interleave", "4.7", "Video first, then its sound", points=10, difficulty=2, minutes=12,
        target="omni_lab.tmrope:interleave",
        hints=(
            "`chunk_spans` counts from 0. From where do these ids count?",
            "`by_video = tmrope.chunk_spans(video[0] - start, ids_per_chunk)`, and the same for the sound.",
        ),
    ),
    Exercise(
        "rope.segment_starts", "4.8", "Counting on", points=15, difficulty=3, minutes=20,
        hints=(
            "What is the largest id in a picture of 4 x 6 tokens that starts at 10?",
            "For a video, the largest of three: the last frame's time, `height - 1` and `width - 1`.",
        ),
    ),
]  # fmt: skip


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape)).float()


# 4.1


@cases("rope.rotate")
def _(rng):
    return [
        Case("positions 0 to 6", x=draw(rng, 7, 8), positions=torch.arange(7), theta=10000.0),
        Case("the model's theta", x=draw(rng, 5, 16), positions=torch.arange(5), theta=1e6),
        Case("heads", x=draw(rng, 2, 3, 6, 8), positions=torch.arange(6), theta=100.0),
        Case("far positions", x=draw(rng, 4, 12), positions=torch.tensor([3, 50, 400, 2000]), theta=10000.0),
        Case("one position for all", x=draw(rng, 3, 4), positions=torch.tensor([2, 2, 2]), theta=50.0),
        Case("two pairs", x=draw(rng, 5, 4), positions=torch.tensor([0, 1, 2, 5, 9]), theta=10000.0),
    ]


def _turn(x, angle):
    first, second = x[..., 0::2], x[..., 1::2]
    turned = first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()
    return torch.stack(turned, dim=-1).flatten(-2)


def _angle(x, positions, theta):
    half = x.shape[-1] // 2
    return positions[:, None].float() * theta ** (-torch.arange(half) / half)


@wrong("rope.rotate", "You pair the two halves, as the released models do: here neighbours 2i and 2i + 1 are a pair.")
def halves(x, positions, theta):
    angle, (a, b) = _angle(x, positions, theta), x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


@wrong("rope.rotate", "The turned pairs are right, but in another order: put each pair back where it was.")
def not_put_back(x, positions, theta):
    turned = _turn(x, _angle(x, positions, theta))
    return torch.cat([turned[..., 0::2], turned[..., 1::2]], dim=-1)


@wrong("rope.rotate", "You turn the other way: the first gets cos minus sin, the second cos plus sin.")
def other_way(x, positions, theta):
    return _turn(x, -_angle(x, positions, theta))


@wrong("rope.rotate", "The exponent goes to -1 over the pairs: it is -2i / dim, with i the number of the pair.")
def half_exponent(x, positions, theta):
    half = x.shape[-1] // 2
    return _turn(x, positions[:, None] * theta ** (-torch.arange(half) / (2 * half)))


@wrong("rope.rotate", "Frequencies fall from pair to pair: the exponent is negative.")
def rising_frequencies(x, positions, theta):
    half = x.shape[-1] // 2
    return _turn(x, positions[:, None] * theta ** (torch.arange(half) / half))


@wrong("rope.rotate", "Both parts keep their sign in yours. One of the two sines is subtracted.")
def no_minus(x, positions, theta):
    angle, first, second = _angle(x, positions, theta), x[..., 0::2], x[..., 1::2]
    turned = first * angle.cos() + second * angle.sin(), second * angle.cos() + first * angle.sin()
    return torch.stack(turned, dim=-1).flatten(-2)


@wrong("rope.rotate", "Position 0 turns nothing: yours counts from 1.")
def from_one(x, positions, theta):
    return _turn(x, _angle(x, positions + 1, theta))


@wrong("rope.rotate", "All your pairs turn equally fast: pair i turns by position * theta^(-2i / dim).")
def one_frequency(x, positions, theta):
    return _turn(x, positions[:, None].float().expand(-1, x.shape[-1] // 2))


@also_right("rope.rotate")
def by_complex_numbers(x, positions, theta):
    half = x.shape[-1] // 2
    pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], half, 2))
    angle = positions[:, None].double() * theta ** (-torch.arange(half).double() / half)
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(turned).reshape(x.shape).float()


# 4.2


@cases("rope.mrope_angles")
def _(rng):
    def ids(length, high=40):
        return torch.from_numpy(rng.integers(0, high, (3, length)))

    return [
        Case("sections 2, 3, 3", ids=ids(6), sections=[2, 3, 3], theta=10000.0),
        Case("the nano model's", ids=ids(5), sections=[3, 3, 26], theta=1e6),
        Case("a text: t = h = w", ids=torch.arange(7).expand(3, 7).clone(), sections=[1, 2, 3], theta=100.0),
        Case("only time moves", ids=torch.stack([torch.arange(5), torch.full((5,), 3), torch.full((5,), 4)]),
             sections=[2, 2, 4], theta=1000.0),
        Case("unequal sections", ids=ids(4), sections=[4, 1, 3], theta=500.0),
        Case("one token", ids=ids(1), sections=[1, 1, 2], theta=10000.0),
    ]  # fmt: skip


def _all_angles(ids, pairs, theta):
    return ids[..., None].float() * theta ** (-torch.arange(pairs) / pairs)


def _choose(ids, sections, theta, axes):
    angles = _all_angles(ids, sum(sections), theta)
    return torch.cat([part[a] for part, a in zip(angles.split(sections, dim=-1), axes, strict=True)], dim=-1)


@wrong("rope.mrope_angles", "The sections are time, height, width: yours are the other way round.")
def reversed_axes(ids, sections, theta):
    return _choose(ids, sections, theta, (2, 1, 0))


@wrong("rope.mrope_angles", "Height and width are exchanged: the second section is height's.")
def height_and_width(ids, sections, theta):
    return _choose(ids, sections, theta, (0, 2, 1))


@wrong("rope.mrope_angles", "All your pairs turn with time: the second section is height's, the third width's.")
def time_only(ids, sections, theta):
    return _choose(ids, sections, theta, (0, 0, 0))


@wrong("rope.mrope_angles", "Frequencies run on over all pairs: yours start anew in each section.")
def restarting(ids, sections, theta):
    return torch.cat([_all_angles(ids[a], n, theta) for a, n in enumerate(sections)], dim=-1)


@wrong(
    "rope.mrope_angles", "The axes take turns in yours. Each has its pairs side by side, as many as its section says."
)
def taking_turns(ids, sections, theta):
    angles = _all_angles(ids, sum(sections), theta)
    return torch.stack([angles[i % 3, :, i] for i in range(sum(sections))], dim=-1)


@wrong("rope.mrope_angles", "You added the three axes up: each pair turns with one of them.")
def added_up(ids, sections, theta):
    return _all_angles(ids.sum(dim=0), sum(sections), theta)


@wrong("rope.mrope_angles", "There are as many frequencies as pairs: the exponent is i / pairs, not i / (2 pairs).")
def half_the_exponent(ids, sections, theta):
    pairs = sum(sections)
    angles = ids[..., None].float() * theta ** (-torch.arange(pairs) / (2 * pairs))
    return torch.cat([part[a] for a, part in enumerate(angles.split(sections, dim=-1))], dim=-1)


@also_right("rope.mrope_angles")
def by_gathering(ids, sections, theta):
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(sections))  # of each pair
    pairs = len(axis)
    return ids[axis].T.double().mul(theta ** (-torch.arange(pairs).double() / pairs)).float()


# 4.3


@cases("tmrope.grid_ids")
def _(rng):
    start, (a, b, c, d) = int(rng.integers(3, 2000)), (int(n) for n in rng.integers(3, 40, 4))
    return [
        Case("one frame from 0", start=0, times=torch.tensor([0]), height=2, width=3),
        Case("one frame further on", start=start, times=torch.tensor([0]), height=3, width=5),
        Case("three frames", start=start, times=torch.tensor([0, a, 2 * a]), height=2, width=4),
        Case("uneven times", start=start, times=torch.tensor([0, b, b + 26, b + 26 + c]), height=3, width=2),
        Case("a single row", start=start, times=torch.tensor([0, d]), height=1, width=4),
        Case("a single token a frame", start=2, times=torch.tensor([0, 4, 8]), height=1, width=1),
    ]


def _grid(times, height, width):
    grid = torch.meshgrid(times, torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack(grid).reshape(3, -1)


@wrong("tmrope.grid_ids", "Height and width are exchanged: rows are t, h, w.")
def exchanged(start, times, height, width):
    return _grid(times, height, width)[[0, 2, 1]] + start


@wrong("tmrope.grid_ids", "Tokens stand row by row, so width changes fastest: yours go column by column.")
def by_columns(start, times, height, width):
    return _grid(times, width, height)[[0, 2, 1]] + start


@wrong("tmrope.grid_ids", "Height and width count from `start` as well.")
def time_starts_alone(start, times, height, width):
    return _grid(times, height, width) + torch.tensor([[start], [0], [0]])


@wrong("tmrope.grid_ids", "Time counts from `start` as well.")
def time_from_zero(start, times, height, width):
    return _grid(times, height, width) + torch.tensor([[0], [start], [start]])


@wrong("tmrope.grid_ids", "Use the times that are given: yours numbers the frames 0, 1, 2.")
def numbered_frames(start, times, height, width):
    return _grid(torch.arange(len(times)), height, width) + start


@wrong("tmrope.grid_ids", "All tokens of a frame come before the next frame: yours changes the frame first.")
def frame_fastest(start, times, height, width):
    grid = torch.meshgrid(torch.arange(height), torch.arange(width), times, indexing="ij")
    return torch.stack([grid[2], grid[0], grid[1]]).reshape(3, -1) + start


@wrong("tmrope.grid_ids", "The shape is (3, tokens): yours is (tokens, 3).")
def upright(start, times, height, width):
    return (_grid(times, height, width) + start).T.clone()


@also_right("tmrope.grid_ids")
def by_loops(start, times, height, width):
    tokens = [(t, h, w) for t in times.tolist() for h in range(height) for w in range(width)]
    return torch.tensor(tokens).T + start


# 4.4


@cases("tmrope.video_ids")
def _(rng):
    start, odd = int(rng.integers(2, 2000)), int(rng.integers(9, 23)) / 16
    return [
        Case("one frame a second", start=0, frames=4, height=2, width=2, second_per_grid=1.0, ids_per_second=25),
        Case("two a second", start=start, frames=5, height=1, width=2, second_per_grid=0.5, ids_per_second=25),
        Case("times that are no whole ids", start=start, frames=7, height=2, width=1, second_per_grid=0.125,
             ids_per_second=25),
        Case("some other rate", start=start, frames=6, height=2, width=3, second_per_grid=odd + 1 / 32,
             ids_per_second=25),
        Case("50 ids a second", start=1, frames=4, height=2, width=2, second_per_grid=0.375, ids_per_second=50),
        Case("one frame", start=start, frames=1, height=2, width=3, second_per_grid=2.0, ids_per_second=25),
    ]  # fmt: skip


def _video(start, times, height, width):
    return _grid(times, height, width) + start


@wrong(
    "tmrope.video_ids", "You round the step once and multiply it: the error adds up. Multiply first, then round down."
)
def rounded_step(start, frames, height, width, second_per_grid, ids_per_second=25):
    return _video(start, torch.arange(frames) * int(second_per_grid * ids_per_second), height, width)


@wrong("tmrope.video_ids", "Round down, as int() does, not to the nearest.")
def nearest(start, frames, height, width, second_per_grid, ids_per_second=25):
    times = torch.arange(frames) * second_per_grid * ids_per_second
    return _video(start, (times + 0.5).floor().long(), height, width)


@wrong("tmrope.video_ids", "You count frames: ids count time, 40 ms each.")
def counted(start, frames, height, width, second_per_grid, ids_per_second=25):
    return _video(start, torch.arange(frames), height, width)


@wrong("tmrope.video_ids", "`second_per_grid` is the time between frames, not the number of frames a second: multiply.")
def divided(start, frames, height, width, second_per_grid, ids_per_second=25):
    return _video(start, (torch.arange(frames) * ids_per_second / second_per_grid).long(), height, width)


@wrong("tmrope.video_ids", "Use `ids_per_second`: yours is fixed to 25.")
def always_25(start, frames, height, width, second_per_grid, ids_per_second=25):
    return _video(start, (torch.arange(frames) * second_per_grid * 25).long(), height, width)


@wrong("tmrope.video_ids", "These are whole seconds: round after multiplying by the ids of a second.")
def whole_seconds(start, frames, height, width, second_per_grid, ids_per_second=25):
    return _video(start, (torch.arange(frames) * second_per_grid).long() * ids_per_second, height, width)


@wrong("tmrope.video_ids", "Ids are integers.")
def fractions(start, frames, height, width, second_per_grid, ids_per_second=25):
    return _video(start, torch.arange(frames) * second_per_grid * ids_per_second, height, width)


@also_right("tmrope.video_ids")
def by_python(start, frames, height, width, second_per_grid, ids_per_second=25):
    tokens = [
        (int(i * second_per_grid * ids_per_second), h, w)
        for i in range(frames) for h in range(height) for w in range(width)
    ]  # fmt: skip
    return torch.tensor(tokens).T + start


# 4.6


@cases("tmrope.chunk_spans")
def _(rng):
    uneven = torch.from_numpy(np.concatenate([[0], rng.integers(0, 9, 40).cumsum()]))
    chunks, frames, leap = int(rng.integers(2, 9)), int(rng.integers(5, 30)), int(rng.integers(152, 190))
    leaps = (torch.arange(3) * leap).repeat_interleave(torch.from_numpy(rng.integers(4, 9, 3)))
    return [
        Case("sound", times=torch.arange(int(rng.integers(110, 400))), ids_per_chunk=50),
        Case("a last token on the border", times=torch.arange(50 * chunks + 1), ids_per_chunk=50),
        Case("frames of four tokens", times=(torch.arange(frames) * 25).repeat_interleave(4), ids_per_chunk=50),
        Case("frames that miss the borders", times=(torch.arange(12) * 12).repeat_interleave(2), ids_per_chunk=50),
        Case("uneven times", times=uneven, ids_per_chunk=20),
        Case("shorter than a chunk", times=torch.arange(int(rng.integers(10, 50))), ids_per_chunk=50),
        Case("a leap over several chunks", times=leaps, ids_per_chunk=50),
        Case("nothing", times=torch.zeros(0, dtype=torch.long), ids_per_chunk=50),
    ]


def _spans(cuts, total):
    return list(zip(cuts, [*cuts[1:], total], strict=True)) if total else []


def _cuts(times, ids_per_chunk, right=False):
    times, cuts, last = times.tolist(), [0], -1
    for limit in range(ids_per_chunk, (times[-1] if times else 0) + 1, ids_per_chunk):
        last = max((bisect.bisect_right if right else bisect.bisect_left)(times, limit), last + 1)
        if last >= len(times):
            break
        cuts.append(last)
    return cuts


@wrong("tmrope.chunk_spans", "You cut by the number of tokens: cut by their times.")
def by_count(times, ids_per_chunk):
    return _spans(list(range(0, len(times), ids_per_chunk)), len(times))


@wrong("tmrope.chunk_spans", "A token exactly on the limit begins the new chunk: times >= limit.")
def beyond_the_limit(times, ids_per_chunk):
    return _spans(_cuts(times, ids_per_chunk, right=True), len(times))


@wrong("tmrope.chunk_spans", "The last chunk is missing: it ends with the last token.")
def last_missing(times, ids_per_chunk):
    return _spans(_cuts(times, ids_per_chunk), len(times))[:-1]


@wrong("tmrope.chunk_spans", "Limits are multiples of the chunk: yours count on from where the last chunk began.")
def from_the_last_cut(times, ids_per_chunk):
    cuts = [0]
    for i, t in enumerate(times.tolist()):
        if t >= times[cuts[-1]] + ids_per_chunk:
            cuts.append(i)
    return _spans(cuts, len(times))


@wrong("tmrope.chunk_spans", "When time leaps over several limits, each of them still begins a chunk, of one token.")
def one_cut_a_leap(times, ids_per_chunk):
    cuts, before = [0], 0
    for i, t in enumerate(times.tolist()):
        if t // ids_per_chunk > before:
            cuts.append(i)
            before = t // ids_per_chunk
    return _spans(cuts, len(times))


@wrong("tmrope.chunk_spans", "The end of a span is one past its last token.")
def inclusive_ends(times, ids_per_chunk):
    return [(first, end - 1) for first, end in _spans(_cuts(times, ids_per_chunk), len(times))]


@wrong("tmrope.chunk_spans", "These are lengths: give where each chunk begins and ends.")
def lengths(times, ids_per_chunk):
    return [end - first for first, end in _spans(_cuts(times, ids_per_chunk), len(times))]


@also_right("tmrope.chunk_spans")
def by_bisection(times, ids_per_chunk):
    return _spans(_cuts(times, ids_per_chunk), len(times))


# 4.7


@cases("tmrope.interleave")
def _(rng):
    start, n, m, k = (int(v) for v in rng.integers([5, 101, 60, 160], [2000, 120, 90, 190]))

    def sound(count, start):
        return torch.arange(start, start + count).expand(3, count).clone()

    def film(frames, step, start, height=1, width=2):
        return _grid(torch.arange(frames) * step, height, width) + start

    def named(ids, token):
        return torch.cat((ids, torch.full((1, ids.shape[1]), token)))

    return [
        Case("4 s from 0", video=film(4, 25, 0), sound=sound(n, 0), start=0, ids_per_chunk=50),
        Case("later in the dialogue", video=film(8, 12, start), sound=sound(96, start), start=start, ids_per_chunk=50),
        Case("the sound is longer", video=film(3, 25, start), sound=sound(k, start), start=start, ids_per_chunk=50),
        Case("the video is longer", video=film(9, 25, start), sound=sound(m, start), start=start, ids_per_chunk=50),
        Case("chunks of 1 s", video=film(5, 20, start, 2), sound=sound(90, start), start=start, ids_per_chunk=25),
        Case("less than one chunk", video=film(2, 12, start), sound=sound(20, start), start=start, ids_per_chunk=50),
        Case(
            "a fourth row names the tokens", video=named(film(6, 20, start), 7), sound=named(sound(n, start), 8),
            start=start, ids_per_chunk=50,
        ),
    ]  # fmt: skip


def _chunks(ids, start, size):
    return [ids[:, slice(*span)].clone() for span in _spans(_cuts(ids[0] - start, size), ids.shape[1])]


def _alternate(first, second):
    found = []
    for i in range(max(len(first), len(second))):
        found += first[i : i + 1] + second[i : i + 1]
    return found


@wrong("tmrope.interleave", "In each chunk the video comes first, then its sound.")
def sound_first(video, sound, start, ids_per_chunk=50):
    return _alternate(_chunks(sound, start, ids_per_chunk), _chunks(video, start, ids_per_chunk))


@wrong("tmrope.interleave", "Where one has run out, the other goes on alone: yours ends with the shorter.")
def ends_with_the_shorter(video, sound, start, ids_per_chunk=50):
    pairs = zip(_chunks(video, start, ids_per_chunk), _chunks(sound, start, ids_per_chunk), strict=False)
    return [part for pair in pairs for part in pair]


@wrong("tmrope.interleave", "Chunks count from the segment's start: subtract `start` from the ids before you cut.")
def cut_from_zero(video, sound, start, ids_per_chunk=50):
    return _alternate(_chunks(video, 0, ids_per_chunk), _chunks(sound, 0, ids_per_chunk))


@wrong("tmrope.interleave", "Those are all frames and then all sound: alternate chunk by chunk.")
def one_after_the_other(video, sound, start, ids_per_chunk=50):
    return _chunks(video, start, ids_per_chunk) + _chunks(sound, start, ids_per_chunk)


@wrong("tmrope.interleave", "The chunk's length is an argument: yours is fixed to 50 ids.")
def always_50(video, sound, start, ids_per_chunk=50):
    return _alternate(_chunks(video, start, 50), _chunks(sound, start, 50))


@wrong("tmrope.interleave", "Cut all rows alike: what stands in a fourth is lost.")
def three_rows(video, sound, start, ids_per_chunk=50):
    chunks = _alternate(_chunks(video, start, ids_per_chunk), _chunks(sound, start, ids_per_chunk))
    return [torch.stack((chunk[0], chunk[1], chunk[2])) for chunk in chunks]


@wrong("tmrope.interleave", "Return the list of chunks, not one tensor of all.")
def joined(video, sound, start, ids_per_chunk=50):
    return torch.cat(_alternate(_chunks(video, start, ids_per_chunk), _chunks(sound, start, ids_per_chunk)), dim=1)


@wrong("tmrope.interleave", "The ids keep their start: only for cutting is it subtracted.")
def start_lost(video, sound, start, ids_per_chunk=50):
    return [chunk - start for chunk in _alternate(*(_chunks(x, start, ids_per_chunk) for x in (video, sound)))]


@also_right("tmrope.interleave")
def by_popping(video, sound, start, ids_per_chunk=50):
    seen, heard = _chunks(video, start, ids_per_chunk), _chunks(sound, start, ids_per_chunk)
    found = []
    while seen or heard:
        if seen:
            found.append(seen.pop(0))
        if heard:
            found.append(heard.pop(0))
    return found


# 4.8


@cases("rope.segment_starts")
def _(rng):
    n, m = (int(v) for v in rng.integers(3, 20, 2))
    return [
        Case("text alone", segments=[("text", n), ("text", m)]),
        Case("a picture between texts", segments=[("text", n), ("image", 4, 6), ("text", m)]),
        Case("a high picture", segments=[("text", n), ("image", 9, 2), ("text", m)]),
        Case("sound", segments=[("text", n), ("audio", 50), ("text", m)]),
        Case("a video", segments=[("text", n), ("video", 8, 4, 6, 0.5), ("text", m)]),
        Case("a short wide video", segments=[("text", n), ("video", 2, 3, 40, 1.0), ("text", m)]),
        Case("a short high video", segments=[("video", 1, 12, 5, 1.0), ("text", n)]),
        Case("a slow video", segments=[("text", n), ("video", 5, 2, 2, 1.375), ("audio", m)]),
        Case("nothing", segments=[]),
    ]


def _starts(segments, spread, after=1):
    starts, start = [], 0
    for kind, *size in segments:
        starts.append(start)
        start += spread(kind, *size) + after
    return [*starts, start]


def _spread(kind, *size):
    """The largest id of a segment, counted from its start."""
    if kind in ("text", "audio"):
        return size[0] - 1
    if kind == "image":
        return max(size) - 1
    frames, height, width, seconds = size
    return max(int((frames - 1) * seconds * 25), height - 1, width - 1)


@wrong("rope.segment_starts", "You count tokens: a picture of 4 x 6 tokens advances by 6, the larger side.")
def tokens(segments):
    return _starts(segments, lambda kind, *s: (s[0] if kind in ("text", "audio") else math.prod(s[:3])) - 1)


@wrong("rope.segment_starts", "A segment starts at the largest id before it plus 1: you left out the 1.")
def no_plus_one(segments):
    return _starts(segments, _spread, after=0)


@wrong(
    "rope.segment_starts", "A picture stands still in time, but its height and width count: the next starts after them."
)
def picture_is_one_step(segments):
    return _starts(segments, lambda kind, *s: 0 if kind == "image" else _spread(kind, *s))


@wrong("rope.segment_starts", "Frames are timed: the last of a video has id int((frames - 1) * seconds * 25).")
def frames_counted(segments):
    def spread(kind, *s):
        return max(s[:3]) - 1 if kind == "video" else _spread(kind, *s)

    return _starts(segments, spread)


@wrong(
    "rope.segment_starts", "A wide or high frame may reach further than a short video's time: take the largest of all."
)
def time_alone(segments):
    def spread(kind, *s):
        return int((s[0] - 1) * s[3] * 25) if kind == "video" else _spread(kind, *s)

    return _starts(segments, spread)


@wrong("rope.segment_starts", "The last frame's id counts, not the time at which the video ends: frames - 1.")
def until_the_end(segments):
    def spread(kind, *s):
        return max(int(s[0] * s[3] * 25), s[1] - 1, s[2] - 1) if kind == "video" else _spread(kind, *s)

    return _starts(segments, spread)


@wrong("rope.segment_starts", "Where the next segment would start belongs to the list: one number more than segments.")
def last_lost(segments):
    return _starts(segments, _spread)[:-1]


@wrong("rope.segment_starts", "Width counts as well as height: take the larger.")
def height_alone(segments):
    def spread(kind, *s):
        if kind == "video":
            return max(int((s[0] - 1) * s[3] * 25), s[1] - 1)
        return s[0] - 1

    return _starts(segments, spread)


@also_right("rope.segment_starts")
def from_the_ids(segments):
    starts, start = [], 0
    for kind, *size in segments:
        starts.append(start)
        if kind in ("text", "audio"):
            ids = torch.arange(size[0]) + start
        else:
            frames, height, width, seconds = size if kind == "video" else (1, *size, 1.0)
            times = torch.tensor([int(i * seconds * 25) for i in range(frames)])
            ids = _grid(times, height, width) + start
        start = int(ids.max()) + 1
    return [*starts, start]


# 4.5


@cases("rope.frame_at")
def _(rng):
    uneven = torch.from_numpy(np.concatenate([[0], rng.integers(3, 20, 9).cumsum()]))
    a, b, c, d = (int(n) for n in rng.integers(6, 60, 4))  # from frame to frame
    return [
        Case("even frames", times=torch.arange(5) * a, moments=torch.arange(5 * a)),
        Case("moments on the frames", times=torch.arange(6) * b, moments=torch.arange(6) * b),
        Case("just before a frame", times=torch.arange(5) * c, moments=torch.arange(1, 5) * c - 1),
        Case("uneven frames", times=uneven, moments=torch.from_numpy(rng.integers(0, int(uneven[-1]) + 30, 25))),
        Case("after the last", times=torch.arange(3) * d, moments=2 * d + torch.tensor([1, 3 * d, 50 * d])),
        Case("one frame", times=torch.tensor([0]), moments=torch.tensor([0, 3, 90])),
    ]


@wrong("rope.frame_at", "You took the nearest frame: one that has not begun yet cannot be seen.")
def nearest_frame(times, moments):
    return (moments[:, None] - times).abs().argmin(dim=1)


@wrong("rope.frame_at", "That is the next frame: the one that is seen began at or before the moment.")
def next_frame(times, moments):
    return torch.searchsorted(times, moments, right=True).clamp(max=len(times) - 1)


@wrong("rope.frame_at", "A frame that begins at this very moment is seen already: count times <= moment.")
def strictly_before(times, moments):
    return (torch.searchsorted(times, moments) - 1).clamp(min=0)


@wrong("rope.frame_at", "Frames need not be evenly spaced: look the times up, do not divide.")
def divided_by_the_step(times, moments):
    step = int(times[1] - times[0]) if len(times) > 1 else 1
    return (moments // step).clamp(max=len(times) - 1)


@wrong("rope.frame_at", "These are times: give the numbers of the frames.")
def times_not_numbers(times, moments):
    return times[torch.searchsorted(times, moments, right=True) - 1]


@wrong("rope.frame_at", "Frames are numbered from 0.")
def from_one_on(times, moments):
    return torch.searchsorted(times, moments, right=True)


@also_right("rope.frame_at")
def by_counting(times, moments):
    return (times[None] <= moments[:, None]).sum(dim=1) - 1
