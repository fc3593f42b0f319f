"""Questions about pictures: how many, what colour, where; names, boxes, and science with a picture.

"What colour is behind the dog?" takes two steps: find the dog, then see what is behind it. A small decoder that has to
take both before its first word takes neither (of three colours that are there it says any). Here it learns to write the
first step down, as reasoning models do, between <think> tags: "dog red", then the answer "red". A word that is written
is looked up at once, and the next word can say what was found.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..processing.thoughts import thoughtful
from . import scenes, words
from .sample import Sample, assistant, image, user
from .scenes import Scene, Thing
from .splits import held_out, pick
from .words import BY_WORD, CONCEPTS, NUMBERS, plural, with_article

UNSEEN_STYLE = "openmoji"
MOST = 4  # things of one kind in a counting question
MOST_TURNS = 8  # questions about one picture
RELATIONS = ("left", "right", "above", "below")


def picture_qa(rng: np.random.Generator, split: str, style: str | None = None) -> Sample:
    """One question about a new scene: count, colour or relation (in training also names).

    The split is by what is asked of which things (such as "three dogs among cats"), so that a test's scene is new."""
    kinds = (count, things, colour, relation) + ((name,) if split == "train" else ())
    kind = pick(rng, kinds)
    key, question, answer, scene, thought = kind(rng, split, style)
    picture = scenes.draw(scene, rng if split == "train" else None)
    meta = {"key": key, "kind": kind.__name__, "style": scene.style, "question": question}
    return Sample([user(question, image(picture))], "picture_qa", answer, meta=meta, thought=thought)


Asked = tuple[str, str, str, Scene, str]  # key, question, answer, scene, thought


def picture_qa_unseen_style(rng: np.random.Generator, split: str) -> Sample:
    """The same questions on pictures by an artist never trained on (OpenMoji), whatever the split."""
    made = picture_qa(rng, "test", UNSEEN_STYLE)
    made.task = "picture_qa_unseen_style"
    return made


def some_words(rng: np.random.Generator, number: int) -> list[str]:
    """Different words of the table."""
    return [CONCEPTS[int(i)].word for i in rng.choice(len(CONCEPTS), number, replace=False)]


def wanted(kind: str, key: str, split: str) -> bool:
    """Whether a question's content belongs to the split."""
    return held_out(kind, key) == (split == "test")


def count(rng: np.random.Generator, split: str, style: str | None) -> Asked:
    """Asks "How many dogs?" among up to three other things."""
    while True:
        asked, other, third = some_words(rng, 3)
        number = int(rng.integers(1, MOST + 1))
        key, another = (f"count {number} {asked} {beside}" for beside in (other, third))
        if wanted("picture", key, split) and wanted("picture", another, split):  # either may be all of the others
            break
    others = [pick(rng, (other, third)) for _ in range(int(rng.integers(0, 3)))]
    scene = scenes.compose(rng, [asked] * number + others, split, style)
    return key, f"How many {plural(asked)}?", str(number), scene, counted(asked, number)


def things(rng: np.random.Generator, split: str, style: str | None) -> Asked:
    """Asks "How many things?" of any kind; the test shows only concepts that training never showed."""
    number = int(rng.integers(1, 7))
    known = scenes.anything(split)
    if style is None:
        style = pick(rng, scenes.emoji_set().training_styles)
    chosen = [int(pick(rng, known)) for _ in range(number)]
    names = " ".join(sorted(scenes.emoji_set().names[i] for i in chosen))
    scene = scenes.compose(rng, chosen, split, style)
    return f"things {names}", "How many things?", str(number), scene, ""


def colour(rng: np.random.Generator, split: str, style: str | None) -> Asked:
    """Asks "What colour is behind the dog?"."""
    while True:
        chosen = some_words(rng, int(rng.integers(1, 4)))
        scene = scenes.compose(rng, chosen, split, style, cards=1.0)
        key = f"colour {chosen[0]} {scene.things[0].colour} " + " ".join(sorted(chosen[1:]))
        if wanted("picture", key, split):
            found = scene.things[0].colour or ""
            return key, f"What colour is behind the {chosen[0]}?", found, scene, f"{chosen[0]} {found}"


def relation(rng: np.random.Generator, split: str, style: str | None) -> Asked:
    """Asks "Where is the dog, seen from the cat?" -> left, right, above or below, each as likely."""
    answer = pick(rng, RELATIONS)
    while True:
        chosen = some_words(rng, int(rng.integers(2, 4)))
        key = f"relation {answer} {chosen[0]} {chosen[1]}"
        if not wanted("picture", key, split):
            continue
        scene = scenes.compose(rng, chosen, split, style)
        if scenes.relation(scene.things[0], scene.things[1]) == answer:
            thought = compared(scene.things[0], scene.things[1], scene)
            return key, f"Where is the {chosen[0]}, seen from the {chosen[1]}?", answer, scene, thought


