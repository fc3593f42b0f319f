"""Cases, wrong answers and other right answers of lab 02."""

import math
import re

import torch
import torch.nn.functional as F

from omni_lab.lab.authoring import Case, Exercise, also_right, cases, wrong
from omni_lab.lab.plain import Named

EXERCISES = [
    Exercise(
        "llava.messages", "2.1", "Asking the teacher", points=5, difficulty=1, minutes=5,
        target="omni_lab.data.teacher:messages",
        hints=(
            "An example is a finished dialogue: who says its first half, and who its second?",
            '`found = [{"role": "system", "content": system}]`, then two messages for each example.',
        ),
    ),
    Exercise(
        "llava.absent", "2.2", "Things that are not there", points=10, difficulty=2, minutes=15,
        target="omni_lab.data.teacher:absent",
        hints=(
            "How do you get the words of an answer without commas and full stops, and without capitals?",
            '`said = set(re.findall(r"\\w+", answer.lower()))`',
        ),
    ),
    Exercise(
        "llava.human_assistant", "2.3", "The paper's form", points=10, difficulty=2, minutes=15,
        target="omni_lab.llava:human_assistant",
        hints=(
            "When the model answers, which text is given to it, and which must it write? Who writes the stop?",
            '`pieces = [(f"{system}{stop}\\n", False)]`, then three pieces for each turn.',
        ),
    ),
    Exercise(
        "llava.chatml", "2.4", "ChatML", points=5, difficulty=1, minutes=8, target="omni_lab.llava:chatml",
        hints=(
            "Which part of <|im_start|>assistant, line break, answer, <|im_end|> does the model write itself?",
            '`pieces = [(f"<|im_start|>system\\n{system}<|im_end|>\\n", False)]`',
        ),
    ),
    Exercise(
        "llava.answer_labels", "2.5", "What is learned", points=10, difficulty=1, minutes=8,
        target="omni_lab.llava:answer_labels",
        hints=(
            "Labels are as long as the ids. What stands where nothing is learned?",
            "`ids = [token for piece in pieces for token in piece]`",
        ),
    ),
    Exercise(
        "llava.place_features", "2.6", "The picture among the words", points=15, difficulty=3, minutes=20,
        target="omni_lab.llava:place_features", gradients=("embeddings", "features"),
        hints=(
            "Which places hold placeholders? How do you write there without changing the tensor that came in?",
            "`here = ids == image_token`; then look at `Tensor.masked_scatter`, which wants equal dtypes.",
        ),
    ),
    Exercise(
        "llava.answer_loss", "2.7", "The loss of the answer", points=10, difficulty=2, minutes=10,
        target="omni_lab.llava:answer_loss", gradients=("logits",),
        hints=(
            "The logits at place i have read the tokens up to i. Which token do they guess?",
            "`F.cross_entropy` has an argument `ignore_index`. Its logits are `logits[:, :-1]`.",
        ),
    ),
    Exercise(
        "llava.trainable", "2.8", "Who learns when", points=5, difficulty=1, minutes=5,
        target="omni_lab.llava:trainable",
        hints=(
            "A part is told by how the name begins, not by what it contains. Which method of a string asks that?",
            '`beginnings = {"language": ("language_model.",), ...}`, one entry a stage.',
        ),
    ),
    Exercise(
        "llava.greedy", "2.9", "Answering", points=10, difficulty=2, minutes=12, target="omni_lab.llava:greedy",
        hints=(
            "Which row of the logits guesses the token that is not there yet?",
            "`token = int(logits_of(ids)[0, -1].argmax())`, in a loop.",
        ),
    ),
    Exercise(
        "llava.option_scores", "2.10", "Which option is likeliest?", points=10, difficulty=2, minutes=15,
        rtol=1e-3,
        hints=(
            "An option of six tokens and one of two: may their log-probabilities be summed and compared?",
            "`log_p = logits[:, :-1].log_softmax(dim=-1)` meets `labels[:, 1:]`.",
        ),
    ),
    Exercise(
        "llava.merge_places", "2.11", "Four places in one", points=10, difficulty=3, minutes=15,
        hints=(
            "Which axes does the grid have if rows and columns are each split in two: which pair, and where in it?",
            "`side = round(places**0.5)`; `x = features.view(batch, side // 2, 2, side // 2, 2, dim)`; then `permute`.",
        ),
    ),
]  # fmt: skip


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape)).float()


WORDS = ("sun", "moon", "red", "boat", "two", "birds", "on", "a", "hill", "old", "key", "near", "the", "door")


def sentence(rng, words=4):
    return " ".join(WORDS[int(i)] for i in rng.choice(len(WORDS), words, replace=False))


# 2.1


@cases("llava.messages")
def _(rng):
    def case(name, examples):
        pairs = [(f"{sentence(rng)}: [0.1, 0.2]", f"Question: {sentence(rng)}?") for _ in range(examples)]
        return Case(name, system=sentence(rng, 5), examples=pairs, query=f"{sentence(rng)}: [0.5, 0.6]")

    return [
        case("no example", 0),
        case("one example", 1),
        case("two examples", 2),
        case("three examples", 3),
        case("two others", 2),
    ]


def _message(role, content):
    return {"role": role, "content": content}


def _shots(examples):
    return [_message(r, t) for pair in examples for r, t in zip(("user", "assistant"), pair, strict=True)]


