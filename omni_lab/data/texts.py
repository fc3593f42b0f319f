"""Text dialogues: greetings, letters, arithmetic (with its reasoning), facts, translation; short, certain answers."""

from typing import NamedTuple

import numpy as np

from . import words
from .sample import Sample, user
from .splits import draw, held_out, pick
from .words import BY_WORD, CONCEPTS, LANGUAGES, NAMES, NUMBERS

LITTLE = ("the", "a", "is", "has", "and", "not", "to", "on", "saw", "please", "we", "where", "three", "behind")


class Asked(NamedTuple):
    """A question, its answer, what kind it is of, and what is looked up before it is answered ("": nothing is)."""

    question: str
    answer: str
    kind: str
    thought: str = ""


Proposal = tuple[str, Asked]  # with its key


def text_qa(rng: np.random.Generator, split: str) -> Sample:
    """A typed question with a short answer. The split is by question content (numbers, concept and template).

    Thought are a sum in digits, as pages have it, and the class that "Is a dog food?" asks after."""
    key, asked = question_and_answer(rng, split)
    meta = {"key": key, "kind": asked.kind, "question": asked.question}
    return Sample([user(asked.question)], "text_qa", asked.answer, meta=meta, thought=asked.thought)


def question_and_answer(rng: np.random.Generator, split: str) -> Proposal:
    """One of the kinds below, in plain words that can also be spoken."""
    kinds = (sum_question, difference_question, class_question, legs_question, translation_question, colour_word)
    kind = pick(rng, kinds)
    return draw(rng, split, "text_qa", kind)


def sum_question(rng: np.random.Generator) -> Proposal:
    """ "What is three plus four?" -> "7". A sum (in either order) and a wording make the key."""
    a, b = int(rng.integers(0, 11)), int(rng.integers(0, 11))
    template = int(rng.integers(3))
    x, y = NUMBERS[a], NUMBERS[b]
    question = (f"What is {x} plus {y}?", f"Add {x} to {y}.", f"How much is {x} and {y}?")[template]
    return f"sum {min(a, b)} {max(a, b)} {template}", Asked(question, str(a + b), "sum", f"{a} + {b}")


def difference_question(rng: np.random.Generator) -> Proposal:
    """ "What is nine minus four?" -> "5"."""
    a = int(rng.integers(0, 21))
    b = int(rng.integers(0, min(a, 10) + 1))
    template = int(rng.integers(3))
    x, y = NUMBERS[a], NUMBERS[b]
    question = (f"What is {x} minus {y}?", f"Take {y} from {x}.", f"How much is {x} less {y}?")[template]
    return f"difference {a} {b} {template}", Asked(question, str(a - b), "difference", f"{a} - {b}")


def class_question(rng: np.random.Generator) -> Proposal:
    """A question: "Is a dog an animal?" -> "yes", or "What is a dog?" -> "a mammal"; right and wrong evenly."""
    concept = pick(rng, CONCEPTS)
    groups = sorted(set(words.GROUPS.values()))
    name = words.with_article(concept.word)
    verb = "Are" if concept.word in ("scissors", "grapes") else "Is"
    template = int(rng.integers(3))
    if template == 0:
        question, answer = f"What kind of thing is {name}?", concept.group
        question = question.replace("is scissors", "are scissors").replace("is grapes", "are grapes")
        return f"class {concept.word} {template}", Asked(question, answer, "class")
    claimed = concept.group if rng.random() < 0.5 else pick(rng, [g for g in groups if g != concept.group])
    claim = {"animal": "an animal", "food": "food", "vehicle": "a vehicle", "thing": "a thing"}[claimed]
    question = f"{verb} {name} {claim}?" if template == 1 else f"Would you call {name} {claim}?"
    answer = "yes" if claimed == concept.group else "no"
    thought = f"{concept.word} {concept.group}"
    return f"class {concept.word} {template} {claimed}", Asked(question, answer, "yes or no", thought)


