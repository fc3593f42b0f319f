"""Cases, wrong answers and other right answers of lab 07."""

import math

import numpy as np
import torch

from omni_lab.lab.authoring import Case, Exercise, also_right, cases, wrong
from omni_lab.lab.plain import Named

FLOW = "omni_lab.codec.flow_matching"

EXERCISES = [
    Exercise(
        "codec.nearest", "7.1", "The nearest entry", points=5, difficulty=2, minutes=8,
        target="omni_lab.codec.speech_tokenizer:nearest",
        hints=(
            "|v - e|^2 = |v|^2 - 2 v.e + |e|^2. Which of the three terms does not care which entry it is?",
            "`closeness = vectors @ codebook.T - codebook.square().sum(-1) / 2` is (..., entries).",
        ),
    ),
    Exercise(
        "codec.residual_codes", "7.2", "What is left over", points=5, difficulty=2, minutes=10,
        hints=(
            "What does the third book see, when the first two have done their part?",
            "`rest = rest - book[code]` after each book, beginning with `rest = vectors`.",
        ),
    ),
    Exercise(
        "codec.interpolant", "7.3", "On the line", points=5, difficulty=1, minutes=5, target=f"{FLOW}:interpolant",
        hints=(
            "At time 0 all is noise, at time 1 all is mel. What is it half-way?",
            "`time = time.reshape(-1, *[1] * (mel.ndim - 1))` makes one number a clip fit all its frames.",
        ),
    ),
    Exercise(
        "codec.noisy_path", "7.4", "A path that keeps a little noise", points=10, difficulty=2, minutes=12,
        hints=(
            "How much noise is there at time 0, how much at time 1, and what is a straight line between the two?",
            "`left = 1 - (1 - sigma_min) * time`; the velocity is the point's derivative with respect to time.",
        ),
    ),
    Exercise(
        "codec.sway_sampling", "7.5", "Sway", points=5, difficulty=1, minutes=5, target=f"{FLOW}:sway_sampling",
        hints=(
            "What do you get at time 0, and at time 1, whatever the coefficient?",
            "`torch.cos(math.pi / 2 * time) - 1 + time` is what the coefficient multiplies.",
        ),
    ),
    Exercise(
        "codec.runge_kutta_4_step", "7.6", "Runge and Kutta", points=10, difficulty=2, minutes=15,
        target=f"{FLOW}:runge_kutta_4_step", rtol=1e-4, atol=1e-5,
        hints=(
            "Each slope is asked for at a state that the slopes before it lead to. Which slopes lead to the fourth?",
            "`k3 = velocity(time + step * (2 / 3), state + step * (k2 - k1 / 3))`",
        ),
    ),
    Exercise(
        "codec.adams_bashforth", "7.7", "One call a step", points=10, difficulty=3, minutes=20,
        hints=(
            "Draw the two slopes over time and the line through them. What is its mean over the coming step?",
            "`bend = (velocity_now - velocity_before) / step_before` is how fast the slope changes.",
        ),
    ),
    Exercise(
        "codec.guided_velocity", "7.8", "Guidance", points=5, difficulty=1, minutes=5, target=f"{FLOW}:guided_velocity",
        hints=(
            "In which direction does the condition pull? What must come out at scale 0?",
            "`conditional - unconditional` is that direction.",
        ),
    ),
    Exercise(
        "codec.sliding_window_block_mask", "7.9", "Who sees whom", points=5, difficulty=2, minutes=10,
        target="omni_lab.codec.dit:sliding_window_block_mask",
        hints=(
            "In which block is frame i? By how many blocks is another frame ahead of it?",
            "`block = torch.arange(length) // block_size`",
        ),
    ),
    Exercise(
        "codec.receptive_blocks", "7.10", "What a stack of layers sees", points=10, difficulty=3, minutes=15,
        hints=(
            "A layer looks one block back at vectors that had themselves looked one block back. How far is that?",
            "Start from `torch.eye(blocks)`; one layer multiplies it by that layer's own matrix.",
        ),
    ),
    Exercise(
        "codec.snake_beta", "7.11", "Snake", points=5, difficulty=1, minutes=5,
        target="omni_lab.codec.bigvgan:snake_beta", gradients=("alpha", "beta"),
        hints=(
            "Which of the two sets how fast it wiggles, and which how far?",
            "`torch.sin(alpha * x).square()`",
        ),
    ),
    Exercise(
        "codec.crossfade", "7.12", "From one chunk to the next", points=5, difficulty=2, minutes=10,
        target="omni_lab.streaming.speech:crossfade",
        hints=(
            "Both weights must sum to 1. Where is the middle of sample 0, if the fade takes `count` samples?",
            "`place = (torch.arange(count, device=new.device) + 0.5) / count`, and `weight = 0.5 - 0.5 * "
            "torch.cos(torch.pi * place)`",
        ),
    ),
    Exercise(
        "codec.stream", "7.13", "The streamer", points=15, difficulty=3, minutes=30,
        holds=("omni_lab.lab.streamer:packaged", "omni_lab.lab.streamer:_Blocks.advance",
               "omni_lab.lab.streamer:_Fader.add"),
        hints=(
            "What are the only two things that must survive from one chunk to the next?",
            "`window = (1 + codec.ahead) * codec.block`; fill `known` up to it with `next(codec.codes, None)`.",
        ),
    ),
    Exercise(
        "codec.first_packet", "7.14", "When does it speak?", points=5, difficulty=2, minutes=10,
        hints=(
            "How many codes must be known before the first block can be spoken? How many of them were there already?",
            "`codes = (1 + ahead) * block_size // repeats`",
        ),
    ),
]  # fmt: skip


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape)).float()


# 7.1


def _clear(rng, book, *shape, spread=1.0):
    """Vectors (*shape, dim) around the entries of `book`, none of them half-way between two."""
    count, dim = int(np.prod(shape)), book.shape[1]
    middle = book.mean(0)
    many = middle + spread * (book.std() if len(book) > 1 else 1.0) * draw(rng, 20 * count + 50, dim)
    if len(book) > 1:
        closest = torch.cdist(many.double(), book.double()).topk(2, dim=1, largest=False).values
        many = many[closest[:, 1] - closest[:, 0] > 0.02 * closest[:, 1]]
    return many[:count].reshape(*shape, dim)