@wrong("llava.messages", "The examples are missing: they show the teacher what a good reply looks like.")
def no_examples(system, examples, query):
    return [_message("system", system), _message("user", query)]


@wrong("llava.messages", "The query comes last: what comes after it would be taken for its answer.")
def query_first(system, examples, query):
    return [_message("system", system), _message("user", query), *_shots(examples)]


@wrong("llava.messages", "Roles are exchanged in the examples: the context is the user's, the reply the assistant's.")
def roles_exchanged(system, examples, query):
    swapped = [_message({"user": "assistant", "assistant": "user"}[m["role"]], m["content"]) for m in _shots(examples)]
    return [_message("system", system), *swapped, _message("user", query)]


@wrong("llava.messages", "The system prompt is missing: it says what kind of data the teacher shall write.")
def no_system(system, examples, query):
    return [*_shots(examples), _message("user", query)]


@wrong("llava.messages", "Replies in the examples are the assistant's: you gave every message to the user.")
def all_user(system, examples, query):
    shots = [_message("user", m["content"]) for m in _shots(examples)]
    return [_message("system", system), *shots, _message("user", query)]


@wrong("llava.messages", 'The first message has the role "system", not "user".')
def system_as_user(system, examples, query):
    return [_message("user", system), *_shots(examples), _message("user", query)]


@wrong("llava.messages", "One example after the other: each context is followed by its own reply.")
def contexts_then_replies(system, examples, query):
    first = [_message("user", c) for c, _ in examples]
    then = [_message("assistant", r) for _, r in examples]
    return [_message("system", system), *first, *then, _message("user", query)]


@wrong("llava.messages", "The query is missing at the end.")
def no_query(system, examples, query):
    return [_message("system", system), *_shots(examples)]


@also_right("llava.messages")
def by_appending(system, examples, query):
    found = [{"content": system, "role": "system"}]
    for told, reply in examples:
        found.append({"role": "user", "content": told})
        found.append({"role": "assistant", "content": reply})
    found.append({"role": "user", "content": query})
    return found


# 2.2

PLURALS = {
    "cat": "cats", "key": "keys", "star": "stars", "ant": "ants", "bus": "buses", "mouse": "mice", "fox": "foxes",
    "bee": "bees", "dog": "dogs", "cherry": "cherries",
}  # fmt: skip


@cases("llava.absent")
def _(rng):
    def table():
        names = list(PLURALS)
        return {names[int(i)]: PLURALS[names[int(i)]] for i in rng.permutation(len(names))}

    def case(name, text, shown=1):
        known = table()
        free = [w for w in known if w in ("mouse", "fox", "bee", "dog", "cherry")]
        a, b, c = free[0], free[1], free[2]
        words = {"a": a, "b": b, "c": c, "bs": PLURALS[b], "as_": PLURALS[a], "B": b.capitalize()}
        return Case(name, answer=text.format(**words), present=[a, c][:shown], plurals=known)

    return [
        case("one thing invented", "There is a {a} beside a {b}."),
        case("several of it", "I see two {bs} and one {a} here"),
        case("inside other words", "The {a} may catch a monkey at the important start of business"),
        case("the first word", "{B} and {a} are here"),
        case("before a comma", "It is a {b}, I think, and no {a}"),
        case("two invented, the later first", "here a {c} and a {b} and then the {a}"),
        case("nothing invented", "The {a} and the {c} look at other {as_} .", 2),
        case("signs of every kind", 'Is that a {b}? No: a {a} ({c}!) and "{as_}"'),
    ]


def _said(answer):
    return set(re.findall(r"\w+", answer.lower()))


def _absent(said, present, plurals):
    return [w for w, many in plurals.items() if w not in present and {w, many} & said]


@wrong("llava.absent", 'Whole words only: "catch" mentions no cat, "monkey" no key.')
def by_substring(answer, present, plurals):
    text = answer.lower()
    return [w for w, many in plurals.items() if w not in present and (w in text or many in text)]


@wrong("llava.absent", 'The plural mentions a thing too: "mice" tells of a mouse.')
def no_plurals(answer, present, plurals):
    return [w for w in plurals if w not in present and w in _said(answer)]


@wrong("llava.absent", "A sentence begins with a capital: compare in lower case.")
def capitals_count(answer, present, plurals):
    return _absent(set(re.findall(r"\w+", answer)), present, plurals)


@wrong("llava.absent", "A comma or a full stop still hangs on some words: take it off before you compare.")
def with_punctuation(answer, present, plurals):
    return _absent(set(answer.lower().split()), present, plurals)


@wrong("llava.absent", "Commas and full stops are not all that stands at words: there are ?, !, brackets and quotes.")
def only_commas_and_stops(answer, present, plurals):
    return _absent(set(answer.lower().replace(",", " ").replace(".", " ").split()), present, plurals)


@wrong("llava.absent", "Things that are in the picture may be mentioned: leave those in `present` out.")
def all_mentioned(answer, present, plurals):
    return _absent(_said(answer), [], plurals)


@wrong("llava.absent", "That is the other mistake, a thing that the answer forgets. Wanted are things that it invents.")
def forgotten(answer, present, plurals):
    return [w for w, many in plurals.items() if w in present and not {w, many} & _said(answer)]


