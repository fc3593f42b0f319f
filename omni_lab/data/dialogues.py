"""Instruction data as LLaVA makes it (Liu et al. 2023, section 3): a teacher who cannot see the picture is told its
captions and boxes, and writes a conversation, a detailed description or a line of complex reasoning about it.

The teacher here goes by rules; `teacher.py` asks a language model the same.
"""

from collections import Counter

import numpy as np

from . import scenes, words
from .pictures import some_words, wanted
from .sample import Sample, assistant, image, user
from .scenes import GRID, Scene, Thing
from .splits import held_out, pick
from .words import BY_WORD, NUMBERS, plural, with_article

KINDS = ("conversation", "detail", "reasoning")
Turns = list[tuple[str, str]]  # (question, answer)


def scene_of(rng: np.random.Generator, split: str) -> tuple[str, Scene]:
    """(key, a scene of two to five things); the split is by the words together. Nor does training tell what a test's
    picture is asked (`pictures.py`): how many of one thing, where one is from another, what colour is behind it."""
    while True:
        chosen = some_words(rng, int(rng.integers(2, 5)))
        chosen += [chosen[0]] * int(rng.integers(0, 2))
        key = "dialogue " + " ".join(sorted(chosen))
        if not wanted("dialogue", key, split):
            continue
        scene = scenes.compose(rng, chosen, split)
        if split == "test" or not any(held_out("picture", told) for told in tellable(scene)):
            return key, scene


def tellable(scene: Scene) -> list[str]:
    """The keys of the questions on pictures that a dialogue about the scene may answer."""
    counts = Counter(thing.word for thing in scene.things)
    found = [f"count {counts[word]} {word} {other}" for word in counts for other in counts if other != word]
    for one, other in zip(scene.things, scene.things[1:], strict=False):
        if counts[one.word] == counts[other.word] == 1 and (side := scenes.relation(one, other)):
            found.append(f"relation {side} {one.word} {other.word}")
    last = scene.things[-1]
    if last.colour is not None and counts[last.word] == 1:
        others = sorted(word for word in counts if word != last.word)
        found.append(f"colour {last.word} {last.colour} {' '.join(others)}")
    return found


def captions(scene: Scene) -> list[str]:
    """What a person would write under the picture: two sentences, each true."""
    counts = Counter(thing.word for thing in scene.things)
    listed = join([several(word, number) for word, number in counts.items()])
    found = [f"There {'is' if counts[scene.things[0].word] == 1 else 'are'} {listed}."]
    for one, other in zip(scene.things, scene.things[1:], strict=False):
        side = scenes.relation(one, other)
        if side and counts[one.word] == counts[other.word] == 1:
            found.append(f"{the(one).capitalize()} is {phrase(side)} {the(other)}.")
    return found[:2]


def boxes(scene: Scene) -> list[str]:
    """The boxes as LLaVA tells them to its teacher: "dog: [0.12, 0.30, 0.55, 0.71]" in shares of the side."""
    return [f"{t.word}: [{', '.join(f'{edge / scene.size:.2f}' for edge in t.box)}]" for t in scene.things]


def several(word: str, number: int) -> str:
    """Words such as "a dog", "three dogs"."""
    return with_article(word) if number == 1 else f"{NUMBERS[number]} {plural(word)}"


def the(thing: Thing) -> str:
    """Words such as "the dog"."""
    return f"the {thing.word}"


def phrase(side: str) -> str:
    """Words such as "left" -> "left of"; "above" stays."""
    return side if side in ("above", "below") else f"{side} of"