@cases("codec.nearest")
def _(rng):
    n, dim = int(rng.integers(6, 11)), int(rng.integers(5, 9))

    def case(name, entries, *shape, scale=None, offset=0.0):
        sizes = 1.0 if scale is None else torch.from_numpy(rng.uniform(*scale, (entries, 1))).float()
        book = sizes * draw(rng, entries, dim) + offset
        return Case(name, vectors=_clear(rng, book, *shape), codebook=book)

    return [
        case("a clip", n + 5, 2 * n),
        case("a batch of clips", n, 3, n),
        case("as many vectors as entries", 2 * n, 2 * n),
        case("loud and soft entries", 3 * n, 3 * n, scale=(0.2, 3.0)),
        case("log-mel: far from zero", 2 * n, 2 * n, offset=-6.0),
        case("one vector", n, scale=(0.5, 2.0)),
        case("one entry", 1, n),
        case("vectors in a grid", n + 3, 2, 3, 4, scale=(0.3, 2.0)),
    ]


def _product(vectors, codebook):
    return vectors @ codebook.T, codebook.square().sum(-1)


@wrong("codec.nearest", "That is the entry farthest away: take the smallest distance.")
def farthest(vectors, codebook):
    product, squares = _product(vectors, codebook)
    return (product - squares / 2).argmin(-1)


@wrong("codec.nearest", "A long entry wins every product: its own squared length must be taken off.")
def product_alone(vectors, codebook):
    return _product(vectors, codebook)[0].argmax(-1)


@wrong("codec.nearest", "A direction is no distance: a loud and a soft moment of one colour have codes of their own.")
def direction_alone(vectors, codebook):
    normalised = torch.nn.functional.normalize
    return (normalised(vectors, dim=-1) @ normalised(codebook, dim=-1).T).argmax(-1)


@wrong("codec.nearest", "The product counts twice in |v|^2 - 2 v.e + |e|^2: take off *half* the squared length.")
def not_halved(vectors, codebook):
    product, squares = _product(vectors, codebook)
    return (product - squares).argmax(-1)


@wrong("codec.nearest", "Take off half the *squared* length of an entry: yours takes off the length.")
def plain_length(vectors, codebook):
    product, squares = _product(vectors, codebook)
    return (product - squares.sqrt() / 2).argmax(-1)


@wrong("codec.nearest", "The product and the squared length have opposite signs: yours adds them.")
def added(vectors, codebook):
    product, squares = _product(vectors, codebook)
    return (product + squares / 2).argmax(-1)


@wrong("codec.nearest", "Euclid's distance sums squares: yours sums the sizes of the differences (city blocks).")
def city_blocks(vectors, codebook):
    return (vectors[..., None, :] - codebook).abs().sum(-1).argmin(-1)


@wrong("codec.nearest", "Asked for is the number of the entry, not the entry itself.")
def the_entry(vectors, codebook):
    product, squares = _product(vectors, codebook)
    return codebook[(product - squares / 2).argmax(-1)]


@wrong("codec.nearest", "Asked for is the number of the entry, not how far away it is.")
def the_distance(vectors, codebook):
    return (vectors[..., None, :] - codebook).square().sum(-1).amin(-1).sqrt()


@wrong(
    "codec.nearest", "Every vector chooses an entry: yours has every entry choose a vector. Search along the entries."
)
def entries_choose(vectors, codebook):
    product, squares = _product(vectors.reshape(-1, vectors.shape[-1]), codebook)
    return (product - squares / 2 - vectors.reshape(-1, 1, vectors.shape[-1]).square().sum(-1) / 2).argmax(0)


@wrong("codec.nearest", "Entries are counted from 0, as rows of a table are.")
def from_one(vectors, codebook):
    product, squares = _product(vectors, codebook)
    return (product - squares / 2).argmax(-1) + 1


@wrong("codec.nearest", "Leading dimensions stay as they are: one number for each vector, in the vectors' places.")
def flattened(vectors, codebook):
    product, squares = _product(vectors.reshape(-1, vectors.shape[-1]), codebook)
    return (product - squares / 2).argmax(-1)


@wrong("codec.nearest", "A code chooses a row of a table: it must be a whole number (int64).")
def as_float(vectors, codebook):
    product, squares = _product(vectors, codebook)
    return (product - squares / 2).argmax(-1).float()


@also_right("codec.nearest")
def by_cdist(vectors, codebook):
    rows = vectors.reshape(-1, vectors.shape[-1])
    return torch.cdist(rows, codebook).argmin(-1).reshape(vectors.shape[:-1])


@also_right("codec.nearest")
def by_a_loop(vectors, codebook):
    rows = vectors.reshape(-1, vectors.shape[-1])
    return torch.stack([(codebook - row).square().sum(1).argmin() for row in rows]).reshape(vectors.shape[:-1])


@also_right("codec.nearest")
def whole_square_in_float64(vectors, codebook):
    v, e = vectors.double(), codebook.double()
    return (v.square().sum(-1, keepdim=True) - 2 * v @ e.T + e.square().sum(-1)).argmin(-1)


# 7.2


@cases("codec.residual_codes")
def _(rng):
    n, dim = int(rng.integers(6, 11)), int(rng.integers(4, 7))

    def case(name, sizes, *shape, shrink=0.5, offset=0.0):
        books = [shrink**k * draw(rng, size, dim) for k, size in enumerate(sizes)]
        books[0] = books[0] + offset
        many = offset + 1.2 * draw(rng, 30 * int(np.prod(shape)) + 100, dim)
        clear, rest = torch.ones(len(many), dtype=torch.bool), many
        for book in books:  # leave out what lies half-way between two entries
            distances = torch.cdist(rest.double(), book.double())
            closest = distances.topk(2, dim=1, largest=False).values
            clear &= closest[:, 1] - closest[:, 0] > 0.02 * closest[:, 1]
            rest = rest - book[distances.argmin(1)]
        vectors = many[clear][: int(np.prod(shape))].reshape(*shape, dim)
        return Case(name, vectors=vectors, codebooks=books)

    return [
        case("two books", (n, n), 2 * n),
        case("three books", (n, n, n), 2 * n),
        case("a batch of clips", (n, n), 2, n),
        case("books of unlike sizes", (2 * n, n, 3), 3 * n),
        case("one book", (n,), n),
        case("far from zero", (n, n, n), 2 * n, offset=-6.0),
        case("as many books as vectors", (n, n + 1, n, n), 4, shrink=0.7),
    ]


def _closest(vectors, book):
    return (vectors @ book.T - book.square().sum(-1) / 2).argmax(-1)


def _in_turn(vectors, codebooks, left):
    """Codes and entries, book by book; left(rest, entry) is what the next book sees."""
    rest, codes, entries = vectors, [], []
    for book in codebooks:
        codes.append(_closest(rest, book))
        entries.append(book[codes[-1]])
        rest = left(rest, entries[-1])
    return torch.stack(codes, dim=-1), torch.stack(entries, dim=-2)