@wrong("llava.absent", "Return the things in the order of the table, not in that of the answer.")
def in_order_of_mention(answer, present, plurals):
    single = {many: w for w, many in plurals.items()}
    found = [single.get(w, w) for w in re.findall(r"\w+", answer.lower())]
    return list(dict.fromkeys(w for w in found if w in plurals and w not in present))


@wrong("llava.absent", "Return the things themselves, in a list, not only whether there are any.")
def only_whether(answer, present, plurals):
    return bool(_absent(_said(answer), present, plurals))


@also_right("llava.absent")
def by_boundaries(answer, present, plurals):
    found = []
    for word, many in plurals.items():
        if word not in present and re.search(rf"\b({word}|{many})\b", answer, re.IGNORECASE):
            found.append(word)
    return found


# 2.3


def _dialogue(rng, turns):
    return [(f"{sentence(rng)}?", f"{sentence(rng, 3)}.") for _ in range(turns)]


@cases("llava.human_assistant")
def _(rng):
    return [
        Case("one turn", turns=_dialogue(rng, 1), system=sentence(rng, 3), stop="###"),
        Case("two turns", turns=_dialogue(rng, 2), system=sentence(rng, 3), stop="###"),
        Case("three turns", turns=_dialogue(rng, 3), system=sentence(rng, 5), stop="###"),
        Case("another stop", turns=_dialogue(rng, 2), system=sentence(rng, 3), stop="</s>"),
        Case("a question of two lines", turns=[("A\nB?", sentence(rng))], system=sentence(rng, 2), stop="###"),
    ]


def _form(turns, system, stop, turn):
    return [(f"{system}{stop}\n", False)] + [p for i, (q, a) in enumerate(turns) for p in turn(q, a, i)]


@wrong("llava.human_assistant", "The model writes the stop itself: learn it with the answer, else it never ends.")
def stop_not_learned(turns, system, stop="###"):
    return _form(turns, system, stop, lambda q, a, i: [
        (f"Human: {q}{stop}\nAssistant:", False), (f" {a}", True), (f"{stop}\n", False)])  # fmt: skip


@wrong("llava.human_assistant", "The question is closed by the stop too.")
def question_not_closed(turns, system, stop="###"):
    return _form(turns, system, stop, lambda q, a, i: [
        (f"Human: {q}\nAssistant:", False), (f" {a}{stop}", True), ("\n", False)])  # fmt: skip


@wrong("llava.human_assistant", '"Assistant:" is given to the model before it answers: it is not learned.')
def role_learned(turns, system, stop="###"):
    return _form(turns, system, stop, lambda q, a, i: [
        (f"Human: {q}{stop}\n", False), (f"Assistant: {a}{stop}", True), ("\n", False)])  # fmt: skip


@wrong("llava.human_assistant", "Questions are not learned: the model shall answer people, not play them.")
def questions_learned(turns, system, stop="###"):
    return _form(turns, system, stop, lambda q, a, i: [
        (f"Human: {q}{stop}\nAssistant:", True), (f" {a}{stop}", True), ("\n", False)])  # fmt: skip


@wrong("llava.human_assistant", "The system message is missing at the beginning.")
def system_left_out(turns, system, stop="###"):
    return human_right(turns, system, stop)[1:]


@wrong("llava.human_assistant", "The line break behind the stop is not learned: with the stop the answer is over.")
def break_learned(turns, system, stop="###"):
    return _form(turns, system, stop, lambda q, a, i: [
        (f"Human: {q}{stop}\nAssistant:", False), (f" {a}{stop}", True), ("\n", True)])  # fmt: skip


@wrong("llava.human_assistant", "Use the `stop` that is given; it need not be ###.")
def stop_fixed(turns, system, stop="###"):
    return human_right(turns, system, "###")


@wrong("llava.human_assistant", "Every answer of the dialogue is learned, not only the last.")
def last_only(turns, system, stop="###"):
    return _form(turns, system, stop, lambda q, a, i: [
        (f"Human: {q}{stop}\nAssistant:", False), (f" {a}{stop}", i == len(turns) - 1), ("\n", False)])  # fmt: skip


@wrong("llava.human_assistant", "The blank before the answer belongs to the answer: words are tokens with their blank.")
def blank_before(turns, system, stop="###"):
    return _form(turns, system, stop, lambda q, a, i: [
        (f"Human: {q}{stop}\nAssistant: ", False), (f"{a}{stop}", True), ("\n", False)])  # fmt: skip


@wrong("llava.human_assistant", "The system message is closed by the stop too.")
def system_not_closed(turns, system, stop="###"):
    return [(f"{system}\n", False), *human_right(turns, system, stop)[1:]]


@also_right("llava.human_assistant")
def human_right(turns, system, stop="###"):
    pieces = [(system + stop + "\n", False)]
    for question, answer in turns:
        pieces.append(("Human: " + question + stop + "\n" + "Assistant:", False))
        pieces.append((" " + answer + stop, True))
        pieces.append(("\n", False))
    return pieces


# 2.4