def name(rng: np.random.Generator, split: str, style: str | None) -> Asked:
    """Asks "What is this?" of one thing, or "What is on red?" of several on cards: where words meet pictures.

    The answer is "a dog": behind a space the word is one token, the one that stands for it everywhere else."""
    if rng.random() < 0.5:
        (word,) = some_words(rng, 1)
        return f"name {word}", "What is this?", with_article(word), scenes.compose(rng, [word], split, style), ""
    while True:
        chosen = some_words(rng, int(rng.integers(2, 4)))
        scene = scenes.compose(rng, chosen, split, style, cards=1.0)
        colours = [thing.colour for thing in scene.things]
        key = f"colour {chosen[0]} {colours[0]} " + " ".join(sorted(chosen[1:]))
        if colours.count(colours[0]) == 1 and wanted("picture", key, split):
            thought = f"{colours[0]} {chosen[0]}"
            return f"name {key}", f"What is on {colours[0]}?", with_article(chosen[0]), scene, thought


def counted(word: str, number: int) -> str:
    """The thought of a count: "dog three"."""
    return f"{word} {NUMBERS[number]}"


def placed(thing: Thing, scene: Scene) -> str:
    """Where its middle lies, in tenths of a side, across and down: "dog 2,7"."""
    return f"{thing.word} {tenths(thing, scene)[0]},{tenths(thing, scene)[1]}"


def tenths(thing: Thing, scene: Scene) -> tuple[int, int]:
    """In which tenth of the picture its middle lies, 0 to 9, across and down."""
    across, down = (int(place * 10 / scene.size) for place in thing.centre)
    return across, down


def compared(one: Thing, other: Thing, scene: Scene) -> str:
    """The thought of a relation: both places, and how far they are apart each way, such as
    "dog 2,7, cat 8,6: left 6, below 1"."""
    (x, y), (x_other, y_other) = tenths(one, scene), tenths(other, scene)
    across, down = "left" if x < x_other else "right", "above" if y < y_other else "below"
    apart = f"{across} {abs(x - x_other)}, {down} {abs(y - y_other)}"
    return f"{placed(one, scene)}, {placed(other, scene)}: {apart}"


def picture_talk(rng: np.random.Generator, split: str) -> Sample:
    """Up to eight of the questions above about one scene, turn by turn: a picture is dear to look at, a question cheap.

    Each is asked in the words of `picture_qa` and `grounding`, and belongs to the split as it does there."""
    turns: list[Turn] = []
    while not any(turn.keys for turn in turns):
        chosen = some_words(rng, int(rng.integers(2, 5)))
        chosen += [pick(rng, chosen) for _ in range(int(rng.integers(0, 4)))]
        scene = scenes.compose(rng, chosen, split, cards=0.7)
        turns = [turn for turn in askable(scene) if all(wanted(*key, split) for key in turn.keys)]
        turns = [turns[int(i)] for i in rng.permutation(len(turns))[:MOST_TURNS]]
    picture = image(scenes.draw(scene, rng if split == "train" else None))
    messages = [user(turns[0].question, picture)]
    for turn, following in pairwise(turns):
        messages += [assistant(turn.reply), user(following.question)]
    meta = {"key": f"talk {' '.join(sorted(chosen))}", "style": scene.style, "turns": turns}
    return Sample(messages, "picture_talk", turns[-1].answer, meta=meta, thought=turns[-1].thought)


def picture_told(rng: np.random.Generator, split: str) -> Sample:
    """ "Tell place, colour." -> "dog 2,7 red, cat 8,6 blue": of each thing, named, some of what belongs to it.

    A word in an answer is followed by what stands with that word in the picture, at once and without a question between
    them: from this a decoder learns to find what is named. What is told first changes, so that a thing's name alone
    must bring all that belongs to it."""
    scene, question, answer, keys = told(rng, split)
    picture = image(scenes.draw(scene, rng if split == "train" else None))
    meta = {"key": f"told {answer}", "keys": keys, "style": scene.style}
    return Sample([user(question, picture)], "picture_told", answer, meta=meta)


def scene_told(rng: np.random.Generator, split: str) -> Sample:
    """The same about a scene in words."""
    scene, question, answer, keys = told(rng, split)
    meta = {"key": f"told {answer}", "keys": keys}
    return Sample([user(f"{in_words(scene, rng)}. {question}")], "scene_told", answer, meta=meta)


