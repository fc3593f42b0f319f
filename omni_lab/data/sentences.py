"""A grammar of sentences about the nano world, and translations by rule. A sentence is its own key (see splits)."""

import re

import numpy as np

from .splits import draw, held_out, pick
from .words import CONCEPTS, LANGUAGES, NAMES, NUMBERS, Concept, plural, with_article

_COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "grey", "white")
_QUALITIES = ("big", "small", "old", "new", "heavy", "light", "strange", "quiet", "bright", "dark", "funny", "lovely")
_PLACES = ("house", "river", "school", "station", "garden", "forest", "market", "bridge", "harbour", "mountain")
_TIMES = ("Yesterday", "Today", "This morning", "Last night", "On Monday", "After lunch", "In the winter")
_DEEDS = ("saw", "bought", "painted", "found", "lost", "wanted", "carried", "liked", "sold", "forgot")


def sentence(rng: np.random.Generator, split: str) -> str:
    """One English sentence of the split: 3 to about 16 words."""
    return draw(rng, split, "sentence", propose)[1]


def propose(rng: np.random.Generator) -> tuple[str, str]:
    """(key, sentence) from one of the patterns; about 10 million different sentences in all."""
    text = pick(rng, _PATTERNS)(rng)
    return key_of(text), text


def key_of(text: str) -> str:
    """The words of a sentence alone, lower case: what has been heard once counts as heard in any punctuation."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def _noun(rng: np.random.Generator) -> str:
    return pick(rng, CONCEPTS).word


def _relation(rng: np.random.Generator) -> str:
    where = pick(rng, ("left of", "right of", "above", "below", "next to", "behind", "in front of"))
    verb_subject = _noun(rng)
    verb = "are" if verb_subject in ("scissors", "grapes") else "is"
    return f"The {verb_subject} {verb} {where} the {_noun(rng)}."


def _count(rng: np.random.Generator) -> str:
    number = int(rng.integers(2, 13))
    opening = pick(rng, ("I see", "There are", "We need", "She counted", "He drew"))
    return f"{opening} {NUMBERS[number]} {pick(rng, _COLOURS)} {plural(_noun(rng))}."


def _owner(rng: np.random.Generator) -> str:
    number = int(rng.integers(2, 10))
    thing = with_article(f"{pick(rng, _COLOURS)} {_noun_singular(rng)}")
    return f"{pick(rng, NAMES)} has {thing} and {NUMBERS[number]} {plural(_noun(rng))}."


def _noun_singular(rng: np.random.Generator) -> str:
    while True:
        word = _noun(rng)
        if word not in ("scissors", "grapes", "bread", "cheese", "corn"):
            return word


def _quality(rng: np.random.Generator) -> str:
    return f"The {pick(rng, _COLOURS)} {_noun_singular(rng)} is very {pick(rng, _QUALITIES)}."


def _request(rng: np.random.Generator) -> str:
    verb = pick(rng, ("give", "show", "bring", "send", "sell"))
    return f"Please {verb} the {_noun(rng)} to {pick(rng, NAMES)}, not the {_noun(rng)}."


def _order(rng: np.random.Generator) -> str:
    return (
        f"First comes the {_noun_singular(rng)}, then the {_noun_singular(rng)}, and the {_noun_singular(rng)} is last."
    )


def _story(rng: np.random.Generator) -> str:
    place = pick(rng, ("near the", "behind the", "in front of the", "at the"))
    return (
        f"{pick(rng, _TIMES)}, {pick(rng, NAMES)} {pick(rng, _DEEDS)} {with_article(_noun_singular(rng))} "
        f"{place} {pick(rng, _PLACES)}."
    )


def _question(rng: np.random.Generator) -> str:
    return pick(
        rng,
        (
            f"Where is the {_noun_singular(rng)}, {pick(rng, NAMES)}?",
            f"Did {pick(rng, NAMES)} see the {_noun(rng)}?",
            f"How many {plural(_noun_singular(rng))} are in the {pick(rng, _PLACES)}?",
            f"Who {pick(rng, _DEEDS)} the {pick(rng, _QUALITIES)} {_noun(rng)}?",
        ),
    )


def _list(rng: np.random.Generator) -> str:
    things = [with_article(_noun_singular(rng)) for _ in range(3)]
    return f"In the picture, there is {things[0]}, {things[1]}, and {things[2]}."


_PATTERNS = (_relation, _count, _owner, _quality, _request, _order, _story, _question, _list)
PAUSED = (_request, _order, _story, _list)  # with commas inside: where a speaker should pause


def paused_sentence(rng: np.random.Generator, split: str) -> str:
    """A sentence with at least one comma inside: for pause errors."""

    def proposal(rng: np.random.Generator) -> tuple[str, str]:
        text = pick(rng, PAUSED)(rng)
        return key_of(text), text

    return draw(rng, split, "sentence", proposal)[1]


def hard_sentence(rng: np.random.Generator, split: str) -> str:
    """Hard to say, like the hard set of seed-tts-eval: repetitions, long lists, many numbers."""

    def proposal(rng: np.random.Generator) -> tuple[str, str]:
        kind = int(rng.integers(3))
        if kind == 0:
            word = _noun_singular(rng)
            text = f"The {word}, the {word} and the {word} saw another {word}."
        elif kind == 1:
            counts = [NUMBERS[int(n)] for n in rng.integers(2, 21, 4)]
            text = "I count " + ", ".join(f"{n} {plural(_noun_singular(rng))}" for n in counts[:-1])
            text += f" and {counts[-1]} {plural(_noun_singular(rng))}."
        else:
            names = [pick(rng, NAMES) for _ in range(4)]
            text = f"{names[0]}, {names[1]}, {names[2]} and {names[3]} {pick(rng, _DEEDS)} {_quality_list(rng)}."
        return key_of(text), text

    return draw(rng, split, "sentence", proposal)[1]


def _quality_list(rng: np.random.Generator) -> str:
    chosen = rng.choice(len(_QUALITIES), 3, replace=False)
    noun = plural(_noun_singular(rng))
    return f"{_QUALITIES[chosen[0]]}, {_QUALITIES[chosen[1]]} and {_QUALITIES[chosen[2]]} {noun}"


_TRANSLATABLE = tuple(concept for concept in CONCEPTS if not concept.fr.startswith("les "))
_RELATIONS = {
    "left of": ("links von", "à gauche de", "a la izquierda de"),
    "right of": ("rechts von", "à droite de", "a la derecha de"),
    "above": ("über", "au-dessus de", "encima de"),
    "below": ("unter", "au-dessous de", "debajo de"),
}


def sentence_pair(rng: np.random.Generator, split: str) -> tuple[str, str, str]:
    """(English, language code, translation) of a sentence of the split.

    No English of training's is held out as a `sentence`: the tests of recognition and of speech say those."""
    while True:
        english, language, translation = translated(rng, split)
        if split == "test" or not held_out("sentence", key_of(english)):
            return english, language, translation