@cases("llava.chatml")
def _(rng):
    return [
        Case("one turn", turns=_dialogue(rng, 1), system=sentence(rng, 3)),
        Case("two turns", turns=_dialogue(rng, 2), system=sentence(rng, 3)),
        Case("three turns", turns=_dialogue(rng, 3), system=sentence(rng, 5)),
        Case("a question of two lines", turns=[("A\nB?", sentence(rng))], system=sentence(rng, 2)),
        Case("a picture in the question", turns=[("<|IMAGE|>What?", sentence(rng))], system=sentence(rng, 2)),
    ]


def _chatml(turns, system, turn):
    start = [(f"<|im_start|>system\n{system}<|im_end|>\n", False)]
    return start + [p for i, (q, a) in enumerate(turns) for p in turn(q, a, i)]


def _asked(question):
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@wrong("llava.chatml", "The model writes <|im_end|> itself: learn it with the answer, else it never ends.")
def end_not_learned(turns, system):
    return _chatml(turns, system, lambda q, a, i: [(_asked(q), False), (a, True), ("<|im_end|>\n", False)])


@wrong("llava.chatml", "<|im_start|>assistant is given to the model before it answers: it is not learned.")
def header_learned(turns, system):
    return _chatml(turns, system, lambda q, a, i: [
        (f"<|im_start|>user\n{q}<|im_end|>\n", False), (f"<|im_start|>assistant\n{a}<|im_end|>", True),
        ("\n", False)])  # fmt: skip


@wrong("llava.chatml", "The line break behind <|im_end|> is not learned: the answer is over by then.")
def line_break_learned(turns, system):
    return _chatml(turns, system, lambda q, a, i: [(_asked(q), False), (f"{a}<|im_end|>", True), ("\n", True)])


@wrong("llava.chatml", "The system message is missing at the beginning.")
def no_system_message(turns, system):
    return chatml_right(turns, system)[1:]


@wrong("llava.chatml", 'In ChatML who asks is the "user", not the "human".')
def human_role(turns, system):
    return [(text.replace("<|im_start|>user", "<|im_start|>human"), c) for text, c in chatml_right(turns, system)]


@wrong("llava.chatml", "A role stands on a line of its own: a line break follows it.")
def role_without_break(turns, system):
    text = "<|im_start|>user {}<|im_end|>\n<|im_start|>assistant "
    return [(f"<|im_start|>system {system}<|im_end|>\n", False)] + [
        p for q, a in turns for p in ((text.format(q), False), (f"{a}<|im_end|>", True), ("\n", False))
    ]


@wrong("llava.chatml", "The question is closed by <|im_end|> too.")
def question_open(turns, system):
    return _chatml(turns, system, lambda q, a, i: [
        (f"<|im_start|>user\n{q}\n<|im_start|>assistant\n", False), (f"{a}<|im_end|>", True),
        ("\n", False)])  # fmt: skip


@wrong("llava.chatml", "Every answer of the dialogue is learned, not only the last one.")
def last_answer_only(turns, system):
    return _chatml(turns, system, lambda q, a, i: [
        (_asked(q), False), (f"{a}<|im_end|>", i == len(turns) - 1), ("\n", False)])  # fmt: skip


@also_right("llava.chatml")
def chatml_right(turns, system):
    def message(role, text):
        return "<|im_start|>" + role + "\n" + text + "<|im_end|>"

    pieces = [(message("system", system) + "\n", False)]
    for question, answer in turns:
        pieces += [(message("user", question) + "\n<|im_start|>assistant\n", False), (answer + "<|im_end|>", True)]
        pieces += [("\n", False)]
    return pieces


# 2.5


@cases("llava.answer_labels")
def _(rng):
    def case(name, learned, lengths=None):
        lengths = lengths or [int(n) for n in rng.integers(2, 6, len(learned))]
        pieces = [[int(t) for t in rng.integers(0, 50, n)] for n in lengths]
        return Case(name, pieces=pieces, learned=learned)

    return [
        case("one turn", [False, False, True, False]),
        case("two turns", [False, False, True, False, False, True, False]),
        case("an empty answer", [False, True, False, True], [3, 0, 2, 4]),
        case("two answers in a row", [False, True, True]),
        case("nothing to learn", [False, False]),
        case("an answer first", [True, False, True]),
    ]


def _flat(pieces):
    return [t for piece in pieces for t in piece]


def _labels(pieces, learned, ignored=-100):
    return [t if c else ignored for p, c in zip(pieces, learned, strict=True) for t in p]


def _long(*lists):
    return tuple(torch.tensor(values, dtype=torch.long) for values in lists)


@wrong("llava.answer_labels", "0 is a token like any other: what is not learned has the label -100.")
def ignored_is_zero(pieces, learned):
    return _long(_flat(pieces), _labels(pieces, learned, 0))


@wrong("llava.answer_labels", "That is the other way round: the answers are learned, all else is not.")
def inverted(pieces, learned):
    return _long(_flat(pieces), _labels(pieces, [not c for c in learned]))


@wrong("llava.answer_labels", "Leave the labels where their tokens are: the loss shifts them.")
def shifted(pieces, learned):
    return _long(_flat(pieces), [*_labels(pieces, learned)[1:], -100])


@wrong("llava.answer_labels", "Every learned piece counts, not only the last.")
def last_piece(pieces, learned):
    last = max((i for i, c in enumerate(learned) if c), default=-1)
    return _long(_flat(pieces), _labels(pieces, [i == last for i in range(len(learned))]))