@wrong("codec.residual_codes", "Every book coded the whole vector: the second one gets what the first left over.")
def never_subtracted(vectors, codebooks):
    return _in_turn(vectors, codebooks, lambda rest, entry: rest)[0]


@wrong("codec.residual_codes", "Take the chosen entry off: yours is added, and the rest grows from book to book.")
def entry_added(vectors, codebooks):
    return _in_turn(vectors, codebooks, lambda rest, entry: rest + entry)[0]


@wrong("codec.residual_codes", "Left over is vector minus entry: yours is entry minus vector.")
def other_sign(vectors, codebooks):
    return _in_turn(vectors, codebooks, lambda rest, entry: entry - rest)[0]


@wrong(
    "codec.residual_codes",
    "The third book sees what *both* before it left over: subtract from the rest, not from the vector.",
)
def last_entry_only(vectors, codebooks):
    return _in_turn(vectors, codebooks, lambda rest, entry: vectors - entry)[0]


@wrong("codec.residual_codes", "The next book codes what is left over: yours codes the entry that was chosen.")
def entry_handed_on(vectors, codebooks):
    return _in_turn(vectors, codebooks, lambda rest, entry: entry)[0]


@wrong("codec.residual_codes", "The first book comes first: you went through the books from the last one.")
def from_the_last_book(vectors, codebooks):
    return _in_turn(vectors, codebooks[::-1], lambda rest, entry: rest - entry)[0].flip(-1)


@wrong(
    "codec.residual_codes", "The codes of one vector stand side by side in the last dimension: yours are in the first."
)
def books_first(vectors, codebooks):
    return _in_turn(vectors, codebooks, lambda rest, entry: rest - entry)[0].movedim(-1, 0)


@wrong("codec.residual_codes", "Asked for are the codes of all books: yours are those of the last one.")
def last_book_alone(vectors, codebooks):
    return _in_turn(vectors, codebooks, lambda rest, entry: rest - entry)[0][..., -1]


@wrong("codec.residual_codes", "Asked for are the codes: that is the vector that they stand for.")
def what_is_rebuilt(vectors, codebooks):
    return _in_turn(vectors, codebooks, lambda rest, entry: rest - entry)[1].sum(-2)


@also_right("codec.residual_codes")
def by_what_is_known_so_far(vectors, codebooks):
    known, codes = torch.zeros_like(vectors), []
    for book in codebooks:
        rows = (vectors - known).reshape(-1, vectors.shape[-1])
        codes.append(torch.cdist(rows, book).argmin(-1).reshape(vectors.shape[:-1]))
        known = known + book[codes[-1]]
    return torch.stack(codes, -1)


@also_right("codec.residual_codes")
def vector_by_vector(vectors, codebooks):
    made = []
    for rest in vectors.reshape(-1, vectors.shape[-1]):
        row = []
        for book in codebooks:
            row.append(int((book - rest).square().sum(1).argmin()))
            rest = rest - book[row[-1]]
        made.append(row)
    return torch.tensor(made).reshape(*vectors.shape[:-1], len(codebooks))


# 7.3


def _clips(rng):
    batch, frames, bands = int(rng.integers(2, 5)), int(rng.integers(5, 9)), int(rng.integers(10, 14))
    return (
        draw(rng, batch, frames, bands),
        draw(rng, batch, frames, bands) - 5,
        torch.from_numpy(rng.random(batch)).float(),
    )


def _wide(time):
    return time[:, None, None]


@cases("codec.interpolant")
def _(rng):
    noise, mel, time = _clips(rng)
    square = draw(rng, 4, 4, 4)
    return [
        Case("random times", noise=noise, mel=mel, time=time),
        Case("all noise", noise=noise, mel=mel, time=torch.zeros(len(noise))),
        Case("all mel", noise=noise, mel=mel, time=torch.ones(len(noise))),
        Case(
            "as many clips as bands", noise=square, mel=draw(rng, 4, 4, 4), time=torch.from_numpy(rng.random(4)).float()
        ),
        Case("one clip", noise=noise[:1], mel=mel[:1], time=torch.tensor([0.3])),
        Case("half-way", noise=noise, mel=mel, time=torch.full((len(noise),), 0.5)),
    ]


@wrong("codec.interpolant", "Time runs from noise (0) to mel (1): yours runs the other way.")
def from_mel_to_noise(noise, mel, time):
    return _wide(time) * noise + (1 - _wide(time)) * mel


@wrong(
    "codec.interpolant", "Each clip has its own time: reshape time to (batch, 1, 1), or it is spread over the bands."
)
def spread_over_bands(noise, mel, time):
    return (1 - time) * noise + time * mel


@wrong(
    "codec.interpolant",
    "That is the path of diffusion, whose weights' squares sum to 1. Here the weights themselves do.",
)
def diffusion_path(noise, mel, time):
    return (1 - _wide(time)).sqrt() * noise + _wide(time).sqrt() * mel


@wrong("codec.interpolant", "The noise must fade as the mel comes: multiply it by 1 - time.")
def noise_stays(noise, mel, time):
    return noise + _wide(time) * mel


@wrong("codec.interpolant", "That is the velocity, mel - noise. Asked for is the point on the line.")
def the_velocity(noise, mel, time):
    return mel - noise


@wrong("codec.interpolant", "You used one time for the whole batch: every clip has its own.")
def mean_time(noise, mel, time):
    return torch.lerp(noise, mel, time.mean())


@also_right("codec.interpolant")
def from_noise_on(noise, mel, time):
    return noise + _wide(time) * (mel - noise)


@also_right("codec.interpolant")
def by_einsum(noise, mel, time):
    time = time.double()
    return (
        torch.einsum("b,b...->b...", 1 - time, noise.double()) + torch.einsum("b,b...->b...", time, mel.double())
    ).float()


# 7.4


@cases("codec.noisy_path")
def _(rng):
    noise, mel, time = _clips(rng)
    sigma = float(rng.uniform(0.05, 0.4))
    return [
        Case("random times", noise=noise, mel=mel, time=time, sigma_min=sigma),
        Case("no noise left", noise=noise, mel=mel, time=time, sigma_min=0.0),
        Case("the end of the path", noise=noise, mel=mel, time=torch.ones(len(noise)), sigma_min=sigma),
        Case("its beginning", noise=noise, mel=mel, time=torch.zeros(len(noise)), sigma_min=sigma),
        Case("much noise left", noise=noise, mel=mel, time=time, sigma_min=0.9),
        Case("one clip", noise=noise[:1], mel=mel[:1], time=torch.tensor([0.6]), sigma_min=0.1),
    ]


