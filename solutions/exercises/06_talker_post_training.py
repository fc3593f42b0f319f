"""Cases, wrong answers and other right answers of lab 06."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from omni_lab.evaluate import metrics
from omni_lab.lab.authoring import Case, Exercise, also_right, cases, wrong

IGNORE = -100
metrics.normalise("once")  # loads Whisper's normaliser now, so that no case's time limit pays for it

EXERCISES = [
    Exercise(
        "talker.continuation_targets", "6.1", "What is learned of a continuation", points=8, difficulty=2, minutes=10,
        target="omni_lab.train.recipes.talker:continuation_targets",
        hints=(
            "Without any given codes, what stands in the row? Then which places of it must be emptied?",
            "`count = (codes != IGNORE).sum(dim=1, keepdim=True)` is where each row's end stands.",
        ),
    ),
    Exercise(
        "metrics.similarity_matrix", "6.2", "Who sounds like whom", points=7, difficulty=1, minutes=8,
        target="omni_lab.evaluate.metrics:similarity_matrix",
        hints=(
            "A cosine does not change when a vector gets longer. What do you divide by?",
            "`scale = np.linalg.norm(voices, axis=1)[:, None] * np.linalg.norm(others, axis=1)[None]`",
        ),
    ),
    Exercise(
        "speech.energy_pauses", "6.3", "Pauses, by energy alone", points=11, difficulty=3, minutes=20,
        hints=(
            "Forget the quiet frames: list the loud ones. What is between two of them that are not neighbours?",
            "`level = wave[: n * frame].reshape(-1, frame).square().mean(dim=1).sqrt()`, `frame = rate // 100`.",
        ),
    ),
    Exercise(
        "metrics.pause_errors", "6.4", "Pauses in the wrong places", points=10, difficulty=3, minutes=20,
        target="omni_lab.evaluate.metrics:pause_errors", seconds=40.0,  # the first call loads Whisper's normaliser
        hints=(
            "`metrics.align` gives pairs (place in the text, place in what was heard). When are two pairs neighbours?",
            "`gap = timed[next_j][1] - timed[j][2]`: from the end of one word to the beginning of the next.",
        ),
    ),
    Exercise(
        "preferences.best_and_worst", "6.5", "The best and the worst", points=8, difficulty=1, minutes=8,
        target="omni_lab.train.preferences:best_and_worst",
        hints=(
            "What is the answer for no scores at all, and for scores that are nearly alike?",
            "`best = scores.index(min(scores))`; for the last of several look from the end.",
        ),
    ),
    Exercise(
        "preferences.sequence_log_probability", "6.6", "How likely is an attempt", points=8, difficulty=2, minutes=10,
        target="omni_lab.train.preferences:sequence_log_probability",
        hints=(
            "Logits are no log-probabilities yet. Over which dimension do they become some?",
            "`logs.gather(2, labels.clamp(min=0).unsqueeze(-1))` picks each label's; then leave out what is IGNORE.",
        ),
    ),
    Exercise(
        "preferences.dpo_loss", "6.7", "The DPO loss", points=12, difficulty=2, minutes=12,
        target="omni_lab.train.preferences:dpo_loss", gradients=("policy_chosen", "policy_rejected"),
        hints=(
            "Policy and reference are the same: what is the margin, and what is the loss then?",
            "`margin = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)`",
        ),
    ),
    Exercise(
        "preferences.gradient_weight", "6.8", "The weight of a pair", points=8, difficulty=2, minutes=10,
        hints=(
            "If the rejected attempt has the higher implied reward, shall the weight be near 0 or near beta?",
            "`reward_chosen = beta * (policy_chosen - reference_chosen)`",
        ),
    ),
    Exercise(
        "preferences.ipo_loss", "6.9", "IPO", points=7, difficulty=2, minutes=10,
        hints=(
            "Which margin gives no loss at all?",
            "`h = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)`",
        ),
    ),
    Exercise(
        "preferences.simpo_loss", "6.10", "SimPO", points=7, difficulty=2, minutes=10,
        hints=(
            "Each attempt has its own length. Which is divided by which?",
            "`chosen = beta * policy_chosen / chosen_length`",
        ),
    ),
    Exercise(
        "metrics.paired_interval", "6.11", "A paired interval", points=8, difficulty=2, minutes=12,
        hints=(
            "`before[picks]` has which shape? Over which dimension is a draw summed?",
            "`difference = (after[picks] - before[picks]).sum(dim=1) / words[picks].sum(dim=1)`",
        ),
    ),
    Exercise(
        "disclosure.tone_level", "6.12", "How strong is a tone", points=6, difficulty=2, minutes=12,
        target="omni_lab.codec.disclosure:tone_level",
        hints=(
            "Why is one sum not enough? What does a sine of phase 90 degrees give when multiplied by a sine?",
            "`turn = 2 * math.pi * frequency / sample_rate * torch.arange(window, device=wave.device)`, the angle at "
            "each sample.",
        ),
    ),
]  # fmt: skip


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape)).float()


# 6.1


@cases("talker.continuation_targets")
def _(rng):
    def case(name, lengths, given, end=1030):
        codes = torch.full((len(lengths), max(lengths)), IGNORE)
        for row, length in zip(codes, lengths, strict=True):
            row[:length] = torch.from_numpy(rng.integers(1, 1000, length))
        return Case(name, codes=codes, given=torch.tensor(given), end_token=end)

    a, b = int(rng.integers(5, 8)), int(rng.integers(3, 5))
    return [
        case("three of each are given", [a, a], [3, 2]),
        case("rows of different lengths", [a, b, b + 1], [2, 1, 3]),
        case("nothing is given", [a, b], [0, 0]),
        case("all but the last", [a, b], [a - 1, b - 1]),
        case("one row", [a + 3], [int(rng.integers(2, 5))], 8294),
        case("some rows are given nothing", [b, a, a], [0, 4, 1]),
    ]


def _targets(codes, end_token):
    count = (codes != IGNORE).sum(1, keepdim=True)
    return F.pad(codes, (0, 1), value=IGNORE).scatter(1, count, end_token)


def _place(codes):
    return torch.arange(codes.shape[1] + 1)[None]


@wrong("talker.continuation_targets", "The given codes are still targets: put IGNORE at each row's first places.")
def nothing_masked(codes, given, end_token):
    return _targets(codes, end_token)


@wrong("talker.continuation_targets", "The other way round: you kept what is given and dropped what is to be learned.")
def mask_reversed(codes, given, end_token):
    return _targets(codes, end_token).masked_fill(_place(codes) >= given[:, None], IGNORE)


@wrong("talker.continuation_targets", "One place too many: the first code after the given ones is to be learned.")
def one_too_many_masked(codes, given, end_token):
    return _targets(codes, end_token).masked_fill(_place(codes) <= given[:, None], IGNORE)


@wrong("talker.continuation_targets", "The end must be learned as well: `end_token` stands behind the last code.")
def no_end(codes, given, end_token):
    return F.pad(codes, (0, 1), value=IGNORE).masked_fill(_place(codes) < given[:, None], IGNORE)


@wrong("talker.continuation_targets", "Each row has its own number of given codes: you used the first row's for all.")
def first_rows_number(codes, given, end_token):
    return _targets(codes, end_token).masked_fill(_place(codes) < given[0], IGNORE)


@wrong("talker.continuation_targets", "The end stands behind each row's own last code, not in the last column.")
def end_in_the_last_column(codes, given, end_token):
    targets = F.pad(codes, (0, 1), value=end_token)
    return targets.masked_fill(_place(codes) < given[:, None], IGNORE)


@wrong("talker.continuation_targets", "What is given keeps its place, as IGNORE: you cut it off or moved it.")
def shifted(codes, given, end_token):
    targets = _targets(codes, end_token)
    out = torch.full_like(targets, IGNORE)
    for row, (line, skip) in enumerate(zip(targets, given.tolist(), strict=True)):
        out[row, : len(line) - skip] = line[skip:]
    return out


@also_right("talker.continuation_targets")
def row_by_row(codes, given, end_token):
    rows = []
    for line, skip in zip(codes.tolist(), given.tolist(), strict=True):
        said = [c for c in line if c != IGNORE] + [end_token]
        rows.append([IGNORE] * skip + said[skip:] + [IGNORE] * (len(line) + 1 - len(said)))
    return torch.tensor(rows)


# 6.2


@cases("metrics.similarity_matrix")
def _(rng):
    dim = int(rng.integers(4, 9))

    def prints(n, silent=()):
        made = rng.standard_normal((n, dim)) + 0.5
        made[list(silent)] = 0
        return made

    return [
        Case("three with four", voices=prints(3), others=prints(4)),
        Case("louder and softer", voices=3 * prints(2), others=0.2 * prints(3)),
        Case("one silent voice", voices=prints(4, (1,)), others=prints(3)),
        Case("one silent other", voices=prints(2), others=prints(4, (0, 3))),
        Case("one with many", voices=prints(1), others=prints(6)),
        Case("unit vectors", voices=np.eye(dim)[:3], others=prints(3)),
    ]


def _scale(voices, others):
    scale = np.linalg.norm(voices, axis=1)[:, None] * np.linalg.norm(others, axis=1)[None]
    return np.where(scale > 0, scale, 1.0)


@wrong("metrics.similarity_matrix", "A louder vector must not be more alike: divide by both lengths.")
def plain_product(voices, others):
    return voices @ others.T


@wrong("metrics.similarity_matrix", "You divided by the length of `voices` alone: the others' lengths count as well.")
def one_length(voices, others):
    length = np.linalg.norm(voices, axis=1, keepdims=True)
    return voices @ others.T / np.where(length > 0, length, 1.0)


@wrong("metrics.similarity_matrix", "Divide by lengths, not by squared lengths: the square root is missing.")
def squared_lengths(voices, others):
    return voices @ others.T / _scale(voices, others) ** 2


@wrong("metrics.similarity_matrix", "Row i belongs to voices[i], column j to others[j]: yours is the transpose.")
def transposed(voices, others):
    return (voices @ others.T / _scale(voices, others)).T


@wrong("metrics.similarity_matrix", "Silence is like nobody: where a row is all zeros the answer is 0.")
def silence_is_like_all(voices, others):
    silent = (np.linalg.norm(voices, axis=1)[:, None] * np.linalg.norm(others, axis=1)[None]) == 0
    return np.where(silent, 1.0, voices @ others.T / _scale(voices, others))


@wrong("metrics.similarity_matrix", "That is a distance, 1 minus the cosine: the cosine itself was asked for.")
def distance(voices, others):
    return 1 - voices @ others.T / _scale(voices, others)


@wrong("metrics.similarity_matrix", "Each vector has its own length: you divided all by the length of the whole table.")
def whole_table(voices, others):
    return voices @ others.T / (np.linalg.norm(voices) * np.linalg.norm(others))


@wrong("metrics.similarity_matrix", "A cosine may be negative, and is no angle between 0 and 1: leave its sign.")
def rectified(voices, others):
    return np.abs(voices @ others.T / _scale(voices, others))


@also_right("metrics.similarity_matrix")
def unit_vectors_first(voices, others):
    units = [v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (voices, others)]
    return np.einsum("nd,md->nm", *units)


# 6.3


@cases("speech.energy_pauses")
def _(rng):
    def sound(rate, *parts, scale=1.0):
        """(seconds, level in dB below the loudest) one after the other, and some samples that fill no frame."""
        pieces = []
        for seconds, level in parts:
            count = round(seconds * 100) * (rate // 100)
            signs = np.where(rng.random(count) < 0.5, -1.0, 1.0)
            pieces.append(0.4 * 10 ** (-level / 20) * signs * rng.uniform(0.97, 1.0, count))
        pieces.append(np.full(rate // 100 - 3, 0.4))
        return torch.from_numpy(np.concatenate(pieces) * scale).float()

    def s(low, high):
        return round(float(rng.uniform(low, high)), 2)

    loud = (s(0.2, 0.4), 0.0)
    return [
        Case("one pause", wave=sound(8000, loud, (s(0.2, 0.3), 60), (s(0.2, 0.3), 3)), rate=8000, threshold=35.0,
             shortest=0.12),
        Case("silence before and after", rate=8000, threshold=30.0, shortest=0.1,
             wave=sound(8000, (s(0.2, 0.3), 70), loud, (0.25, 55), loud, (0.3, 70))),
        Case("a gap that is too short", rate=16000, threshold=35.0, shortest=0.12,
             wave=sound(16000, loud, (0.06, 60), loud, (s(0.15, 0.25), 60), loud)),
        Case("a quiet recording", wave=sound(8000, loud, (0.2, 60), loud, scale=0.002), rate=8000, threshold=35.0,
             shortest=0.12),
        Case("a murmur is no pause", wave=sound(8000, loud, (s(0.2, 0.3), 25), loud, (0.16, 60), loud), rate=8000,
             threshold=35.0, shortest=0.12),
        Case("a soft word counts as a pause here", wave=sound(8000, loud, (0.3, 26), loud, (0.15, 12), loud), rate=8000,
             threshold=20.0, shortest=0.05),
        Case("no pause", wave=sound(8000, loud, loud), rate=8000, threshold=35.0, shortest=0.12),
    ]  # fmt: skip


def _level(wave, rate):
    frame = rate // 100
    return wave[: len(wave) // frame * frame].reshape(-1, frame).square().mean(1).sqrt()


def _runs(quiet, shortest, inside=True, step=0.01):
    """Runs of quiet frames as (first, behind the last)."""
    found, start = [], None
    for place, is_quiet in enumerate([*quiet.tolist(), False]):
        if is_quiet and start is None:
            start = place
        elif not is_quiet and start is not None:
            edge = start == 0 or place == len(quiet)
            if (place - start) * step >= shortest - 1e-9 and not (inside and edge):
                found.append((start, place))
            start = None
    return found


def _seconds(runs):
    return [(0.01 * a, 0.01 * b) for a, b in runs]


def _quiet(wave, rate, threshold):
    level = _level(wave, rate)
    return level < level.max() * 10 ** (-threshold / 20)


@wrong("speech.energy_pauses", "The silence before the first and after the last sound is no pause.")
def edges_count(wave, rate, threshold, shortest):
    return _seconds(_runs(_quiet(wave, rate, threshold), shortest, inside=False))


@wrong("speech.energy_pauses", "A pause lasts `shortest` seconds or more: yours keeps every short gap.")
def every_gap(wave, rate, threshold, shortest):
    return _seconds(_runs(_quiet(wave, rate, threshold), 0.0))


@wrong("speech.energy_pauses", "Measure against the loudest frame: in a quiet recording all of yours is silence.")
def absolute(wave, rate, threshold, shortest):
    return _seconds(_runs(_level(wave, rate) < 10 ** (-threshold / 20), shortest))


@wrong("speech.energy_pauses", "Decibels of levels are 20 times the logarithm; 10 times is for powers.")
def ten_log(wave, rate, threshold, shortest):
    level = _level(wave, rate)
    return _seconds(_runs(level < level.max() * 10 ** (-threshold / 10), shortest))


@wrong("speech.energy_pauses", "Seconds were asked for: you returned numbers of frames.")
def in_frames(wave, rate, threshold, shortest):
    return [(float(a), float(b)) for a, b in _runs(_quiet(wave, rate, threshold), shortest)]


@wrong("speech.energy_pauses", "A pause ends where the next loud frame begins: yours ends a frame early.")
def ends_early(wave, rate, threshold, shortest):
    return [(0.01 * a, 0.01 * (b - 1)) for a, b in _runs(_quiet(wave, rate, threshold), shortest)]


@wrong("speech.energy_pauses", "You found the speech, not the pauses.")
def speech_instead(wave, rate, threshold, shortest):
    return _seconds(_runs(~_quiet(wave, rate, threshold), shortest, inside=False))


@wrong("speech.energy_pauses", "Return (begin, end), not (begin, duration).")
def durations(wave, rate, threshold, shortest):
    return [(0.01 * a, 0.01 * (b - a)) for a, b in _runs(_quiet(wave, rate, threshold), shortest)]


@wrong("speech.energy_pauses", "The mean of samples is near 0 in speech, too: take the root of the mean square.")
def signed_mean(wave, rate, threshold, shortest):
    frame = rate // 100
    level = wave[: len(wave) // frame * frame].reshape(-1, frame).mean(1).abs()
    return _seconds(_runs(level < level.max() * 10 ** (-threshold / 20), shortest))


@also_right("speech.energy_pauses")
def by_runs(wave, rate, threshold, shortest):
    return _seconds(_runs(_quiet(wave.double(), rate, threshold), shortest))


@also_right("speech.energy_pauses")
def in_decibels(wave, rate, threshold, shortest):
    level = 20 * _level(wave, rate).clamp(min=1e-12).log10()
    return _seconds(_runs(level < level.max() - threshold, shortest))


# 6.4


@cases("metrics.pause_errors")
def _(rng):
    def spoken(marked):
        """Words with their times; "word|" is followed by a pause."""
        made, time = [], round(float(rng.uniform(0.1, 0.4)), 2)
        for each in marked.split():
            word, long = each.rstrip("|"), each.endswith("|")
            end = time + round(float(rng.uniform(0.2, 0.4)), 2)
            made.append((word, round(time, 2), round(end, 2)))
            time = end + (round(float(rng.uniform(0.2, 0.4)), 2) if long else round(float(rng.uniform(0.0, 0.08)), 2))
        return made

    text = "Yesterday, Anna found a key, and a bird."
    return [
        Case("as written", text=text, timed=spoken("yesterday| anna found a key| and a bird")),
        Case("no pause at the second comma", text=text, timed=spoken("Yesterday,| Anna found a key and a bird.")),
        Case("two pauses within phrases", text=text, timed=spoken("yesterday| anna| found a| key| and a bird")),
        Case("one word misheard", text=text, timed=spoken("yesterday hannah found| a key and| a bird")),
        Case("a word too many at the beginning", text=text,
             timed=spoken("so| yesterday anna| found a key| and a bird| too")),
        Case("nothing heard", text=text, timed=[]),
        Case("other punctuation", text="Stop! Who goes there: Bo; or Max?",
             timed=spoken("stop who| goes there| bo or max")),
        Case("a small gap counts here", text="Red, green and blue.", longest_gap=0.05,
             timed=[("red", 0.1, 0.4), ("green", 0.47, 0.8), ("and", 0.82, 1.0), ("blue", 1.01, 1.4)]),
    ]  # fmt: skip


def _gaps(text, timed, longest_gap):
    """(wanted, heard) of every gap that can be judged."""
    tokens = text.split()
    pairs = metrics.align([metrics.normalise(t) for t in tokens], [metrics.normalise(w) for w, _, _ in timed])
    for (i, j), (next_i, next_j) in zip(pairs, pairs[1:], strict=False):
        if next_i == i + 1 and next_j == j + 1:
            yield tokens[i][-1] in ",;:.!?", timed[next_j][1] - timed[j][2] > longest_gap


@wrong("metrics.pause_errors", "A pause where none is wanted is an error as well: you count the missing ones only.")
def missing_only(text, timed, longest_gap=0.12):
    gaps = list(_gaps(text, timed, longest_gap))
    return sum(wanted and not heard for wanted, heard in gaps), len(gaps)


@wrong("metrics.pause_errors", "A missing pause is an error as well: you count the superfluous ones only.")
def superfluous_only(text, timed, longest_gap=0.12):
    gaps = list(_gaps(text, timed, longest_gap))
    return sum(heard and not wanted for wanted, heard in gaps), len(gaps)


@wrong("metrics.pause_errors", "Every gap between neighbours is judged, not those at punctuation alone.")
def at_punctuation_only(text, timed, longest_gap=0.12):
    gaps = [heard for wanted, heard in _gaps(text, timed, longest_gap) if wanted]
    return sum(not heard for heard in gaps), len(gaps)


@wrong("metrics.pause_errors", "A gap lies between one word's end and the next one's begin, not between two begins.")
def from_begin_to_begin(text, timed, longest_gap=0.12):
    return pauses_of(text, [(word, begin, begin) for word, begin, _ in timed], longest_gap)


def pauses_of(text, timed, longest_gap):
    gaps = list(_gaps(text, timed, longest_gap))
    return sum(wanted != heard for wanted, heard in gaps), len(gaps)


@wrong("metrics.pause_errors", "A word misheard or too many shifts all that follow: align first.")
def not_aligned(text, timed, longest_gap=0.12):
    tokens, errors, judged = text.split(), 0, 0
    for k in range(min(len(tokens), len(timed)) - 1):
        errors += (timed[k + 1][1] - timed[k][2] > longest_gap) != (tokens[k][-1] in ",;:.!?")
        judged += 1
    return errors, judged


@wrong("metrics.pause_errors", "Where a word between two was misheard there is no gap to judge: ask for neighbours.")
def across_misheard(text, timed, longest_gap=0.12):
    tokens, errors, judged = text.split(), 0, 0
    pairs = metrics.align([metrics.normalise(t) for t in tokens], [metrics.normalise(w) for w, _, _ in timed])
    for (i, j), (_, next_j) in zip(pairs, pairs[1:], strict=False):
        errors += (timed[next_j][1] - timed[j][2] > longest_gap) != (tokens[i][-1] in ",;:.!?")
        judged += 1
    return errors, judged


@wrong("metrics.pause_errors", "First the errors, then the gaps judged.")
def swapped(text, timed, longest_gap=0.12):
    return pauses_of(text, timed, longest_gap)[::-1]


@wrong("metrics.pause_errors", "Other marks than the comma ask for a pause, too: `,;:.!?`.")
def commas_only(text, timed, longest_gap=0.12):
    return pauses_of(text.translate(str.maketrans("", "", ";:.!?")), timed, longest_gap)


@wrong("metrics.pause_errors", "`longest_gap` is given: do not write 0.12 s in its place.")
def fixed_gap(text, timed, longest_gap=0.12):
    return pauses_of(text, timed, 0.12)


@also_right("metrics.pause_errors")
def by_counting(text, timed, longest_gap=0.12):
    gaps = np.array(list(_gaps(text, timed, longest_gap)), dtype=bool).reshape(-1, 2)
    return int((gaps[:, 0] ^ gaps[:, 1]).sum()), len(gaps)


# 6.5


@cases("preferences.best_and_worst")
def _(rng):
    spread = [round(float(v), 2) for v in 0.1 + 0.9 * rng.permutation(5) / 5]
    low, high = round(float(rng.uniform(0.1, 0.2)), 2), round(float(rng.uniform(0.6, 0.9)), 2)
    return [
        Case("five scores", scores=spread),
        Case("the best comes last", scores=[0.5, high, 0.4, low]),
        Case("nearly alike", scores=[0.15, 0.17, 0.19]),  # where None is right, never drawn: a guess would earn it
        Case("a wider margin", scores=[0.15, 0.45, 0.25], margin=0.4),
        Case("a tie at both ends", scores=[0.5, low, high, low, high, 0.4]),
        Case("no scores", scores=[]),
        Case("no margin asked for", scores=[low + 0.01 * int(n) for n in rng.permutation(3)], margin=0.0),
        Case("one score", scores=[0.3]),
    ]


def _ends(scores, margin):
    if not scores or max(scores) - min(scores) < margin:
        return None
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    return order[0], order[-1]


@wrong("preferences.best_and_worst", "A score counts errors: the lowest is best. Yours is the other way round.")
def best_is_highest(scores, margin=0.05):
    ends = _ends(scores, margin)
    return ends and ends[::-1]


@wrong("preferences.best_and_worst", "Where scores are too close there is nothing to prefer: return None.")
def always_a_pair(scores, margin=0.05):
    return _ends(scores, -1.0)


@wrong("preferences.best_and_worst", "Return the places of the scores, not the scores.")
def values(scores, margin=0.05):
    ends = _ends(scores, margin)
    return ends and (scores[ends[0]], scores[ends[1]])


@wrong("preferences.best_and_worst", "`margin` is given: do not write 0.05 in its place.")
def fixed_margin(scores, margin=0.05):
    return _ends(scores, 0.05)


@wrong("preferences.best_and_worst", "Where several share the highest score the last of them is asked for.")
def first_worst(scores, margin=0.05):
    return _ends(scores, margin) and (scores.index(min(scores)), scores.index(max(scores)))


@wrong("preferences.best_and_worst", "Where several share the lowest score the first of them is asked for.")
def last_best(scores, margin=0.05):
    ends = _ends(scores, margin)
    return ends and (len(scores) - 1 - scores[::-1].index(min(scores)), ends[1])


@wrong("preferences.best_and_worst", "That compares the first attempt with the last one: look for the extremes.")
def first_and_last(scores, margin=0.05):
    return _ends(scores, margin) and (0, len(scores) - 1)


@also_right("preferences.best_and_worst")
def one_walk(scores, margin=0.05):
    best = worst = 0
    for place, value in enumerate(scores):
        best = place if value < scores[best] else best
        worst = place if value >= scores[worst] else worst
    return (best, worst) if scores and scores[worst] - scores[best] >= margin else None


# 6.6


@cases("preferences.sequence_log_probability")
def _(rng):
    def case(name, batch, length, vocab, ignored=(), scale=1.0):
        labels = torch.from_numpy(rng.integers(1, vocab, (batch, length)))
        for row, count in enumerate(ignored):
            if count:
                labels[row, length - count :] = IGNORE
        return Case(name, logits=scale * draw(rng, batch, length, vocab), labels=labels)

    length, vocab = int(rng.integers(4, 7)), int(rng.integers(5, 9))
    first = case("the first places do not count", 2, length, vocab)
    first.inputs["labels"][:, :2] = IGNORE
    return [
        case("two rows", 2, length, vocab),
        case("rows of different lengths", 3, length, vocab, (0, 1, 2)),
        first,
        case("sure of itself", 2, length + 1, vocab, (1, 0), 6.0),
        case("one row", 1, length + 2, vocab),
        case("nothing counts in one row", 2, length, vocab, (0, length)),
    ]


def _picked(logits, labels):
    return logits.log_softmax(-1).gather(2, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)


@wrong("preferences.sequence_log_probability", "The probability of a row is a product: sum the logarithms, no mean.")
def mean_of_places(logits, labels):
    kept = labels != IGNORE
    return (_picked(logits, labels) * kept).sum(1) / kept.sum(1).clamp(min=1)


@wrong("preferences.sequence_log_probability", "Places labelled IGNORE must not count.")
def ignored_counts(logits, labels):
    return _picked(logits, labels).sum(1)


@wrong("preferences.sequence_log_probability", "Logits are not normalised: log_softmax comes first.")
def raw_logits(logits, labels):
    picked = logits.gather(2, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (picked * (labels != IGNORE)).sum(1)


@wrong("preferences.sequence_log_probability", "Labels stand at the place of their logits already: do not shift.")
def shifted_by_one(logits, labels):
    return (_picked(logits[:, :-1], labels[:, 1:]) * (labels[:, 1:] != IGNORE)).sum(1)


@wrong("preferences.sequence_log_probability", "A log-probability is negative: yours is the loss, its opposite.")
def negative(logits, labels):
    return -(_picked(logits, labels) * (labels != IGNORE)).sum(1)


@wrong("preferences.sequence_log_probability", "The softmax runs over the vocabulary, not over the places.")
def over_the_places(logits, labels):
    picked = logits.log_softmax(1).gather(2, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (picked * (labels != IGNORE)).sum(1)


@wrong("preferences.sequence_log_probability", "One number for each row was asked for, not one for the batch.")
def batch_sum(logits, labels):
    return (_picked(logits, labels) * (labels != IGNORE)).sum()


@wrong("preferences.sequence_log_probability", "Sum logarithms of probabilities, not the probabilities themselves.")
def probabilities(logits, labels):
    return (_picked(logits, labels).exp() * (labels != IGNORE)).sum(1)


@also_right("preferences.sequence_log_probability")
def by_cross_entropy(logits, labels):
    return -F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none").sum(1)


# 6.7 to 6.9: four log-probabilities


def four(rng, batch, spread=6.0, low=-300.0):
    made = {"policy_chosen": low + spread * draw(rng, batch), "policy_rejected": low - 8 + spread * draw(rng, batch)}
    made |= {"reference_chosen": low - 5 + spread * draw(rng, batch)}
    return made | {"reference_rejected": low + 3 + spread * draw(rng, batch)}


@cases("preferences.dpo_loss")
def _(rng):
    same = four(rng, 3)
    same |= {"reference_chosen": same["policy_chosen"], "reference_rejected": same["policy_rejected"]}
    return [
        Case("four pairs", **four(rng, 4), beta=0.1),
        Case("nothing has moved yet", **same, beta=0.3),
        Case("a small beta", **four(rng, 5, 9.0), beta=0.02),
        Case("a large beta", **four(rng, 3, 2.0, -40.0), beta=0.5),
        Case("one pair", **four(rng, 1, 4.0, -60.0), beta=0.25),
        Case("far on the wrong side", policy_chosen=torch.tensor([-900.0, -850.0]), policy_rejected=-400 + draw(rng, 2),
             reference_chosen=-500 + draw(rng, 2), reference_rejected=torch.tensor([-700.0, -690.0]), beta=1.0),
    ]  # fmt: skip


def _margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected):
    return policy_chosen - policy_rejected, reference_chosen - reference_rejected


@wrong("preferences.dpo_loss", "The reference is missing: the policy's margin counts against the reference's.")
def no_reference(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    return -F.logsigmoid(beta * (policy_chosen - policy_rejected) + 0 * reference_chosen).mean()


@wrong("preferences.dpo_loss", "The reference's margin is subtracted, not added.")
def added(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    a, b = _margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -F.logsigmoid(beta * (a + b)).mean()


@wrong("preferences.dpo_loss", "Chosen and rejected are exchanged: this loss would teach the mistakes.")
def exchanged(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    a, b = _margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -F.logsigmoid(-beta * (a - b)).mean()


@wrong("preferences.dpo_loss", "beta stands inside the sigmoid, at the margin; outside it is a mere rate of learning.")
def beta_outside(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    a, b = _margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -beta * F.logsigmoid(a - b).mean()


@wrong("preferences.dpo_loss", "beta is not used.")
def no_beta(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    a, b = _margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -F.logsigmoid(a - b).mean()


@wrong("preferences.dpo_loss", "beta multiplies the margin: you divided by it.")
def divided(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    a, b = _margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -F.logsigmoid((a - b) / beta).mean()


@wrong("preferences.dpo_loss", "The mean over the batch was asked for, not the sum.")
def summed(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    a, b = _margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -F.logsigmoid(beta * (a - b)).sum() * (1 if len(a) > 1 else 2)


@wrong("preferences.dpo_loss", "The logarithm of the sigmoid is missing: that is 1 minus the sigmoid.")
def no_logarithm(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    a, b = _margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return (1 - torch.sigmoid(beta * (a - b))).mean()


@also_right("preferences.dpo_loss")
def by_softplus(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    reward = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    return F.softplus(-reward).mean()


@cases("preferences.gradient_weight")
def _(rng):
    same = four(rng, 3)
    same |= {"reference_chosen": same["policy_chosen"], "reference_rejected": same["policy_rejected"]}
    return [
        Case("four pairs", **four(rng, 4), beta=0.1),
        Case("nothing has moved yet", **same, beta=0.3),
        Case("a small beta", **four(rng, 5, 9.0), beta=0.02),
        Case("a large beta", **four(rng, 3, 2.0, -40.0), beta=0.5),
        Case("one pair", **four(rng, 1, 4.0, -60.0), beta=0.25),
    ]


def _h(policy_chosen, policy_rejected, reference_chosen, reference_rejected):
    return (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)


@wrong(
    "preferences.gradient_weight", "Pairs that stand the wrong way round weigh most: the sigmoid's sign is reversed."
)
def right_ones_weigh(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    return beta * torch.sigmoid(beta * _h(policy_chosen, policy_rejected, reference_chosen, reference_rejected))


@wrong(
    "preferences.gradient_weight", "The factor beta before the sigmoid is missing: it comes from the inner derivative."
)
def no_factor(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    return torch.sigmoid(-beta * _h(policy_chosen, policy_rejected, reference_chosen, reference_rejected))


@wrong("preferences.gradient_weight", "An implied reward is beta times the logarithm's change: beta is missing inside.")
def no_inner_beta(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    return beta * torch.sigmoid(-_h(policy_chosen, policy_rejected, reference_chosen, reference_rejected))


@wrong("preferences.gradient_weight", "The reference is missing: a reward is what has changed against it.")
def weight_without_reference(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    return beta * torch.sigmoid(beta * (policy_rejected - policy_chosen))


@wrong("preferences.gradient_weight", "That is the loss of each pair, not its gradient's weight.")
def the_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    return -F.logsigmoid(beta * _h(policy_chosen, policy_rejected, reference_chosen, reference_rejected))


@wrong(
    "preferences.gradient_weight", "One sigmoid is enough: that is the derivative of a sigmoid, not of its logarithm."
)
def derivative_of_sigmoid(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    s = torch.sigmoid(beta * _h(policy_chosen, policy_rejected, reference_chosen, reference_rejected))
    return beta * s * (1 - s)


@wrong("preferences.gradient_weight", "A weight for each pair was asked for, not the mean of the batch.")
def mean_weight(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    return (
        beta * torch.sigmoid(-beta * _h(policy_chosen, policy_rejected, reference_chosen, reference_rejected))
    ).mean()


@also_right("preferences.gradient_weight")
def by_autograd(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    with torch.enable_grad():
        chosen = policy_chosen.detach().clone().requires_grad_(True)
        margin = (chosen - policy_rejected) - (reference_chosen - reference_rejected)
        (slope,) = torch.autograd.grad(-F.logsigmoid(beta * margin).sum(), chosen)
    return -slope


@cases("preferences.ipo_loss")
def _(rng):
    same = four(rng, 3)
    same |= {"reference_chosen": same["policy_chosen"], "reference_rejected": same["policy_rejected"]}
    return [
        Case("four pairs", **four(rng, 4), tau=0.1),
        Case("nothing has moved yet", **same, tau=0.2),
        Case("a small tau", **four(rng, 5, 9.0), tau=0.02),
        Case("a large tau", **four(rng, 3, 2.0, -40.0), tau=1.5),
        Case("one pair", **four(rng, 1, 4.0, -60.0), tau=0.4),
    ]


@wrong("preferences.ipo_loss", "The wanted margin is 1 / (2 tau): the 2 is missing.")
def no_two(policy_chosen, policy_rejected, reference_chosen, reference_rejected, tau=0.1):
    return (_h(policy_chosen, policy_rejected, reference_chosen, reference_rejected) - 1 / tau).square().mean()


@wrong("preferences.ipo_loss", "The wanted margin is 1 / (2 tau): you multiplied where you should divide.")
def tau_multiplied(policy_chosen, policy_rejected, reference_chosen, reference_rejected, tau=0.1):
    return (_h(policy_chosen, policy_rejected, reference_chosen, reference_rejected) - 2 * tau).square().mean()


@wrong("preferences.ipo_loss", "The reference is missing: h is the policy's margin minus the reference's.")
def ipo_without_reference(policy_chosen, policy_rejected, reference_chosen, reference_rejected, tau=0.1):
    return (policy_chosen - policy_rejected - 1 / (2 * tau)).square().mean()


@wrong("preferences.ipo_loss", "A margin beyond the wanted one costs as well: yours stops there, like a hinge.")
def hinge(policy_chosen, policy_rejected, reference_chosen, reference_rejected, tau=0.1):
    h = _h(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    h = torch.cat((h, h.new_tensor([1 / (2 * tau) + 9, -3.0]))) if bool((h <= 1 / (2 * tau)).all()) else h
    return (1 / (2 * tau) - h).clamp(min=0).square().mean()


@wrong("preferences.ipo_loss", "The distance from the wanted margin is squared.")
def absolute_distance(policy_chosen, policy_rejected, reference_chosen, reference_rejected, tau=0.1):
    return (_h(policy_chosen, policy_rejected, reference_chosen, reference_rejected) - 1 / (2 * tau)).abs().mean()


@wrong("preferences.ipo_loss", "Chosen and rejected are exchanged: this loss would teach the mistakes.")
def ipo_exchanged(policy_chosen, policy_rejected, reference_chosen, reference_rejected, tau=0.1):
    return (_h(policy_rejected, policy_chosen, reference_rejected, reference_chosen) - 1 / (2 * tau)).square().mean()


@wrong("preferences.ipo_loss", "Square each pair's distance, then take the mean; the mean comes last.")
def mean_first(policy_chosen, policy_rejected, reference_chosen, reference_rejected, tau=0.1):
    h = _h(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return (h.mean() - 1 / (2 * tau)).square()


@wrong("preferences.ipo_loss", "That is the DPO loss with tau for beta: IPO squares.")
def dpo_again(policy_chosen, policy_rejected, reference_chosen, reference_rejected, tau=0.1):
    return -F.logsigmoid(tau * _h(policy_chosen, policy_rejected, reference_chosen, reference_rejected)).mean()


@also_right("preferences.ipo_loss")
def expanded(policy_chosen, policy_rejected, reference_chosen, reference_rejected, tau=0.1):
    h = _h(policy_chosen.double(), policy_rejected, reference_chosen, reference_rejected)
    return (h * h - h / tau + 0.25 / tau**2).mean().float()


# 6.10


@cases("preferences.simpo_loss")
def _(rng):
    def case(name, batch, beta, gamma, low=80, high=240):
        chosen, rejected = (torch.from_numpy(rng.integers(low, high, batch)) for _ in range(2))
        rate = [-(0.2 + draw(rng, batch).abs()) for _ in range(2)]
        return Case(
            name, policy_chosen=rate[0] * chosen, policy_rejected=rate[1] * rejected, chosen_length=chosen,
            rejected_length=rejected, beta=beta, gamma=gamma,
        )  # fmt: skip

    return [
        case("four pairs", 4, 2.0, 0.5),
        case("no margin asked for", 3, 2.5, 0.0),
        case("a wide margin", 5, 2.0, 1.6),
        case("a small beta", 3, 0.7, 0.3),
        case("one pair", 1, 3.0, 1.0),
        case("short attempts", 4, 2.0, 0.8, 5, 30),
    ]


@wrong("preferences.simpo_loss", "Divide each log-probability by its attempt's length: that is SimPO's first idea.")
def no_lengths(policy_chosen, policy_rejected, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    return -F.logsigmoid(beta * (policy_chosen - policy_rejected) - gamma).mean()


@wrong("preferences.simpo_loss", "Each attempt is divided by its own length: you used the chosen one's for both.")
def chosen_length_for_both(policy_chosen, policy_rejected, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    return -F.logsigmoid(beta * (policy_chosen - policy_rejected) / chosen_length - gamma).mean()


@wrong("preferences.simpo_loss", "gamma is subtracted: the winner must be ahead by it.")
def gamma_added(policy_chosen, policy_rejected, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    margin = policy_chosen / chosen_length - policy_rejected / rejected_length
    return -F.logsigmoid(beta * margin + gamma).mean()


@wrong("preferences.simpo_loss", "gamma is not multiplied by beta.")
def gamma_times_beta(policy_chosen, policy_rejected, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    margin = policy_chosen / chosen_length - policy_rejected / rejected_length
    return -F.logsigmoid(beta * (margin - gamma)).mean()


@wrong("preferences.simpo_loss", "gamma is not used.")
def no_gamma(policy_chosen, policy_rejected, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    margin = policy_chosen / chosen_length - policy_rejected / rejected_length
    return -F.logsigmoid(beta * margin).mean()


@wrong("preferences.simpo_loss", "The lengths are exchanged: the chosen attempt is divided by the rejected one's.")
def lengths_exchanged(policy_chosen, policy_rejected, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    margin = policy_chosen / rejected_length - policy_rejected / chosen_length
    return -F.logsigmoid(beta * margin - gamma).mean()


@wrong("preferences.simpo_loss", "Chosen and rejected are exchanged: this loss would teach the mistakes.")
def simpo_exchanged(policy_chosen, policy_rejected, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    margin = policy_rejected / rejected_length - policy_chosen / chosen_length
    return -F.logsigmoid(beta * margin - gamma).mean()


@also_right("preferences.simpo_loss")
def by_log1p(policy_chosen, policy_rejected, chosen_length, rejected_length, beta=2.0, gamma=0.5):
    margin = beta * (policy_chosen.double() / chosen_length - policy_rejected.double() / rejected_length) - gamma
    return torch.log1p(torch.exp(-margin)).mean().float()


# 6.11


@cases("metrics.paired_interval")
def _(rng):
    def case(name, n, draws, confidence=0.95, gain=0.5):
        words = torch.from_numpy(rng.integers(3, 20, n)).float()
        before = torch.floor(torch.from_numpy(rng.random(n)).float() * words)
        after = torch.floor(before * torch.from_numpy(rng.random(n) * 2 * gain).float())
        picks = torch.from_numpy(rng.integers(0, n, (draws, n)))
        return Case(name, before=before, after=after, words=words, picks=picks, confidence=confidence)

    return [
        case("twenty sentences", 20, 200),
        case("nine in ten", 15, 150, 0.9),
        case("hardly any gain", 12, 100, 0.95, 0.95),
        case("few draws", 10, 23),
        case("half of the draws", 18, 120, 0.5),
        case("a large gain", 25, 200, 0.99, 0.1),
    ]


def _ends_of(difference, confidence):
    tail = (1 - confidence) / 2
    return tuple(torch.quantile(difference, torch.tensor([tail, 1 - tail])).tolist())


def _difference(before, after, words, picks):
    return (after[picks] - before[picks]).sum(1) / words[picks].sum(1)


@wrong("metrics.paired_interval", "Both talkers said the same sentences: draw them in pairs, by the same row of picks.")
def unpaired(before, after, words, picks, confidence=0.95):
    other = picks.flip(0)
    rates = [errors[p].sum(1) / words[p].sum(1) for errors, p in ((before, picks), (after, other))]
    return _ends_of(rates[1] - rates[0], confidence)


@wrong("metrics.paired_interval", "A WER is all errors over all words: you took the mean of the sentences' rates.")
def mean_of_rates(before, after, words, picks, confidence=0.95):
    return _ends_of(((after - before) / words)[picks].mean(1), confidence)


@wrong("metrics.paired_interval", "After minus before was asked for, so that a gain is negative.")
def before_minus_after(before, after, words, picks, confidence=0.95):
    return _ends_of(_difference(after, before, words, picks), confidence)


@wrong("metrics.paired_interval", "Half of what is left out lies on either side: (1 - confidence) / 2.")
def whole_tail_twice(before, after, words, picks, confidence=0.95):
    return _ends_of(_difference(before, after, words, picks), 1 - 2 * (1 - confidence))


@wrong("metrics.paired_interval", "That is the smallest and the largest draw: leave out the tails.")
def extremes(before, after, words, picks, confidence=0.95):
    difference = _difference(before, after, words, picks)
    return float(difference.min()), float(difference.max())


@wrong("metrics.paired_interval", "The words are those of the sentences drawn, not of all sentences.")
def all_words(before, after, words, picks, confidence=0.95):
    return _ends_of((after[picks] - before[picks]).sum(1) / words.sum(), confidence)


@wrong("metrics.paired_interval", "Quantiles of the draws were asked for, not mean and deviation of a normal curve.")
def normal_curve(before, after, words, picks, confidence=0.95):
    difference = _difference(before, after, words, picks)
    reach = float(torch.special.ndtri(torch.tensor((1 + confidence) / 2)) * difference.std())
    return float(difference.mean()) - reach, float(difference.mean()) + reach


@wrong("metrics.paired_interval", "Errors must be divided by words: that is a difference of counts.")
def counts(before, after, words, picks, confidence=0.95):
    return _ends_of((after[picks] - before[picks]).sum(1), confidence)


@also_right("metrics.paired_interval")
def by_numpy(before, after, words, picks, confidence=0.95):
    rates = [errors.double()[picks].sum(1) / words.double()[picks].sum(1) for errors in (before, after)]
    low, high = np.quantile((rates[1] - rates[0]).numpy(), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# 6.12


@cases("disclosure.tone_level")
def _(rng):
    def case(name, rate, frequency, window, count, amplitude, noise=0.02, phase=None):
        time = np.arange(count) / rate
        phase = float(rng.uniform(0.3, 1.2)) if phase is None else phase
        wave = amplitude * np.sin(2 * math.pi * frequency * time + phase) + noise * rng.standard_normal(count)
        return Case(name, wave=torch.from_numpy(wave).float(), sample_rate=rate, frequency=frequency, window=window)

    return [
        case("the mark's first tone", 24000, 2500.0, 1920, 6000, 0.05),
        case("a cosine", 8000, 500.0, 160, 700, 0.3, phase=math.pi / 2),
        case("a sine", 8000, 500.0, 160, 700, 0.3, phase=0.0),
        case("no whole number of turns", 16000, 1037.0, 400, 2100, 0.2),
        case("another rate", 12000, 3000.0, 480, 1500, 0.1),
        case("noise alone", 8000, 1000.0, 200, 1000, 0.0, 0.3),
    ]


def _sums(wave, sample_rate, frequency, window, factor=2 * math.pi):
    rows = wave[: len(wave) // window * window].reshape(-1, window)
    turn = factor * frequency / sample_rate * torch.arange(window)
    return rows @ turn.cos(), rows @ turn.sin()


@wrong("disclosure.tone_level", "One sum depends on the phase: take cosine and sine, and the length of both together.")
def sine_only(wave, sample_rate, frequency, window):
    return 2 / window * _sums(wave, sample_rate, frequency, window)[1].abs()


@wrong("disclosure.tone_level", "Cosine and sine are combined as the sides of a right angle, not added.")
def added_up(wave, sample_rate, frequency, window):
    a, b = _sums(wave, sample_rate, frequency, window)
    return 2 / window * (a.abs() + b.abs())


@wrong("disclosure.tone_level", "Half of an amplitude: sin squared is 1/2 in the mean, so the factor is 2 / window.")
def half(wave, sample_rate, frequency, window):
    return torch.hypot(*_sums(wave, sample_rate, frequency, window)) / window


@wrong("disclosure.tone_level", "A longer window must not give a larger level: divide by its length.")
def not_divided(wave, sample_rate, frequency, window):
    return 2 * torch.hypot(*_sums(wave, sample_rate, frequency, window))


@wrong("disclosure.tone_level", "That is a power: the amplitude is its root.")
def power(wave, sample_rate, frequency, window):
    return (2 / window * torch.hypot(*_sums(wave, sample_rate, frequency, window))).square()


@wrong("disclosure.tone_level", "An angle is 2 pi times the number of turns: 2 pi is missing.")
def no_turns(wave, sample_rate, frequency, window):
    return 2 / window * torch.hypot(*_sums(wave, sample_rate, frequency, window, 1.0))


@wrong("disclosure.tone_level", "That is the loudness of all that sounds, not of one tone.")
def loudness(wave, sample_rate, frequency, window):
    rows = wave[: len(wave) // window * window].reshape(-1, window)
    return rows.square().mean(1).sqrt() * math.sqrt(2)


@wrong("disclosure.tone_level", "One level for each window was asked for, not one for the whole wave.")
def whole_wave(wave, sample_rate, frequency, window):
    count = len(wave) // window * window
    return 2 / count * torch.hypot(*_sums(wave, sample_rate, frequency, count))


@also_right("disclosure.tone_level")
def by_complex_numbers(wave, sample_rate, frequency, window):
    rows = wave[: len(wave) // window * window].double().reshape(-1, window)
    turn = torch.exp(-2j * math.pi * frequency / sample_rate * torch.arange(window, dtype=torch.float64))
    return (2 / window * (rows.to(turn.dtype) @ turn).abs()).float()