@wrong("llava.answer_labels", "Only learned pieces keep their tokens as labels: you learn the questions too.")
def everything(pieces, learned):
    return _long(_flat(pieces), _flat(pieces))


@wrong("llava.answer_labels", "The first token of an answer is learned too.")
def first_left_out(pieces, learned):
    labels = [t if c and i else -100 for p, c in zip(pieces, learned, strict=True) for i, t in enumerate(p)]
    return _long(_flat(pieces), labels)


@wrong("llava.answer_labels", "The ids are the whole dialogue: only the labels tell what is learned.")
def ids_masked_too(pieces, learned):
    return _long(_labels(pieces, learned), _labels(pieces, learned))


@also_right("llava.answer_labels")
def by_repeating(pieces, learned):
    ids = torch.tensor(sum(pieces, []), dtype=torch.long)
    counts = torch.tensor(learned).repeat_interleave(torch.tensor([len(p) for p in pieces]))
    return ids, ids.where(counts, torch.tensor(-100))


# 2.6


@cases("llava.place_features")
def _(rng):
    def case(name, batch, length, places, begin, dtype=torch.float32):
        dim, token = int(rng.integers(3, 6)), int(rng.integers(60, 90))
        ids = torch.from_numpy(rng.integers(0, 50, (batch, length)))
        for row in range(batch):
            ids[row, begin(row)] = token
        return Case(
            name, embeddings=draw(rng, batch, length, dim), ids=ids, features=draw(rng, batch, places, dim).to(dtype),
            image_token=token,
        )  # fmt: skip

    def apart(row):
        return torch.tensor([1 + row, 4 + row, 6 + row])

    return [
        case("one row", 1, 8, 3, lambda row: slice(2, 5)),
        case("at the same place in all rows", 3, 9, 4, lambda row: slice(1, 5)),
        case("at other places in each row", 3, 11, 4, lambda row: slice(1 + 2 * row, 5 + 2 * row)),
        case("with words between", 3, 10, 3, apart),
        case("as many rows as places", 4, 9, 4, lambda row: slice(row + 1, row + 5)),
        case("at the end", 2, 7, 3, lambda row: slice(4, 7)),
        case("features in 16 bits", 2, 8, 3, lambda row: slice(2, 5), torch.bfloat16),
    ]


def _scatter(embeddings, ids, features, image_token):
    return embeddings.masked_scatter((ids == image_token)[..., None], features.to(embeddings.dtype))


@wrong("llava.place_features", "The picture's vectors take the placeholders' place: replace, do not add.")
def added(embeddings, ids, features, image_token):
    return embeddings + _scatter(torch.zeros_like(embeddings), ids, features, image_token)


@wrong("llava.place_features", "The picture goes where its placeholders are, not to the front of the row.")
def at_the_front(embeddings, ids, features, image_token):
    return torch.cat([features, embeddings[:, features.shape[1] :]], dim=1)


@wrong("llava.place_features", "Each placeholder has a vector of its own: you put the mean of the picture everywhere.")
def mean_everywhere(embeddings, ids, features, image_token):
    return _scatter(embeddings, ids, features.mean(dim=1, keepdim=True).expand_as(features), image_token)


@wrong("llava.place_features", "The order is reversed: the first placeholder gets the first vector.")
def reversed_order(embeddings, ids, features, image_token):
    return _scatter(embeddings, ids, features.flip(1), image_token)


@wrong("llava.place_features", "You put the first vector everywhere: the second placeholder gets the second one.")
def first_everywhere(embeddings, ids, features, image_token):
    return torch.where((ids == image_token)[..., None], features[:, :1], embeddings)


@wrong("llava.place_features", "You wrote into `embeddings` itself: work on a clone.")
def written_in_place(embeddings, ids, features, image_token):
    embeddings[ids == image_token] = features.flatten(0, 1).to(embeddings.dtype)
    return embeddings


@wrong("llava.place_features", "The words around the picture got lost: keep their embeddings.")
def words_lost(embeddings, ids, features, image_token):
    return _scatter(torch.zeros_like(embeddings), ids, features, image_token)


@wrong("llava.place_features", "Bring the features to the dtype of the embeddings, not the words to theirs.")
def words_in_16_bits(embeddings, ids, features, image_token):
    return _scatter(embeddings.to(features.dtype), ids, features, image_token)


@wrong("llava.place_features", "Every row has its own picture: you used the first row's for all.")
def first_picture(embeddings, ids, features, image_token):
    return _scatter(embeddings, ids, features[:1].expand_as(features), image_token)


@wrong("llava.place_features", "Nothing was replaced: compare the ids with `image_token`.")
def untouched_rows(embeddings, ids, features, image_token):
    return embeddings.clone() + 0 * features.sum()


@also_right("llava.place_features")
def by_index(embeddings, ids, features, image_token):
    out = embeddings.clone()
    out[ids == image_token] = features.reshape(-1, features.shape[-1]).to(out.dtype)
    return out


@also_right("llava.place_features")
def by_counting_places(embeddings, ids, features, image_token):
    here = ids == image_token
    nth = (here.long().cumsum(dim=1) - 1).clamp(min=0)
    chosen = features.gather(1, nth[..., None].expand(-1, -1, features.shape[-1]))
    return torch.where(here[..., None], chosen, embeddings)


# 2.7