def told(rng: np.random.Generator, split: str) -> tuple[Scene, str, str, list[str]]:
    """(a scene of different things; what of them to tell; each of them with that, in any order, without the colours
    that are asked for in the other split; the keys of the colours that are told)."""
    scene = scenes.compose(rng, some_words(rng, int(rng.integers(2, 8))), split, cards=0.8)
    facts = [("row", "side", "colour", "place")[int(i)] for i in rng.permutation(4)[: rng.integers(1, 4)]]
    parts, keys = [], []
    for thing in scene.things:
        company = " ".join(sorted(each.word for each in scene.things if each is not thing))
        key = f"colour {thing.word} {thing.colour} {company}"
        known = dict(zip(("row", "side"), corner(thing, scene).split(), strict=True))
        known["place"] = ",".join(map(str, tenths(thing, scene)))
        if "colour" in facts and thing.colour is not None and wanted("picture", key, split):
            known["colour"] = thing.colour
            keys.append(key)
        parts.append(" ".join([thing.word, *(known[fact] for fact in facts if fact in known)]))
    return scene, f"Tell {', '.join(facts)}.", ", ".join(parts[int(i)] for i in rng.permutation(len(parts))), keys


def in_words(scene: Scene, rng: np.random.Generator) -> str:
    """ "2,7 red dog, 8,6 blue cat", in any order: places in tenths, across and down. What belongs to a thing comes
    first, so that the thing's own token has it all."""
    parts = []
    for thing in scene.things:
        across, down = tenths(thing, scene)
        parts.append(" ".join(filter(None, (f"{across},{down}", thing.colour, thing.word))))
    return ", ".join(parts[int(i)] for i in rng.permutation(len(parts)))


def scene_talk(rng: np.random.Generator, split: str) -> Sample:
    """`picture_talk` about a scene in words: "2,7 red dog, 8,6 blue cat." Box by box is not asked.

    To find the thing that is named, and to say what belongs to it, is the same in words and in pictures; here it takes
    a tenth of the work to learn."""
    turns: list[Turn] = []
    while not any(turn.keys for turn in turns):
        chosen = some_words(rng, int(rng.integers(2, 5)))
        chosen += [pick(rng, chosen) for _ in range(int(rng.integers(0, 3)))]
        scene = scenes.compose(rng, chosen, split, cards=0.7)
        turns = [turn for turn in askable(scene) if not turn.question.startswith("Box")]
        turns = [turn for turn in turns if all(wanted(*key, split) for key in turn.keys)]
        turns = [turns[int(i)] for i in rng.permutation(len(turns))[:MOST_TURNS]]
    messages = [user(f"{in_words(scene, rng)}. {turns[0].question}")]
    for turn, following in pairwise(turns):
        messages += [assistant(turn.reply), user(following.question)]
    meta = {"key": f"talk {' '.join(sorted(chosen))}", "turns": turns}
    return Sample(messages, "scene_talk", turns[-1].answer, meta=meta, thought=turns[-1].thought)


def corner(thing: Thing, scene: Scene) -> str:
    """The quarter of the picture in which its middle lies, such as "top left"."""
    left, top = (place < scene.size / 2 for place in thing.centre)
    return f"{'top' if top else 'bottom'} {'left' if left else 'right'}"


class Turn(NamedTuple):
    """A question about a scene. keys: what `wanted` must say of it, (kind, key) each; none: it suits every split."""

    question: str
    answer: str
    keys: tuple[tuple[str, str], ...] = ()
    thought: str = ""

    @property
    def reply(self) -> str:
        """As `Sample.reply`."""
        return thoughtful(self.thought, self.answer)


def askable(scene: Scene) -> list[Turn]:
    """All questions that a scene of the words table answers. Only what stands there once is asked for by name."""
    every = [thing.word for thing in scene.things]
    turns = [Turn("How many things?", str(len(every)))]
    for word in sorted(set(every)):
        number = every.count(word)
        keys = tuple(("picture", f"count {number} {word} {other}") for other in sorted(set(every) - {word}))
        turns.append(Turn(f"How many {plural(word)}?", str(number), keys, counted(word, number)))
    alone = [thing for thing in scene.things if every.count(thing.word) == 1]
    for thing in alone:
        turns += asked_of(thing, scene)
        for other in alone:
            side = None if other is thing else scenes.relation(thing, other)
            if side is not None:
                keys = (("picture", f"relation {side} {thing.word} {other.word}"),)
                question = f"Where is the {thing.word}, seen from the {other.word}?"
                turns.append(Turn(question, side, keys, compared(thing, other, scene)))
    return turns