@wrong(
    "codec.noisy_path", "The point is right. Its velocity changes with sigma_min too: differentiate the point by time."
)
def old_velocity(noise, mel, time, sigma_min):
    return (1 - (1 - sigma_min) * _wide(time)) * noise + _wide(time) * mel, mel - noise


@wrong(
    "codec.noisy_path",
    "The velocity is right, but your point loses all its noise by time 1: sigma_min of it must stay.",
)
def old_point(noise, mel, time, sigma_min):
    return (1 - _wide(time)) * noise + _wide(time) * mel, mel - (1 - sigma_min) * noise


@wrong(
    "codec.noisy_path",
    "At time 0 there is all the noise, not 1 + sigma_min of it: the share falls from 1 to sigma_min.",
)
def noise_added(noise, mel, time, sigma_min):
    return (1 - _wide(time) + sigma_min) * noise + _wide(time) * mel, mel - noise


@wrong("codec.noisy_path", "First the point, then the velocity: yours are exchanged.")
def exchanged(noise, mel, time, sigma_min):
    left = 1 - sigma_min
    return mel - left * noise, (1 - left * _wide(time)) * noise + _wide(time) * mel


@wrong("codec.noisy_path", "The sign of the velocity is wrong: it leads from noise to mel.")
def backwards(noise, mel, time, sigma_min):
    left = 1 - sigma_min
    return (1 - left * _wide(time)) * noise + _wide(time) * mel, left * noise - mel


@wrong("codec.noisy_path", "The mel comes in full at time 1: only the noise's share is changed by sigma_min.")
def mel_shrunk(noise, mel, time, sigma_min):
    left = 1 - sigma_min
    return (1 - left * _wide(time)) * noise + left * _wide(time) * mel, left * (mel - noise)


@also_right("codec.noisy_path")
def by_both_ends(noise, mel, time, sigma_min):
    end = mel + sigma_min * noise
    return torch.lerp(noise, end, _wide(time).expand_as(noise)), end - noise


# 7.5


@cases("codec.sway_sampling")
def _(rng):
    n = int(rng.integers(5, 12))
    even = torch.linspace(0, 1, n)
    return [
        Case("the default", time=even, coefficient=-1.0),
        Case("towards the mel", time=even, coefficient=float(rng.uniform(0.2, 0.9))),
        Case("half as much", time=even, coefficient=-0.5),
        Case("coefficient 0", time=even, coefficient=0.0),
        Case("None leaves the times alone", time=even, coefficient=None),
        Case("random times", time=torch.from_numpy(rng.random(n)).float(), coefficient=-0.8),
    ]


def _swayed(time, coefficient, bend):
    return time if coefficient is None else time + coefficient * bend


@wrong("codec.sway_sampling", "The coefficient multiplies cos(pi t / 2) - 1 + t, the last t included.")
def without_its_time(time, coefficient):
    return _swayed(time, coefficient, torch.cos(math.pi / 2 * time) - 1)


@wrong("codec.sway_sampling", "A quarter of a turn, not half of one: cos(pi t / 2), so that time 1 stays where it is.")
def half_a_turn(time, coefficient):
    return _swayed(time, coefficient, torch.cos(math.pi * time) - 1 + time)


@wrong("codec.sway_sampling", "The sign is wrong: coefficient -1 must crowd the times near 0, the noise.")
def other_way(time, coefficient):
    return _swayed(time, coefficient, 1 - time - torch.cos(math.pi / 2 * time))


@wrong("codec.sway_sampling", "That is right for coefficient -1 alone: use the coefficient.")
def always_one(time, coefficient):
    return time if coefficient is None else 1 - torch.cos(math.pi / 2 * time)


@wrong("codec.sway_sampling", "The cosine, not the sine: the bend must be flat at time 0.")
def by_sine(time, coefficient):
    return _swayed(time, coefficient, torch.sin(math.pi / 2 * time) - time)


@wrong("codec.sway_sampling", "None means: leave the times alone. You swayed them by -1.")
def none_is_default(time, coefficient):
    return _swayed(time, -1.0 if coefficient is None else coefficient, torch.cos(math.pi / 2 * time) - 1 + time)


@also_right("codec.sway_sampling")
def by_half_angle(time, coefficient):
    coefficient = 0.0 if coefficient is None else coefficient
    return (time.double() + coefficient * (time.double() - 2 * torch.sin(math.pi / 4 * time.double()) ** 2)).float()


# 7.6


@cases("codec.runge_kutta_4_step")
def _(rng):
    def case(name, velocity, begin, end, state):
        return Case(name, velocity=velocity, time=torch.tensor(begin), next_time=torch.tensor(end), state=state)

    dim = int(rng.integers(3, 6))
    matrix, offset = draw(rng, dim, dim), draw(rng, dim)
    state = draw(rng, 4, dim)
    return [
        case("a linear field", Named("linear_field", matrix=matrix), 0.0, 0.5, state),
        case("one that changes with time", Named("linear_field", matrix=matrix, offset=offset), 0.2, 0.7, state),
        case("the fifth power of time", Named("power_field", power=5.0, rate=2.0), 0.3, 1.0, state),
        case("the sixth power of time", Named("power_field", power=6.0, rate=-3.0), 0.5, 1.0, state),
        case("a short step", Named("linear_field", matrix=2 * matrix, offset=offset), 0.4, 0.5, state),
        case("a step of one", Named("linear_field", matrix=matrix), 0.0, 1.0, state),
    ]


@wrong("codec.runge_kutta_4_step", "That is Euler's step: one slope alone. Ask for all four.")
def euler(velocity, time, next_time, state):
    return (next_time - time) * velocity(time, state)


@wrong(
    "codec.runge_kutta_4_step",
    "That is the classic rule, with two slopes half-way. Kutta's 3/8 rule asks at one and two thirds.",
)
def classic(velocity, time, next_time, state):
    step = next_time - time
    k1 = velocity(time, state)
    k2 = velocity(time + step / 2, state + step * k1 / 2)
    k3 = velocity(time + step / 2, state + step * k2 / 2)
    k4 = velocity(next_time, state + step * k3)
    return (k1 + 2 * k2 + 2 * k3 + k4) * step / 6


def _slopes(velocity, time, next_time, state, third=1.0, fourth=1.0, still=False):
    step = next_time - time
    a, b, c = (time, time, time) if still else (time + step / 3, time + step * 2 / 3, next_time)
    k1 = velocity(time, state)
    k2 = velocity(a, state + step * k1 / 3)
    k3 = velocity(b, state + step * (k2 - third * k1 / 3))
    k4 = velocity(c, state + step * (k1 - fourth * k2 + k3))
    return step, k1, k2, k3, k4