def _logits_and_labels(rng, batch, length, learned):
    """learned: for each row, the places whose labels count."""
    vocab = int(rng.integers(5, 9))
    labels = torch.full((batch, length), -100)
    for row in range(batch):
        for place in learned(row):
            labels[row, place] = int(rng.integers(0, vocab))
    return 2 * draw(rng, batch, length, vocab), labels


@cases("llava.answer_loss")
def _(rng):
    def case(name, batch, length, learned):
        logits, labels = _logits_and_labels(rng, batch, length, learned)
        return Case(name, logits=logits, labels=labels)

    return [
        case("one row", 1, 7, lambda row: range(3, 6)),
        case("short and long answers", 3, 9, lambda row: range(2, 4 + 2 * row)),
        case("learned to the end", 2, 6, lambda row: range(2 + row, 6)),
        case("two answers", 2, 10, lambda row: (2, 3, 6, 7 + row)),
        case("a row without answer", 3, 8, lambda row: range(2, 2 + 2 * row)),
        case("learned from the start", 2, 5, lambda row: range(0, 3 + row)),
    ]


def _token_losses(logits, labels):
    """(batch, length - 1), zero where nothing is learned."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none").view(
        len(labels), -1
    )


@wrong("llava.answer_loss", "The logits at a place guess the next token: shift the labels by one.")
def no_shift(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


@wrong("llava.answer_loss", "You shifted the other way: logits at place i meet the label at place i + 1.")
def other_way(logits, labels):
    return F.cross_entropy(logits[:, 1:].flatten(0, 1), labels[:, :-1].flatten())


@wrong("llava.answer_loss", "-100 is no token: leave those places out.")
def ignored_as_zero(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().clamp(min=0))


@wrong("llava.answer_loss", "Take the mean over the learned tokens, not the sum.")
def summed(logits, labels):
    return _token_losses(logits, labels).sum()


@wrong("llava.answer_loss", "Divide by the number of learned tokens, not by that of all places.")
def over_all_places(logits, labels):
    return _token_losses(logits, labels).mean()


@wrong("llava.answer_loss", "Every learned token counts the same here: take one mean over all rows at once.")
def mean_of_rows(logits, labels):
    counts = (labels[:, 1:] >= 0).sum(dim=1)
    rows = _token_losses(logits, labels).sum(dim=1)[counts > 0] / counts[counts > 0]
    return rows.mean()


@wrong("llava.answer_loss", "The sign is wrong: a loss falls as the right token gets likelier.")
def negative(logits, labels):
    return -F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@also_right("llava.answer_loss")
def by_log_softmax(logits, labels):
    targets = labels[:, 1:]
    log_p = logits[:, :-1].log_softmax(dim=-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return -log_p[targets >= 0].mean()


@also_right("llava.answer_loss")
def by_transposed_cross_entropy(logits, labels):
    return F.cross_entropy(logits.transpose(1, 2)[:, :, :-1], labels[:, 1:], ignore_index=-100)


# 2.8


@cases("llava.trainable")
def _(rng):
    def case(name, stage):
        layers = [f"language_model.layers.{i}.mlp.up_proj.weight" for i in range(int(rng.integers(1, 4)))]
        names = [
            "vision_tower.conv1.weight", "vision_tower.layer1.0.bn1.bias", "vision_tower.projector.weight",
            "vision_tower.language_model.bias", "projector.weight", "projector.bias",
            "language_model.embed_tokens.weight", "language_model.norm.weight", *layers,
        ]  # fmt: skip
        return Case(name, names=[names[int(i)] for i in rng.permutation(len(names))], stage=stage)

    return [
        case("stage 1", "align"),
        case("stage 2", "instruct"),
        case("before both", "language"),
        case("stage 1 in another order", "align"),
        case("stage 2 in another order", "instruct"),
    ]


_W, _LM, _TOWER = "projector.", "language_model.", "vision_tower."


def _begin(names, table, stage):
    return [n for n in names if n.startswith(table[stage])]


@wrong("llava.trainable", "The image tower never learns here: it stays frozen in both stages.")
def tower_too(names, stage):
    return _begin(names, {"language": (_LM,), "align": (_W,), "instruct": (_W, _LM, _TOWER)}, stage)


@wrong("llava.trainable", "Ask how a name begins: the tower has a part that is called projector too.")
def contains(names, stage):
    table = {"language": (_LM,), "align": (_W,), "instruct": (_W, _LM)}
    return [n for n in names if any(part in n for part in table[stage])]


@wrong("llava.trainable", "In stage 1 the language model is frozen: only the projection learns.")
def language_in_stage_1(names, stage):
    return _begin(names, {"language": (_LM,), "align": (_W, _LM), "instruct": (_W, _LM)}, stage)


@wrong("llava.trainable", "In stage 2 the projection goes on learning, with the language model.")
def stage_2_without_w(names, stage):
    return _begin(names, {"language": (_LM,), "align": (_W,), "instruct": (_LM,)}, stage)


@wrong("llava.trainable", "Return what learns; these are the frozen ones.")
def frozen(names, stage):
    table = {"language": (_LM,), "align": (_W,), "instruct": (_W, _LM)}
    return [n for n in names if not n.startswith(table[stage])]


@wrong("llava.trainable", "You have exchanged the two stages: first W alone, then W and the language model.")
def stages_exchanged(names, stage):
    return _begin(names, {"language": (_LM,), "align": (_W, _LM), "instruct": (_W,)}, stage)


@wrong("llava.trainable", "Keep the order of `names`: you sorted them.")
def in_sorted_order(names, stage):
    return sorted(_begin(names, {"language": (_LM,), "align": (_W,), "instruct": (_W, _LM)}, stage))


@also_right("llava.trainable")
def by_first_part(names, stage):
    learning = {"language": {"language_model"}, "align": {"projector"}, "instruct": {"projector", "language_model"}}
    return [name for name in names if name.split(".")[0] in learning[stage]]


# 2.9


@cases("llava.greedy")
def _(rng):
    def chain(vocab):
        """Logits under which token i is followed by i + 1: a walk that meets every token."""
        table = draw(rng, vocab, vocab)
        for token in range(vocab):
            table[token, (token + 1) % vocab] = 9.0
        return table

    def case(name, prompt, stop, longest, vocab=9):
        ids = torch.tensor([prompt])
        return Case(name, logits_of=Named("next_token_table", logits=chain(vocab)), ids=ids, stop=stop, longest=longest)

    start = int(rng.integers(0, 3))
    return [
        case("the stop ends it", [start, 2], 6, 20),
        case("the limit ends it", [start + 1], 8, 4),
        case("nothing to say", [4, 5], 6, 10),
        case("a longer prompt", [1, 6, start, 7, 3], 8, 12, 11),
        case("one token at most", [start], 8, 1),
        case("the stop stands in the prompt", [7, 7, start], 7, 15, 12),
    ]


def _walk(logits_of, ids, count):
    new = []
    for _ in range(count):
        new.append(int(logits_of(ids)[0, -1].argmax()))
        ids = torch.cat([ids, torch.tensor([[new[-1]]])], dim=1)
    return new


def _until(tokens, stop):
    return tokens[: tokens.index(stop)] if stop in tokens else tokens


@wrong("llava.greedy", "The stop ends the answer and is no part of it: leave it out.")
def stop_kept(logits_of, ids, stop, longest):
    tokens = _walk(logits_of, ids, longest)
    return tokens[: tokens.index(stop) + 1] if stop in tokens else tokens


@wrong("llava.greedy", "The answer goes on behind the stop: end there.")
def never_stops(logits_of, ids, stop, longest):
    return _walk(logits_of, ids, longest)


@wrong("llava.greedy", "One token too many: `longest` is the number of new ones.")
def one_more(logits_of, ids, stop, longest):
    return _until(_walk(logits_of, ids, longest + 1), stop)


@wrong("llava.greedy", "Return the new tokens only, without the prompt.")
def with_prompt(logits_of, ids, stop, longest):
    return ids[0].tolist() + _until(_walk(logits_of, ids, longest), stop)


@wrong("llava.greedy", "The logits at the last place guess the next token: yours are those of the first place.")
def first_place(logits_of, ids, stop, longest):
    new = []
    while len(new) < longest:
        token = int(logits_of(ids)[0, 0].argmax())
        if token == stop:
            break
        new.append(token)
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    return new


@wrong("llava.greedy", "Each new token must be read before the next is guessed: append it to the ids.")
def not_appended(logits_of, ids, stop, longest):
    token = int(logits_of(ids)[0, -1].argmax())
    return [] if token == stop else [token] * longest


@wrong("llava.greedy", "That is the least likely token: take the most likely one.")
def least_likely(logits_of, ids, stop, longest):
    return _until(_walk(lambda x: -logits_of(x), ids, longest), stop)


@wrong("llava.greedy", "`longest` counts new tokens: you counted the prompt with them.")
def prompt_counted(logits_of, ids, stop, longest):
    return _until(_walk(logits_of, ids, max(0, longest - ids.shape[1])), stop)


@also_right("llava.greedy")
def by_a_for_loop(logits_of, ids, stop, longest):
    text = ids
    for _ in range(longest):
        guess = logits_of(text)[:, -1].softmax(dim=-1).topk(1).indices
        if guess.item() == stop:
            break
        text = torch.cat([text, guess], dim=1)
    return text[0, ids.shape[1] :].tolist()


# 2.10


@cases("llava.option_scores")
def _(rng):
    def case(name, options, length, learned):
        logits, labels = _logits_and_labels(rng, options, length, learned)
        return Case(name, logits=logits, labels=labels)

    return [
        case("four options of one length", 4, 8, lambda row: range(4, 7)),
        case("short and long options", 4, 10, lambda row: range(3, 5 + row)),
        case("two options", 2, 7, lambda row: range(3, 5 + 2 * row)),
        case("up to the end", 3, 8, lambda row: range(3 + row, 8)),
        case("five options", 5, 12, lambda row: range(4, 6 + row)),
    ]


def _log_p(logits, labels):
    """(options, length - 1) and which places count."""
    targets = labels[:, 1:]
    return logits[:, :-1].log_softmax(dim=-1).gather(2, targets.clamp(min=0)[..., None])[..., 0], targets >= 0


@wrong("llava.option_scores", "A sum punishes long options: take the mean over an option's tokens.")
def summed_scores(logits, labels):
    log_p, counts = _log_p(logits, labels)
    return (log_p * counts).sum(dim=1)


@wrong("llava.option_scores", "The logits at a place guess the next token: the labels stand one place further.")
def unshifted(logits, labels):
    targets = labels.clamp(min=0)
    log_p = logits.log_softmax(dim=-1).gather(2, targets[..., None])[..., 0]
    counts = labels >= 0
    return (log_p * counts).sum(dim=1) / counts.sum(dim=1)


@wrong("llava.option_scores", "Divide by the number of the option's tokens, not by that of all places.")
def over_every_place(logits, labels):
    log_p, counts = _log_p(logits, labels)
    return (log_p * counts).mean(dim=1)


@wrong("llava.option_scores", "The likeliest option must have the highest score: that is its loss, the sign is wrong.")
def losses(logits, labels):
    log_p, counts = _log_p(logits, labels)
    return -(log_p * counts).sum(dim=1) / counts.sum(dim=1)


@wrong("llava.option_scores", "Take the mean of log-probabilities; you took that of probabilities.")
def mean_probability(logits, labels):
    log_p, counts = _log_p(logits, labels)
    return (log_p.exp() * counts).sum(dim=1) / counts.sum(dim=1)


@wrong("llava.option_scores", "All tokens of an option count, not only its first.")
def first_token(logits, labels):
    log_p, counts = _log_p(logits, labels)
    return log_p[torch.arange(len(labels)), counts.int().argmax(dim=1)]


@wrong("llava.option_scores", "One score for each option: you averaged over the options.")
def one_for_all(logits, labels):
    log_p, counts = _log_p(logits, labels)
    return log_p[counts].mean()


@wrong("llava.option_scores", "Logits are no log-probabilities: the log-softmax is missing.")
def plain_logits(logits, labels):
    targets = labels[:, 1:]
    counts = targets >= 0
    found = logits[:, :-1].gather(2, targets.clamp(min=0)[..., None])[..., 0]
    return (found * counts).sum(dim=1) / counts.sum(dim=1)


@also_right("llava.option_scores")
def by_rows(logits, labels):
    pairs = zip(logits, labels, strict=True)
    return torch.stack([-F.cross_entropy(x[:-1], y[1:], ignore_index=-100) for x, y in pairs])


@also_right("llava.option_scores")
def by_token_losses(logits, labels):
    return -_token_losses(logits, labels).sum(dim=1) / (labels[:, 1:] != -100).sum(dim=1)


# 2.11


@cases("llava.merge_places")
def _(rng):
    def case(name, batch, side, dim):
        return Case(name, features=draw(rng, batch, side * side, dim))

    dim = int(rng.integers(2, 5))
    return [
        case("four places", 2, 2, dim),
        case("a grid of four by four", 1, 4, dim),
        case("several pictures", 3, 4, dim + 1),
        case("a grid of six by six", 2, 6, dim),
        case("four values a place", 2, 4, 4),
        case("one value a place", 2, 8, 1),
    ]


def _blocks(features):
    """(batch, rows, in row, columns, in column, dim)"""
    batch, places, dim = features.shape
    side = math.isqrt(places)
    return features.view(batch, side // 2, 2, side // 2, 2, dim)


@wrong("llava.merge_places", "Four neighbours in the list are no square: they lie side by side, not two over two.")
def by_reshape(features):
    return features.reshape(features.shape[0], features.shape[1] // 4, -1)


@wrong("llava.merge_places", "Keep all four vectors side by side; their mean forgets which was where.")
def by_mean(features):
    return _blocks(features).mean(dim=(2, 4)).flatten(1, 2)


@wrong("llava.merge_places", "Within a square the order is row by row: upper left, upper right, then the lower two.")
def columns_within(features):
    return _blocks(features).permute(0, 1, 3, 4, 2, 5).flatten(3).flatten(1, 2)


@wrong("llava.merge_places", "The squares themselves come row by row: yours come column by column.")
def columns_outside(features):
    return _blocks(features).permute(0, 3, 1, 2, 4, 5).flatten(3).flatten(1, 2)


@wrong("llava.merge_places", "Whole vectors stand side by side: yours are interleaved, value by value.")
def interleaved(features):
    return _blocks(features).permute(0, 1, 3, 5, 2, 4).flatten(3).flatten(1, 2)


@wrong("llava.merge_places", "You kept one place of each four: keep all of them, side by side.")
def one_of_four(features):
    return _blocks(features)[:, :, 0, :, 0].flatten(1, 2)


@wrong("llava.merge_places", "That is still a grid of rows and columns: places are one axis, row by row.")
def still_a_grid(features):
    return _blocks(features).permute(0, 1, 3, 2, 4, 5).flatten(3)


@also_right("llava.merge_places")
def by_slices(features):
    batch, places, dim = features.shape
    grid = features.view(batch, math.isqrt(places), -1, dim)
    parts = [grid[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return torch.cat(parts, dim=-1).reshape(batch, places // 4, 4 * dim)


@also_right("llava.merge_places")
def by_unfold(features):
    batch, places, dim = features.shape
    side = math.isqrt(places)
    x = F.unfold(features.transpose(1, 2).reshape(batch, dim, side, side), 2, stride=2)  # (batch, dim * 4, places / 4)
    return x.view(batch, dim, 4, -1).permute(0, 3, 2, 1).reshape(batch, places // 4, 4 * dim)