def translated(rng: np.random.Generator, split: str) -> tuple[str, str, str]:
    """The same, split as translations alone: what the shipped tokenizer has learned its words from."""

    def proposal(rng: np.random.Generator) -> tuple[str, tuple[str, str, str]]:
        subject, thing = pick(rng, _TRANSLATABLE), pick(rng, _TRANSLATABLE)
        language = pick(rng, sorted(LANGUAGES))
        english, translation = pick(rng, (_where, _seen, _placed))(rng, subject, thing, language)
        return f"{key_of(english)} {language}", (english, language, translation)

    return draw(rng, split, "translation", proposal)[1]


def _where(rng: np.random.Generator, subject: Concept, _: Concept, language: str) -> tuple[str, str]:
    name = getattr(subject, language)
    asked = {"de": f"Wo ist {name}?", "fr": f"Où est {name} ?", "es": f"¿Dónde está {name}?"}
    return f"Where is the {subject.word}?", asked[language]


def _seen(rng: np.random.Generator, subject: Concept, thing: Concept, language: str) -> tuple[str, str]:
    one, other = getattr(subject, language), getattr(thing, language)
    seen = {
        "de": f"Ich sehe {accusative(one)} und {accusative(other)}.",
        "fr": f"Je vois {one} et {other}.",
        "es": f"Veo {one} y {other}.",
    }
    return f"I see the {subject.word} and the {thing.word}.", seen[language]


def _placed(rng: np.random.Generator, subject: Concept, thing: Concept, language: str) -> tuple[str, str]:
    relation = pick(rng, sorted(_RELATIONS))
    phrase = _RELATIONS[relation][list(LANGUAGES).index(language)]
    one, other = getattr(subject, language), getattr(thing, language)
    verb = {"de": "ist", "fr": "est", "es": "está"}[language]
    place = f"{phrase} {dative(other)}" if language == "de" else contract(f"{phrase} {other}")
    text = f"{one} {verb} {place}."
    return f"The {subject.word} is {relation} the {thing.word}.", text[0].upper() + text[1:]


def accusative(german: str) -> str:
    """Give "der Hund" -> "den Hund", "der Hase" -> "den Hasen"."""
    article, _, noun = german.partition(" ")  # other languages' names come here, too, and "l'arbre" has no space
    return f"den {bent(noun)}" if article == "der" else german


def dative(german: str) -> str:
    """Give "der Hund" -> "dem Hund", "die Katze" -> "der Katze", "der Hase" -> "dem Hasen"."""
    article, noun = german.split(" ", 1)
    return {"der": "dem", "die": "der", "das": "dem"}[article] + " " + bent(noun)


def bent(noun: str) -> str:
    """Give "Hase" -> "Hasen", as weak nouns have it in every case but the first; others as they are."""
    return {"Hase": "Hasen", "Bär": "Bären", "Löwe": "Löwen", "Affe": "Affen", "Elefant": "Elefanten",
            "Krake": "Kraken"}.get(noun, noun)  # fmt: skip


def contract(phrase: str) -> str:
    """French "de le" -> "du", Spanish "de el" -> "del"."""
    return phrase.replace(" de le ", " du ").replace(" de el ", " del ")