def asked_of(thing: Thing, scene: Scene) -> list[Turn]:
    """Its box, which quarter of the picture its middle is in, and on a card what colour is behind it and what is on
    that colour."""
    company = " ".join(sorted(each.word for each in scene.things if each is not thing))
    boxed = (("grounding", f"box {thing.word} {company}"),)
    turns = [
        Turn(f"Box of the {thing.word}?", scene.told_box(thing), boxed, placed(thing, scene)),
        Turn(f"Where is the {thing.word}?", corner(thing, scene), (), placed(thing, scene)),
    ]
    if thing.colour is not None:
        keys = (("picture", f"colour {thing.word} {thing.colour} {company}"),)
        thought = f"{thing.word} {thing.colour}"
        turns.append(Turn(f"What colour is behind the {thing.word}?", thing.colour, keys, thought))
        if [each.colour for each in scene.things].count(thing.colour) == 1:
            thought = f"{thing.colour} {thing.word}"
            turns.append(Turn(f"What is on {thing.colour}?", with_article(thing.word), keys, thought))
    return turns


def grounding(rng: np.random.Generator, split: str) -> Sample:
    """Asks "Box of the dog?" -> "x1,y1,x2,y2" in hundredths of a side; split by the thing and its company."""
    while True:
        chosen = some_words(rng, int(rng.integers(1, 5)))
        key = f"box {chosen[0]} " + " ".join(sorted(chosen[1:]))
        if len(chosen) == 1 and split == "test":
            continue
        if len(chosen) == 1 or wanted("grounding", key, split):
            break
    scene = scenes.compose(rng, chosen, split)
    picture = scenes.draw(scene, rng if split == "train" else None)
    thing = scene.things[0]
    box = tuple(edge / scene.size for edge in thing.box)
    meta = {"key": key, "box": box, "style": scene.style}
    messages = [user(f"Box of the {chosen[0]}?", image(picture))]
    return Sample(messages, "grounding", scene.told_box(thing), meta=meta, thought=placed(thing, scene))


def science_choice(rng: np.random.Generator, split: str) -> Sample:
    """A science question with four choices; the subject stands in the picture, or in the words when there is none."""
    while True:
        fact, subject, right, wrong = science_question(rng)
        seen = rng.random() < 0.7
        wrong = [wrong[int(i)] for i in rng.permutation(len(wrong))[:3]]
        options = [right, *wrong]
        options = [options[int(i)] for i in rng.permutation(4)]
        key = f"{fact} {subject} {seen} " + " ".join(options)
        if wanted("science", key, split):
            break
    lines = ". ".join(f"{letter} {option}" for letter, option in zip("ABCD", options, strict=True))
    asked = fact.replace("THE", "it" if seen else f"the {subject}")
    answer = "ABCD"[options.index(right)]
    meta = {"key": key, "fact": fact, "seen": seen, "options": options}
    media = []
    if seen:
        scene = scenes.compose(rng, [subject], split)
        media = [image(scenes.draw(scene, rng if split == "train" else None))]
    thought = f"{subject}, {right}"
    return Sample([user(f"{asked} {lines}. Letter?", *media)], "science_choice", answer, meta=meta, thought=thought)


def science_question(rng: np.random.Generator) -> tuple[str, str, str, list[str]]:
    """(question with THE for its subject, subject, right answer, wrong answers) from the table of facts."""
    kind = int(rng.integers(4))
    if kind == 0:
        subject = pick(rng, CONCEPTS).word
        right, everything = BY_WORD[subject].kind, sorted(set(words.GROUPS))
        everything = [k for k in everything if k != "object"]
        if right == "object" or subject in words.DISPUTED:
            return science_question(rng)
        return "What kind is THE?", subject, right, [k for k in everything if k != right]
    if kind == 1:
        subject = pick(rng, sorted(words.LEGS_OF))
        legs = words.LEGS_OF[subject]
        return "How many legs has THE?", subject, str(legs), [str(n) for n in (0, 2, 4, 6, 8) if n != legs]
    if kind == 2:
        subject = pick(rng, sorted(words.HOME_OF))
        right = words.HOME_OF[subject]
        return "Where does THE live?", subject, right, [h for h in ("air", "land", "space", "water") if h != right]
    subject = pick(rng, sorted(words.SAYS))
    right = words.SAYS[subject]
    return "What does THE say?", subject, right, [s for s in sorted(words.SAYS.values()) if s != right]