@wrong("codec.runge_kutta_4_step", "The four slopes weigh 1, 3, 3, 1: yours weigh the same.")
def equal_weights(velocity, time, next_time, state):
    step, k1, k2, k3, k4 = _slopes(velocity, time, next_time, state)
    return (k1 + k2 + k3 + k4) * step / 4


@wrong("codec.runge_kutta_4_step", "Return the change alone: whoever calls adds it to the state.")
def new_state(velocity, time, next_time, state):
    step, k1, k2, k3, k4 = _slopes(velocity, time, next_time, state)
    return state + (k1 + 3 * (k2 + k3) + k4) * step / 8


@wrong("codec.runge_kutta_4_step", "Each slope has its own time: yours are all asked for at the start of the step.")
def time_stands_still(velocity, time, next_time, state):
    step, k1, k2, k3, k4 = _slopes(velocity, time, next_time, state, still=True)
    return (k1 + 3 * (k2 + k3) + k4) * step / 8


@wrong("codec.runge_kutta_4_step", "The third slope starts from k2 - k1 / 3: the sign of k1 / 3 is wrong.")
def third_slope(velocity, time, next_time, state):
    step, k1, k2, k3, k4 = _slopes(velocity, time, next_time, state, third=-1.0)
    return (k1 + 3 * (k2 + k3) + k4) * step / 8


@wrong("codec.runge_kutta_4_step", "The fourth slope starts from k1 - k2 + k3: the sign of k2 is wrong.")
def fourth_slope(velocity, time, next_time, state):
    step, k1, k2, k3, k4 = _slopes(velocity, time, next_time, state, fourth=-1.0)
    return (k1 + 3 * (k2 + k3) + k4) * step / 8


@wrong("codec.runge_kutta_4_step", "The weights sum to 8: divide by 8, and multiply by the step.")
def without_step(velocity, time, next_time, state):
    _, k1, k2, k3, k4 = _slopes(velocity, time, next_time, state)
    return (k1 + 3 * (k2 + k3) + k4) / 8


@also_right("codec.runge_kutta_4_step")
def from_a_table(velocity, time, next_time, state):
    table = [[], [1 / 3], [-1 / 3, 1.0], [1.0, -1.0, 1.0]]
    step, slopes = next_time - time, []
    for place, row in zip((0, 1 / 3, 2 / 3, 1), table, strict=True):
        moved = state + step * sum((w * k for w, k in zip(row, slopes, strict=True)), torch.zeros_like(state))
        slopes.append(velocity(time + place * step, moved))
    return step * sum(w * k for w, k in zip((1 / 8, 3 / 8, 3 / 8, 1 / 8), slopes, strict=True))


# 7.7


@cases("codec.adams_bashforth")
def _(rng):
    now, before = draw(rng, 2, 5, 6), draw(rng, 2, 5, 6)
    short, long = float(rng.uniform(0.02, 0.1)), float(rng.uniform(0.15, 0.3))

    def case(name, step, step_before, velocity_now=now):
        return Case(name, velocity_now=velocity_now, velocity_before=before, step=step, step_before=step_before)

    return [
        case("equal steps", 0.1, 0.1),
        case("steps that grow, as sway makes them", long, short),
        case("steps that shrink", short, long),
        case("a constant velocity", long, short, before.clone()),
        case("a step of one", 1.0, 0.5),
    ]


@wrong(
    "codec.adams_bashforth", "3/2 and -1/2 hold for equal steps alone. Sway makes them unequal: use step / step_before."
)
def equal_steps(velocity_now, velocity_before, step, step_before):
    return step * (1.5 * velocity_now - 0.5 * velocity_before)


@wrong("codec.adams_bashforth", "The ratio is upside down: a long step continues the change further than a short one.")
def ratio_inverted(velocity_now, velocity_before, step, step_before):
    return step * (velocity_now + step_before / (2 * step) * (velocity_now - velocity_before))


@wrong("codec.adams_bashforth", "That is the slope at the end of the step. The mean over the step lies half-way.")
def slope_at_the_end(velocity_now, velocity_before, step, step_before):
    return step * (velocity_now + step / step_before * (velocity_now - velocity_before))


@wrong("codec.adams_bashforth", "That is Euler's step: the slope before is not used.")
def slope_now(velocity_now, velocity_before, step, step_before):
    return step * velocity_now


@wrong(
    "codec.adams_bashforth",
    "The mean of the two slopes looks at the step behind you. Continue their change into the coming one.",
)
def mean_of_both(velocity_now, velocity_before, step, step_before):
    return step * (velocity_now + velocity_before) / 2


@wrong("codec.adams_bashforth", "The sign of the correction is wrong: a slope that has been growing goes on growing.")
def bend_backwards(velocity_now, velocity_before, step, step_before):
    return step * (velocity_now - step / (2 * step_before) * (velocity_now - velocity_before))


@wrong("codec.adams_bashforth", "That is a mean velocity. The change of the state is that times the step.")
def no_step(velocity_now, velocity_before, step, step_before):
    return velocity_now + step / (2 * step_before) * (velocity_now - velocity_before)


@also_right("codec.adams_bashforth")
def by_integral(velocity_now, velocity_before, step, step_before):
    bend = (velocity_now.double() - velocity_before) / step_before
    return (velocity_now * step + bend * step**2 / 2).float()


# 7.8


@cases("codec.guided_velocity")
def _(rng):
    conditional, unconditional = draw(rng, 2, 6, 5), draw(rng, 2, 6, 5)

    def case(name, scale, c=conditional, u=unconditional):
        return Case(name, conditional=c, unconditional=u, scale=scale)

    return [
        case("the default", 0.5),
        case("scale 0", 0.0),
        case("a strong pull", float(rng.uniform(1.5, 4.0))),
        case("no condition helps", 0.7, conditional, conditional.clone()),
        case("scale 1", 1.0),
        case("large velocities", 0.3, 9 * conditional, 9 * unconditional),
    ]


@wrong(
    "codec.guided_velocity", "You started from the unconditional velocity. Here scale 0 must give the conditional one."
)
def from_unconditional(conditional, unconditional, scale):
    return unconditional + scale * (conditional - unconditional)


@wrong("codec.guided_velocity", "You steer towards the unconditional velocity: the difference has the wrong sign.")
def towards_nothing(conditional, unconditional, scale):
    return conditional + scale * (unconditional - conditional)


@wrong("codec.guided_velocity", "That is the pull alone: add it to the conditional velocity.")
def pull_alone(conditional, unconditional, scale):
    return scale * (conditional - unconditional)


@wrong(
    "codec.guided_velocity", "Pull away from the unconditional velocity, by the difference of the two: you added it."
)
def sum_of_both(conditional, unconditional, scale):
    return conditional + scale * unconditional