def join(parts: list[str]) -> str:
    """Words such as "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def conversation(scene: Scene, rng: np.random.Generator) -> Turns:
    """Two or three short questions whose answers the boxes hold: how many, where, on what colour."""
    counts = Counter(thing.word for thing in scene.things)
    word = scene.things[0].word
    turns = [(f"How many {plural(word)} do you see?", f"I see {several(word, counts[word])}.")]
    for one, other in zip(scene.things, scene.things[1:], strict=False):
        side = scenes.relation(one, other)
        if side and counts[one.word] == counts[other.word] == 1:
            turns.append((f"Where is {the(one)}?", f"It is {phrase(side)} {the(other)}."))
            break
    last = scene.things[-1]
    if last.colour is not None and counts[last.word] == 1:
        turns.append((f"What is behind {the(last)}?", f"A {last.colour} card is behind it.".replace("A o", "An o")))
    order = rng.permutation(len(turns))
    return [turns[int(i)] for i in order]


def detail(scene: Scene, rng: np.random.Generator) -> Turns:
    """The whole picture in three or four sentences."""
    question = pick(rng, ("Describe the picture in detail.", "What is in the picture? Tell me everything."))
    told = captions(scene)
    corner = {True: ("top left", "top right"), False: ("bottom left", "bottom right")}
    first = scene.things[0]
    if Counter(thing.word for thing in scene.things)[first.word] == 1:
        x, y = first.centre
        told.append(f"{the(first).capitalize()} is at the {corner[y < scene.size / 2][int(x > scene.size / 2)]}.")
    if first.colour is not None:
        told.append("Everything lies on coloured cards.")
    return [(question, " ".join(told))]


def reasoning(scene: Scene, rng: np.random.Generator) -> Turns:
    """A question that the picture alone does not answer: it takes what the table of facts knows, and a reason."""
    here = list(dict.fromkeys(thing.word for thing in scene.things))
    animals = [word for word in here if BY_WORD[word].group == "animal"]
    food = [word for word in here if BY_WORD[word].group == "food"]
    legs = [word for word in here if word in words.LEGS_OF]
    chances: Turns = []
    if legs and set(legs) == set(animals):
        counts = Counter(thing.word for thing in scene.things)
        total = sum(words.LEGS_OF[word] * counts[word] for word in legs)
        told = join([f"{several(word, counts[word])} with {words.LEGS_OF[word]} legs each" for word in legs])
        chances.append(("How many legs do the animals have together?", f"I count {told}, so {total} legs."))
    if len(animals) > 0 and len(animals) < len(here):
        told = join([f"the {word}" for word in animals])
        chances.append(("What here is alive and can move by itself?", f"{told.capitalize()}: only animals can."))
    if food:
        told = join([f"the {word}" for word in food])
        chances.append(("I am hungry. What can I take?", f"Take {told}, because that is food."))
    if not chances:
        told = join([f"the {word}" for word in here])
        chances.append(("Is anything here good to eat?", f"No, {told} cannot be eaten."))
    return [pick(rng, chances)]


MAKERS = {"conversation": conversation, "detail": detail, "reasoning": reasoning}


def teach(kind: str, scene: Scene, rng: np.random.Generator) -> Turns:
    """The rule-based teacher: turns of that kind about the scene."""
    return MAKERS[kind](scene, rng)


def dialogue(rng: np.random.Generator, split: str) -> Sample:
    """One of the three kinds; all turns but the last are history, the last answer is the one wanted."""
    kind = pick(rng, KINDS)
    key, scene = scene_of(rng, split)
    turns = teach(kind, scene, rng)
    picture = image(scenes.draw(scene, rng if split == "train" else None))
    messages = []
    for number, (question, answer) in enumerate(turns):
        messages.append(user(question, *([picture] if number == 0 else [])))
        if number < len(turns) - 1:
            messages.append(assistant(answer))
    meta = {"key": key, "kind": kind, "captions": captions(scene), "boxes": boxes(scene)}
    return Sample(messages, "dialogue", turns[-1][1], meta=meta)


def described(rng: np.random.Generator, split: str) -> Sample:
    """A picture and its caption: what LLaVA's first stage, which trains only the projector, learns from."""
    key, scene = scene_of(rng, split)
    picture = image(scenes.draw(scene, rng if split == "train" else None))
    return Sample([user("Caption.", picture)], "caption", captions(scene)[0], meta={"key": key, "grid": GRID})