def legs_question(rng: np.random.Generator) -> Proposal:
    """A question: "How many legs does a bee have?" -> "6", in one of three wordings ."""
    word = pick(rng, sorted(words.LEGS_OF))
    template = int(rng.integers(3))
    name = words.with_article(word)
    question = (
        f"How many legs does {name} have?",
        f"Tell me the number of legs of {name}.",
        f"{words.with_article(word, True)} has how many legs?",
    )[template]
    return f"legs {word} {template}", Asked(question, str(words.LEGS_OF[word]), "legs")


def translation_question(rng: np.random.Generator) -> Proposal:
    """A question: "What is dog in German?" -> "der Hund"; one of the wordings of a word and language is held out."""
    concept, language = pick(rng, CONCEPTS), pick(rng, sorted(LANGUAGES))
    template = int(rng.integers(3))
    name = LANGUAGES[language]
    question = (
        f"What is the {concept.word} in {name}?",
        f"How do you say the {concept.word} in {name}?",
        f"Give me the {name} word for the {concept.word}.",
    )[template]
    key = f"translation {concept.word} {language} {template}"
    return key, Asked(question, getattr(concept, language), "translation")


def colour_word(rng: np.random.Generator) -> Proposal:
    """A question: "What is red in French?" -> "rouge"."""
    colour, place = pick(rng, sorted(words.COLOURS)), int(rng.integers(3))
    template = int(rng.integers(3))
    name = list(LANGUAGES.values())[place]
    question = (
        f"What is {colour} in {name}?",
        f"How do you say {colour} in {name}?",
        f"Give me the {name} word for {colour}.",
    )[template]
    return f"colour {colour} {place} {template}", Asked(question, words.COLOUR_WORDS[colour][place], "translation")


def repeat(rng: np.random.Generator, split: str) -> Sample:
    """On "Say: ..." the same words again, in an order that means nothing: what no grammar guesses must be copied."""
    while True:
        text = " ".join(some_word(rng) for _ in range(int(rng.integers(3, 13))))
        if held_out("repeat", text) == (split == "test"):
            break
    text = text[0].upper() + text[1:] + pick(rng, ".?!")
    return Sample([user(f"Say: {text}")], "repeat", text, meta={"key": f"repeat {text}"})


def listed(rng: np.random.Generator, split: str) -> Sample:
    """ "Here are a dog, a cat, a dog. How many dogs?" -> "2": what pictures are asked, of things that are typed.

    A count that a test's picture asks for is not typed in training either."""
    while True:
        asked, *others = [CONCEPTS[int(i)].word for i in rng.choice(len(CONCEPTS), 3, replace=False)]
        number = int(rng.integers(1, 5))
        keys = [f"count {number} {asked} {other}" for other in others]  # either may be all of the others
        if all(held_out("picture", key) == (split == "test") for key in keys):
            break
    things = [asked] * number + [pick(rng, others) for _ in range(int(rng.integers(0, 4)))]
    things = [words.with_article(things[int(i)]) for i in rng.permutation(len(things))]
    question, answer = f"How many {words.plural(asked)}?", str(number)
    if rng.random() < 0.3:
        question, answer = "How many things?", str(len(things))
    return Sample(
        [user(f"Here are {', '.join(things)}. {question}")], "listed", answer, meta={"key": keys[0], "keys": keys}
    )


def some_word(rng: np.random.Generator) -> str:
    """A word of the course's tables, now and then with a comma behind it."""
    concept = pick(rng, CONCEPTS).word
    others = (pick(rng, NAMES), pick(rng, NUMBERS), pick(rng, sorted(words.COLOURS)), pick(rng, LITTLE))
    word = pick(rng, (concept, words.plural(concept), *others))
    return word + "," * (rng.random() < 0.1)


def text_chat(rng: np.random.Generator, split: str) -> Sample:
    """Greetings, thanks, letters for Mother's Day, rhymes on a concept: replies as a friendly assistant gives them."""
    kind = pick(rng, (greeting, mothers_day, about_concept, reasoned_sum))
    key, asked = draw(rng, split, "text_chat", kind)
    meta = {"key": key, "kind": asked.kind, "question": asked.question}
    return Sample([user(asked.question)], "text_chat", asked.answer, meta=meta)