@wrong(
    "codec.guided_velocity",
    "You only took away: what is added is scale times the difference of the two velocities.",
)
def only_subtracted(conditional, unconditional, scale):
    return conditional - scale * unconditional


@wrong("codec.guided_velocity", "The scale is not used.")
def no_scale(conditional, unconditional, scale):
    return 2 * conditional - unconditional


@also_right("codec.guided_velocity")
def by_weights_of_both(conditional, unconditional, scale):
    return (1 + scale) * conditional - scale * unconditional


# 7.9


@cases("codec.sliding_window_block_mask")
def _(rng):
    def case(name, back, ahead, size=None, rest=0):
        size, blocks = size or int(rng.integers(2, 8)), int(rng.integers(5, 12))
        return Case(name, length=size * blocks + rest, block_size=size, look_backward=back, look_ahead=ahead)

    return [
        case("its own block", 0, 0),
        case("one block back", 1, 0),
        case("one block ahead", 0, 1),
        case("two back, one ahead, as the report says", 2, 1),
        case("a last block that is short", 1, 0, rest=1),
        case("blocks of one frame", 1, 2, size=1),
    ]


def _distance(length, block_size):
    block = torch.arange(length) // block_size
    return block[None] - block[:, None]


@wrong(
    "codec.sliding_window_block_mask",
    "Back and ahead are exchanged: row i is the frame that looks, columns are what it sees.",
)
def exchanged_directions(length, block_size, look_backward, look_ahead):
    d = _distance(length, block_size)
    return (d >= -look_ahead) & (d <= look_backward)


@wrong(
    "codec.sliding_window_block_mask", "The window moves by whole blocks, not with each frame: compare block numbers."
)
def by_frames(length, block_size, look_backward, look_ahead):
    d = torch.arange(length)[None] - torch.arange(length)[:, None]
    return (d >= -look_backward * block_size) & (d <= look_ahead * block_size)


@wrong(
    "codec.sliding_window_block_mask",
    "Within a block every frame sees all others, later ones too: this is no causal mask.",
)
def causal_within(length, block_size, look_backward, look_ahead):
    d = _distance(length, block_size)
    frames = torch.arange(length)
    return (d >= -look_backward) & (d <= look_ahead) & ((d != 0) | (frames[None] <= frames[:, None]))


@wrong("codec.sliding_window_block_mask", "True means: may attend. Yours marks what is hidden.")
def hidden(length, block_size, look_backward, look_ahead):
    d = _distance(length, block_size)
    return (d < -look_backward) | (d > look_ahead)


@wrong(
    "codec.sliding_window_block_mask", "The limits belong to the window: one block back means distance -1 is allowed."
)
def strictly(length, block_size, look_backward, look_ahead):
    d = _distance(length, block_size)
    return ((d > -look_backward) & (d < look_ahead)) | (d == 0)


@wrong(
    "codec.sliding_window_block_mask", "What lies far behind is hidden too: the window slides, and state stays bounded."
)
def all_of_the_past(length, block_size, look_backward, look_ahead):
    return _distance(length, block_size) <= look_ahead


@wrong("codec.sliding_window_block_mask", "Back and ahead differ: you let frames look equally far in both directions.")
def symmetric(length, block_size, look_backward, look_ahead):
    return _distance(length, block_size).abs() <= max(look_backward, look_ahead)


@also_right("codec.sliding_window_block_mask")
def block_by_block(length, block_size, look_backward, look_ahead):
    mask = torch.zeros(length, length, dtype=torch.bool)
    for start in range(0, length, block_size):
        first, last = start - look_backward * block_size, start + (1 + look_ahead) * block_size
        mask[start : start + block_size, max(0, first) : last] = True
    return mask


# 7.10


@cases("codec.receptive_blocks")
def _(rng):
    a, b, c, d, e, f = (int(n) for n in rng.integers(8, 40, 6))
    some = [(int(back), int(ahead)) for back, ahead in rng.integers(0, 2, (3, 2))]
    return [
        Case("the report's: two back, one ahead", blocks=a, reaches=[(1, 0), (0, 0), (0, 1), (0, 0), (1, 0)]),
        Case("no layer looks out", blocks=b, reaches=[(0, 0), (0, 0)]),
        Case("one layer looks both ways", blocks=c, reaches=[(1, 2)]),
        Case("ahead in two layers", blocks=d, reaches=[(0, 1), (0, 1), (0, 0)]),
        Case("a layer that looks two back, and another", blocks=e, reaches=[(2, 0), (1, 1), (0, 0)]),
        Case("layers drawn at random", blocks=f, reaches=[*some, (1, 0), (2, 1)]),
    ]


def _within(blocks, back, ahead):
    d = _distance(blocks, 1)
    return (d >= -back) & (d <= ahead)


@wrong("codec.receptive_blocks", "Reaches add up from layer to layer: you took the widest layer alone.")
def widest_layer(blocks, reaches):
    return _within(blocks, max(b for b, _ in reaches), max(a for _, a in reaches))


@wrong(
    "codec.receptive_blocks", "A layer that stays within its block widens nothing: you added one block for every layer."
)
def one_a_layer(blocks, reaches):
    return _within(blocks, len(reaches), len(reaches))


@wrong("codec.receptive_blocks", "Layers that look ahead widen the other side: you counted the past alone.")
def past_alone(blocks, reaches):
    return _within(blocks, sum(b for b, _ in reaches), 0)


@wrong(
    "codec.receptive_blocks", "Row i is the block whose output it is, columns are what it hears: yours is transposed."
)
def transposed_reach(blocks, reaches):
    return _within(blocks, sum(a for _, a in reaches), sum(b for b, _ in reaches))


@wrong(
    "codec.receptive_blocks", "Back and ahead add up separately: a look back does not undo a look ahead, nor widen it."
)
def both_together(blocks, reaches):
    reach = sum(b + a for b, a in reaches)
    return _within(blocks, reach, reach)


@wrong(
    "codec.receptive_blocks",
    "Some layers reach further than one block: add their reach, not one for each layer that looks.",
)
def looking_layers(blocks, reaches):
    return _within(blocks, sum(b > 0 for b, _ in reaches), sum(a > 0 for _, a in reaches))


@wrong("codec.receptive_blocks", "Asked for is whether a block is heard: True or False, not in how many ways.")
def ways(blocks, reaches):
    seen = torch.eye(blocks)
    for back, ahead in reaches:
        seen = seen @ _within(blocks, back, ahead).float()
    return seen


@also_right("codec.receptive_blocks")
def by_products(blocks, reaches):
    return ways(blocks, reaches) > 0


# 7.11


@cases("codec.snake_beta")
def _(rng):
    def case(name, batch, channels, samples, scale=1.0):
        alpha = torch.from_numpy(rng.uniform(0.3, 3.0, (channels, 1))).float()
        beta = torch.from_numpy(rng.uniform(0.3, 3.0, (channels, 1))).float()
        return Case(name, x=scale * draw(rng, batch, channels, samples), alpha=alpha, beta=beta)

    n = int(rng.integers(5, 10))
    return [
        case("a batch", 2, 3, n),
        case("one channel", 3, 1, n),
        case("as many channels as samples", 2, 4, 4),
        case("loud", 1, 3, n, 5.0),
        case("quiet", 1, 3, n, 0.05),
    ]


@wrong("codec.snake_beta", "The sine is squared: the bump must never be negative.")
def not_squared(x, alpha, beta):
    return x + torch.sin(alpha * x) / beta


@wrong("codec.snake_beta", "That is Snake, with one number for both. In SnakeBeta the height is 1 / beta.")
def plain_snake(x, alpha, beta):
    return x + torch.sin(alpha * x).square() / alpha + 0 * beta


@wrong("codec.snake_beta", "beta divides: a large beta makes the bumps small.")
def multiplied(x, alpha, beta):
    return x + torch.sin(alpha * x).square() * beta


@wrong("codec.snake_beta", "The x in front is missing: without it nothing gets through but the bumps.")
def bumps_alone(x, alpha, beta):
    return torch.sin(alpha * x).square() / beta


@wrong("codec.snake_beta", "The cosine is 1 at 0: silence would become a constant. Use the sine.")
def by_cosine(x, alpha, beta):
    return x + torch.cos(alpha * x).square() / beta


@wrong("codec.snake_beta", "alpha is the frequency: it belongs inside the sine.")
def alpha_outside(x, alpha, beta):
    return x + (alpha * torch.sin(x)).square() / beta


@wrong("codec.snake_beta", "alpha and beta are exchanged: alpha inside the sine, beta below it.")
def scales_exchanged(x, alpha, beta):
    return x + torch.sin(beta * x).square() / alpha


@also_right("codec.snake_beta")
def by_double_angle(x, alpha, beta):
    return x + (1 - torch.cos(2 * alpha * x)) / (2 * beta)


# 7.12


@cases("codec.crossfade")
def _(rng):
    n = int(rng.integers(4, 9))
    return [
        Case("a chunk and what lay beyond the last", old=draw(rng, n), new=draw(rng, 3 * n)),
        Case("two level lines", old=torch.ones(n), new=torch.zeros(2 * n)),
        Case("the same sound", old=torch.linspace(0, 1, n), new=torch.linspace(0, 2, 2 * n)),
        Case("nothing lay beyond", old=torch.empty(0), new=draw(rng, n)),
        Case("a chunk shorter than the fade", old=draw(rng, 2 * n), new=draw(rng, n)),
        Case("a fade of one sample", old=draw(rng, 1), new=draw(rng, n)),
    ]


def _faded(old, new, weigh, offset=0.5):
    count = min(len(old), len(new))
    place = (torch.arange(count) + offset) / max(count, 1)
    a, b = weigh(place)
    return torch.cat((old[:count] * a + new[:count] * b, new[count:]))


def _raised(place):
    weight = 0.5 - 0.5 * torch.cos(torch.pi * place)
    return 1 - weight, weight


@wrong("codec.crossfade", "That is a straight ramp: its corners can be heard. A raised cosine has none.")
def ramp(old, new):
    return _faded(old, new, lambda p: (1 - p, p))


@wrong("codec.crossfade", "The new chunk starts at once: that is the seam you want to get rid of.")
def hard_cut(old, new):
    return new.clone()


@wrong("codec.crossfade", "You fade from the new chunk to the old sound: exchange the weights.")
def from_new_to_old(old, new):
    return _faded(old, new, lambda p: _raised(p)[::-1])


@wrong(
    "codec.crossfade",
    "These weights sum to more than 1: they suit two unlike sounds. Yours are two drafts of the same.",
)
def equal_power(old, new):
    return _faded(old, new, lambda p: (torch.cos(torch.pi / 2 * p), torch.sin(torch.pi / 2 * p)))


@wrong("codec.crossfade", "Half of each all along still jumps at both ends: the weights must move from 0 to 1.")
def half_and_half(old, new):
    return _faded(old, new, lambda p: (torch.full_like(p, 0.5), torch.full_like(p, 0.5)))


@wrong(
    "codec.crossfade",
    "The old samples lie over the first new ones, they do not come before them: the sound gets longer.",
)
def one_after_the_other(old, new):
    return torch.cat((old, new))


@wrong(
    "codec.crossfade",
    "Take the middle of each sample: place (i + 0.5) / count, so that the fade is the same from both sides.",
)
def from_the_edge(old, new):
    return _faded(old, new, _raised, offset=0.0)


@also_right("codec.crossfade")
def by_sine_squared(old, new):
    count = min(len(old), len(new))
    made = new.clone()
    if count:
        made[:count] += (old[:count] - new[:count]) * torch.cos(torch.pi / 2 * (torch.arange(count) + 0.5) / count) ** 2
    return made


# 7.13


@cases("codec.stream")
def _(rng):
    def case(name, count, block, ahead):
        codes = [int(c) for c in rng.integers(0, 50, count)]
        return Case(name, codec=Named("toy_codec", codes=codes, block=block, ahead=ahead))

    block = int(rng.integers(2, 5))
    return [
        case("whole blocks", 5 * block, block, 1),
        case("a last block that is short", 4 * block + 1, block, 1),
        case("two blocks of look-ahead", 6 * block + 1, block, 2),
        case("fewer codes than a window", block + 1, block, 1),
        case("no look-ahead", 4 * block + 1, block, 0),
        case("no codes at all", 0, 2, 1),
    ]


def _stream(codec, late=0, fade=True, finish=True, window=None, drop=None, order=1):
    window = (1 + codec.ahead) * codec.block if window is None else window
    drop = codec.block if drop is None else drop
    known, spare, beyond, ended = [], [], torch.empty(0), False
    while True:
        while len(known) + len(spare) < window + late and not ended:
            code = next(codec.codes, None)
            ended = code is None
            spare += [] if ended else [code]
        while spare and len(known) < window:
            known.append(spare.pop(0))
        if not known or (ended and not finish and len(known) < window):
            return
        samples, after = codec.render(known)
        pair = (beyond, samples)[::order]
        yield _faded(*pair, _raised) if fade else samples
        beyond, known = after, known[drop:]