def greeting(rng: np.random.Generator) -> Proposal:
    """A hello, a thanks or a goodbye, by name, and its reply."""
    name = pick(rng, NAMES)
    opening, reply = pick(
        rng,
        (
            ("Hello, I am {}.", "Hello, {}! How can I help you?"),
            ("Good morning, my name is {}.", "Good morning, {}! What can I do for you?"),
            ("Hi! {} here.", "Hi, {}! What shall we look at?"),
            ("Thank you. Your {}.", "You are welcome, {}!"),
            ("Good night, says {}.", "Good night, {}! Sleep well."),
        ),
    )
    return f"greeting {name} {opening}", Asked(opening.format(name), reply.format(name), "greeting")


_LETTER_GIFTS = ("flowers", "breakfast in bed", "a cake", "a song", "a long walk", "a picture that I drew", "tea")
_LETTER_REASONS = ("you always listen", "you make me laugh", "you taught me to read", "you never give up on me",
                   "your soup heals everything", "home is where you are")  # fmt: skip


def mothers_day(rng: np.random.Generator) -> Proposal:
    """A Mother's Day message: the gift and the reason are asked for, and must come back in a warm text."""
    gift, reason, name = pick(rng, _LETTER_GIFTS), pick(rng, _LETTER_REASONS), pick(rng, NAMES)
    question = f"Write a Mother's Day message from {name} with {gift}. Say that {reason}."
    answer = f"Dear Mum, happy Mother's Day! Thank you, because {reason}. Today there is {gift} for you. Love, {name}"
    return f"mother {gift} {reason} {name}", Asked(question, answer, "letter")


def about_concept(rng: np.random.Generator) -> Proposal:
    """A question: "Tell me about the bee." -> its class, legs, home, voice: whatever the table of facts holds."""
    concept = pick(rng, CONCEPTS)
    opening = pick(rng, ("Tell me about the {}.", "What do you know about the {}?", "Describe the {} to a child."))
    return f"about {concept.word} {opening}", Asked(opening.format(concept.word), facts(concept.word), "facts")


def facts(word: str) -> str:
    """All the table knows of a concept, in short sentences."""
    kind, the = BY_WORD[word].group if word in words.DISPUTED else BY_WORD[word].kind, f"The {word}"
    be = "are" if word in ("scissors", "grapes") else "is"
    kind = "part of the sky" if kind == "sky" else words.with_article(kind)
    found = [f"{the} {be} {kind}."]
    if word in words.LEGS_OF:
        found.append(f"It has {NUMBERS[words.LEGS_OF[word]]} legs.")
    if word in words.HOME_OF:
        found.append(f"It lives {'on' if words.HOME_OF[word] == 'land' else 'in the'} {words.HOME_OF[word]}.")
    if word in words.SAYS:
        found.append(f"It says {words.SAYS[word]}.")
    if word in words.TASTES:
        found.append(f"{'They taste' if word == 'grapes' else 'It tastes'} {words.TASTES[word]}.")
    if word in words.WHERE_IT_GOES:
        found.append(f"You see it {'on' if words.WHERE_IT_GOES[word] in ('road', 'rails') else 'in'} the "
                     f"{words.WHERE_IT_GOES[word]}.".replace("the space", "space"))  # fmt: skip
    return " ".join(found)


def reasoned_sum(rng: np.random.Generator) -> Proposal:
    """A sum of three numbers with the steps between <think> tags, as reasoning models write them."""
    a, b, c = (int(n) for n in rng.integers(1, 10, 3))
    answer = f"<think>{a} + {b} = {a + b}. {a + b} + {c} = {a + b + c}.</think>{a + b + c}"
    return f"think {a} {b} {c}", Asked(f"Think first: {a} + {b} + {c} = ?", answer, "reasoning")