@wrong(
    "codec.stream",
    "You waited for the last code. Speak as soon as one block and its look-ahead are known.",
)
def waits_for_all(codec):
    return _stream(codec, late=1_000_000)


@wrong(
    "codec.stream",
    "You spoke each block without its look-ahead: wait for `ahead` more blocks, and hand them to render too.",
)
def no_look_ahead(codec):
    return _stream(codec, window=codec.block)


@wrong("codec.stream", "The end is missing: when no more codes come, speak those that are left.")
def end_is_missing(codec):
    return _stream(codec, finish=False)


@wrong(
    "codec.stream", "The seams are still there: pass from what lay beyond the last chunk to the new one by crossfade."
)
def seams(codec):
    return _stream(codec, fade=False)


@wrong("codec.stream", "crossfade(old, new): the old one is what lay beyond the last chunk. Yours are exchanged.")
def fade_exchanged(codec):
    return _stream(codec, order=-1)


@wrong(
    "codec.stream", "You waited for one code more than needed: speak when the window is full, not when it runs over."
)
def one_too_late(codec):
    return _stream(codec, late=1)


@wrong(
    "codec.stream",
    "You dropped the look-ahead with the block: only the spoken codes go, the look-ahead is spoken next.",
)
def drops_the_look_ahead(codec):
    return _stream(codec, drop=(1 + codec.ahead) * codec.block)


@wrong(
    "codec.stream",
    "You keep codes that have been spoken: drop a block once it is heard, or state grows with the reply.",
)
def keeps_everything(codec):
    known = []
    window = (1 + codec.ahead) * codec.block
    for code in codec.codes:
        known.append(code)
        if len(known) >= window:
            yield codec.render(known)[0]


@also_right("codec.stream")
def one_loop_and_a_rest(codec):
    known, beyond = [], torch.empty(0)
    for code in codec.codes:
        known.append(code)
        if len(known) == codec.block * (codec.ahead + 1):
            samples, after = codec.render(list(known))
            yield _faded(beyond, samples, _raised)
            beyond = after
            del known[: codec.block]
    while known:
        samples, after = codec.render(list(known))
        yield _faded(beyond, samples, _raised)
        beyond = after
        del known[: codec.block]


# 7.14


@cases("codec.first_packet")
def _(rng):
    def case(name, block_size, repeats, ahead, calls, **more):
        seconds = {
            "input_seconds": float(rng.uniform(0.05, 0.4)),
            "first_code_seconds": float(rng.uniform(0.02, 0.2)),
            "code_seconds": float(rng.uniform(0.005, 0.03)),
            "call_seconds": float(rng.uniform(0.002, 0.02)),
            "vocoder_seconds": float(rng.uniform(0.01, 0.1)),
        }
        sizes = {"block_size": block_size, "repeats": repeats, "ahead": ahead, "calls": calls}
        return Case(name, **{**seconds, **more}, **sizes)

    return [
        case("the report's sizes", 24, 2, 1, 36),
        case("no look-ahead", 24, 2, 0, 36),
        case("two blocks of look-ahead", 16, 2, 2, 12),
        case("a frame a code", 12, 1, 1, 4),
        case("codes for nothing", 24, 2, 1, 9, code_seconds=0.0),
        case("three frames a code", 24, 3, 1, int(rng.integers(5, 30))),
    ]


@wrong("codec.first_packet", "The first code is there already: only the codes after it must be waited for.")
def first_code_twice(
    input_seconds, first_code_seconds, code_seconds, block_size, repeats, ahead, calls, call_seconds, vocoder_seconds
):
    codes = (1 + ahead) * block_size // repeats
    return input_seconds + first_code_seconds + codes * code_seconds + calls * call_seconds + vocoder_seconds


@wrong("codec.first_packet", "The look-ahead must be known too: its codes are waited for as well.")
def look_ahead_forgotten(
    input_seconds, first_code_seconds, code_seconds, block_size, repeats, ahead, calls, call_seconds, vocoder_seconds
):
    codes = block_size // repeats - 1
    return input_seconds + first_code_seconds + codes * code_seconds + calls * call_seconds + vocoder_seconds


@wrong(
    "codec.first_packet", "A block is counted in mel frames, and the talker makes codes: `repeats` frames are one code."
)
def frames_for_codes(
    input_seconds, first_code_seconds, code_seconds, block_size, repeats, ahead, calls, call_seconds, vocoder_seconds
):
    codes = (1 + ahead) * block_size - 1
    return input_seconds + first_code_seconds + codes * code_seconds + calls * call_seconds + vocoder_seconds


@wrong("codec.first_packet", "The ODE takes `calls` network calls, one after the other: you counted one.")
def one_call(
    input_seconds, first_code_seconds, code_seconds, block_size, repeats, ahead, calls, call_seconds, vocoder_seconds
):
    codes = (1 + ahead) * block_size // repeats - 1
    return input_seconds + first_code_seconds + codes * code_seconds + call_seconds + vocoder_seconds


@wrong("codec.first_packet", "The clock starts at the end of the question: reading it in comes first.")
def input_forgotten(
    input_seconds, first_code_seconds, code_seconds, block_size, repeats, ahead, calls, call_seconds, vocoder_seconds
):
    codes = (1 + ahead) * block_size // repeats - 1
    return first_code_seconds + codes * code_seconds + calls * call_seconds + vocoder_seconds


@wrong("codec.first_packet", "A mel is no sound yet: the vocoder's time is missing.")
def vocoder_forgotten(
    input_seconds, first_code_seconds, code_seconds, block_size, repeats, ahead, calls, call_seconds, vocoder_seconds
):
    codes = (1 + ahead) * block_size // repeats - 1
    return input_seconds + first_code_seconds + codes * code_seconds + calls * call_seconds


@wrong(
    "codec.first_packet",
    "One pass of the network covers all blocks of the window: do not multiply the calls by the blocks.",
)
def calls_a_block(
    input_seconds, first_code_seconds, code_seconds, block_size, repeats, ahead, calls, call_seconds, vocoder_seconds
):
    codes = (1 + ahead) * block_size // repeats - 1
    work = (1 + ahead) * calls * call_seconds
    return input_seconds + first_code_seconds + codes * code_seconds + work + vocoder_seconds


@also_right("codec.first_packet")
def source_by_source(
    input_seconds, first_code_seconds, code_seconds, block_size, repeats, ahead, calls, call_seconds, vocoder_seconds
):
    a_block = block_size // repeats
    waiting = code_seconds * (a_block + ahead * a_block - 1)
    return sum((input_seconds, first_code_seconds, waiting, call_seconds * calls, vocoder_seconds))
