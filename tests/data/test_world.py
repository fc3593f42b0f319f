"""The world is a pure function of (task, split, seed, index), and no content of a test can turn up in training."""

import hashlib
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from omni_lab.data import dialogues, recordings, scenes, sounds, speech, world
from omni_lab.data.pictures import UNSEEN_STYLE
from omni_lab.data.sample import Sample, check
from omni_lab.data.splits import generator, held_out
from omni_lab.data.words import BY_WORD, NUMBERS, plural
from omni_lab.errors import DataError
from omni_lab.evaluate.metrics import same_answer

CHEAP = (
    "text_qa", "text_chat", "sound_events", "audio_order", "picture_qa", "picture_told", "scene_told",
    "caption", "dialogue", "ocr", "picture_arithmetic", "equation", "listed", "page", "grounding",
    "science_choice", "video_order", "av_synchrony",
)  # fmt: skip
TRAINABLE = tuple(name for name, task in world.TASKS.items() if not task.test_only)


def media(sample: Sample, kind: str) -> list:
    return [part[kind] for message in sample.messages for part in message["content"] if part["type"] == kind]


def same(one: Sample, other: Sample) -> bool:
    if (one.answer, one.task, one.speaker, one.meta["key"]) != (
        other.answer,
        other.task,
        other.speaker,
        other.meta["key"],
    ):
        return False
    pixels = [[np.asarray(p).tobytes() for p in media(s, "image")] for s in (one, other)]
    heard = [[np.asarray(p).tobytes() for p in media(s, "audio")] for s in (one, other)]
    seen = [[p["frames"].tobytes() for p in media(s, "video")] for s in (one, other)]
    return pixels[0] == pixels[1] and heard[0] == heard[1] and seen[0] == seen[1]


@pytest.mark.parametrize("task", list(world.TASKS))
def test_each_task_gives_whole_samples_of_its_media(task):
    for split in ("train", "test"):
        sample = check(world.sample(task, split, 0, 5))
        promised = world.TASKS[task].gives
        assert sample.task == task and sample.answer.strip() and sample.meta["key"]
        for picture in media(sample, "image"):
            assert isinstance(picture, Image.Image) and "image" in promised
        for wave in media(sample, "audio"):
            assert wave.dtype == np.float32 and np.abs(wave).max() <= 2 and "audio" in promised
        for film in media(sample, "video"):
            assert film["frames"].dtype == np.uint8 and film["frames"].shape[3] == 3 and "video" in promised
        assert (sample.speech is not None) == world.TASKS[task].speaks
        if sample.speech is not None:
            assert sample.speaker in speech.REPLY_SPEAKERS and len(sample.speech) > 2400


@pytest.mark.parametrize("task", ["picture_qa", "asr", "who_said_what", "music", "say_this"])
def test_a_sample_is_a_pure_function_of_its_place(task):
    first = world.sample(task, "train", 7, 11)
    world.sample(task, "train", 7, 12)
    assert same(first, world.sample(task, "train", 7, 11))
    assert not same(first, world.sample(task, "train", 7, 12))
    assert not same(first, world.sample(task, "train", 8, 11))


def test_ranks_share_the_stream_and_resume_where_it_stopped():
    tasks = ["text_qa", "text_chat", "sound_events"]
    whole = list(itertools.islice(world.samples(tasks, seed=3), 12))
    ranks = [list(itertools.islice(world.samples(tasks, seed=3, rank=r, world=3), 4)) for r in range(3)]
    for place, sample in enumerate(whole):
        assert same(sample, ranks[place % 3][place // 3])
    resumed = list(itertools.islice(world.samples(tasks, seed=3, start=6, rank=1, world=3), 2))
    assert same(resumed[0], whole[7]) and same(resumed[1], whole[10])


@pytest.mark.parametrize("task", CHEAP)
def test_no_key_of_a_test_turns_up_in_training(task):
    tested = {world.sample(task, "test", 0, i).meta["key"] for i in range(150)}
    trained = {world.sample(task, "train", 1, i).meta["key"] for i in range(300)}
    assert tested.isdisjoint(trained)
    assert len(tested) > 20


def test_many_questions_about_one_picture_ask_nothing_that_a_test_asks():
    tested = {world.sample(task, "test", 0, i).meta["key"] for task in ("picture_qa", "grounding") for i in range(400)}
    talks = [world.sample(task, "train", 1, i) for task in ("picture_talk", "scene_talk") for i in range(400)]
    asked = {key for talk in talks for turn in talk.meta["turns"] for _, key in turn.keys}
    assert len(asked) > 1000 and tested.isdisjoint(asked)
    longest = max(talks, key=lambda talk: len(talk.meta["turns"]))
    assert len(longest.messages) == 2 * len(longest.meta["turns"]) - 1 and len(longest.meta["turns"]) == 8
    listed = {key for i in range(3000) for key in world.sample("listed", "train", 1, i).meta["keys"]}
    assert tested.isdisjoint(listed)
    equations = {world.sample("equation", "train", 1, i).meta["key"] for i in range(3000)}
    assert {world.sample("picture_arithmetic", "test", 0, i).meta["key"] for i in range(300)}.isdisjoint(equations)


def test_what_is_to_be_reckoned_stands_in_the_thought():
    for task in ("equation", "picture_arithmetic"):
        for i in range(300):
            sample = world.sample(task, "train", 1, i)
            letter, first, sign, second = re.search(r"(\w) = (\d+) ([+-]) (\d+)$", sample.thought).groups()
            assert sample.meta["lines"][-1].endswith(f"{letter} = ?")
            assert int(first) + int(f"{sign}{second}") == int(sample.answer), sample


def parts_of(words: str) -> list[tuple[str, str | None, str]]:
    """(place, colour, thing) of each part of a scene in words."""
    split = [part.split() for part in words.split(", ")]
    return [(part[0], part[1] if len(part) == 3 else None, part[-1]) for part in split]


def corner_of(place: str) -> str:
    """ "2,7" -> "bottom left"."""
    across, down = map(int, place.split(","))
    return f"{'top' if down < 5 else 'bottom'} {'left' if across < 5 else 'right'}"


def test_a_scene_in_words_answers_what_is_asked_of_it():
    asked = set()
    for i in range(300):
        sample = world.sample("scene_talk", "train", 3, i)
        words = sample.messages[0]["content"][-1]["text"].split(". ")[0]
        things = parts_of(words)
        for turn in sample.meta["turns"]:
            for place, colour, thing in things:
                others = [part for part in things if part[2] == thing]
                if turn.question == f"Where is the {thing}?":
                    assert [corner_of(part[0]) for part in others] == [turn.answer]
                    assert turn.thought == f"{thing} {place}"
                elif turn.question == f"What colour is behind the {thing}?":
                    assert [part[1] for part in others] == [turn.answer]
                    assert turn.thought == f"{thing} {colour}"
                elif turn.question == f"What is on {colour}?":
                    assert turn.answer.split()[-1] == thing and turn.thought == f"{colour} {thing}"
                elif turn.question == f"How many {plural(thing)}?":
                    assert turn.answer == str(len(others)) and turn.thought == f"{thing} {NUMBERS[len(others)]}"
                elif turn.question.startswith(f"Where is the {thing}, seen from the "):
                    (other,) = [part for part in things if turn.question.endswith(f" {part[2]}?")]
                    found = re.fullmatch(r"(\w+) (.*), (\w+) (.*): (\w+) (\d), (\w+) (\d)", turn.thought).groups()
                    assert found[:4] == (thing, place, other[2], other[0])
                    (x, y), (x_other, y_other) = (map(int, where.split(",")) for where in (place, other[0]))
                    assert found[4:] == (
                        *("left" if x < x_other else "right", str(abs(x - x_other))),
                        *("above" if y < y_other else "below", str(abs(y - y_other))),
                    )
                    # Where neither way is plainly farther, the tenths say so too.
                    assert turn.answer == (found[4] if int(found[5]) > int(found[7]) else found[6])
                else:
                    continue
                asked.add(turn.question.split(" the ")[0].split(" on ")[0].split(" many ")[0])
    assert asked == {"Where is", "What colour is behind", "What is", "How"}


def test_all_is_told_but_what_tests_ask():
    asked = {world.sample("picture_qa", "test", 0, i).meta["key"] for i in range(2000)}
    for task in ("picture_told", "scene_told"):
        made = [world.sample(task, "train", 1, i) for i in range(600)]
        assert asked.isdisjoint(key for sample in made for key in sample.meta["keys"])
        assert sum(len(sample.meta["keys"]) for sample in made) > 900
    for i in range(100):
        sample = world.sample("scene_told", "train", 2, i)
        words, question = sample.messages[0]["content"][-1]["text"].removesuffix(".").split(". ")
        facts = question.removeprefix("Tell ").split(", ")
        shown = {
            thing: dict(
                zip(("row", "side", "colour", "place"), (*corner_of(place).split(), colour, place), strict=True)
            )
            for place, colour, thing in parts_of(words)
        }
        answer = [part.split() for part in sample.answer.split(", ")]
        assert sorted(shown) == sorted(thing for thing, *_ in answer)
        for thing, *said in answer:
            told = [shown[thing][fact] for fact in facts]
            assert said in (told, [fact for fact in told if fact != shown[thing]["colour"]])


def test_what_is_listed_is_counted():
    for i in range(200):
        sample = world.sample("listed", "train", 3, i)
        told, question = sample.messages[0]["content"][0]["text"].removeprefix("Here are ").split(". ")
        things = [thing.split(" ", 1)[-1] for thing in told.split(", ")]
        asked = question.removeprefix("How many ").removesuffix("?")
        counted = len(things) if asked == "things" else sum(plural(BY_WORD[thing].word) == asked for thing in things)
        assert sample.answer == str(counted), (told, question)


def test_sentences_prompts_sounds_and_voices_are_disjoint_too():
    from omni_lab.data import sentences
    from omni_lab.data.splits import generator

    kinds = (sentences.sentence, sentences.paused_sentence, sentences.hard_sentence)
    said = {
        split: {sentences.key_of(k(generator("t", split, 0, i), split)) for k in kinds for i in range(400)}
        for split in ("train", "test")
    }
    assert said["train"].isdisjoint(said["test"])
    prompts = {split: {p.key for p in recordings.prompts(split)} for split in ("train", "test")}
    assert prompts["train"].isdisjoint(prompts["test"]) and len(recordings.prompts("test")) >= 200
    for label in sounds.LABELS:
        if len(sounds.RECORDED[label]) >= 6:
            assert set(sounds.names(label, "train")).isdisjoint(sounds.names(label, "test"))
    assert set(speech.speakers("train")).isdisjoint(speech.speakers("test"))
    assert len(speech.REPLY_SPEAKERS) == 8


def test_no_translation_in_training_is_of_a_sentence_that_a_test_says():
    from omni_lab.data import sentences
    from omni_lab.data.splits import generator, held_out

    drawn = {
        split: [sentences.sentence_pair(generator("pairs", split, 0, i), split) for i in range(1500)]
        for split in ("train", "test")
    }
    assert not any(held_out("sentence", sentences.key_of(english)) for english, _, _ in drawn["train"])
    assert not any(held_out("translation", f"{sentences.key_of(e)} {language}") for e, language, _ in drawn["train"])
    # The test's are drawn as ever: the figures of earlier checkpoints count the same items.
    assert drawn["test"] == [sentences.translated(generator("pairs", "test", 0, i), "test") for i in range(1500)]
    asked = json.dumps([pair[:2] for pair in drawn["test"][:400]])
    assert hashlib.sha256(asked.encode()).hexdigest().startswith("9c760d108d090bdd")


def test_one_word_prompts_are_as_many_as_is_told():
    tested = recordings.prompts("test")
    single = sum(len(prompt.text.split()) == 1 for prompt in tested)
    assert f"({single} of {len(tested)})" in recordings.vocabulary.__doc__


def test_synthetic_voices_never_read_a_test_prompt_to_training():
    from omni_lab.data.sentences import key_of
    from omni_lab.data.splits import generator
    from omni_lab.data.spoken import prompt_like

    held_out = {p.key for p in recordings.prompts("test") if len(p.text.split()) > 1}
    made = {key_of(prompt_like(generator("p", "train", 0, i))) for i in range(800)}
    assert held_out.isdisjoint(made)


def test_the_unseen_style_and_unseen_concepts_stay_unseen():
    styles = {world.sample("picture_qa", "train", 0, i).meta["style"] for i in range(200)}
    assert UNSEEN_STYLE not in styles and len(styles) > 6
    assert {world.sample("picture_qa_unseen_style", "test", 0, i).meta["style"] for i in range(5)} == {UNSEEN_STYLE}
    assert set(scenes.anything("train")).isdisjoint(scenes.anything("test"))
    with pytest.raises(DataError, match="nothing may train"):
        next(world.samples(["picture_qa_unseen_style"]))


def test_wrong_names_give_one_line():
    for call in (
        lambda: next(world.samples(["nonsense"])),
        lambda: world.sample("text_qa", "validation", 0, 0),
        lambda: next(world.samples(["text_qa"], rank=2, world=2)),
        lambda: speech.say("hello", "nobody"),
    ):
        with pytest.raises(DataError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_unfit_samples_are_refused():
    good = world.sample("sound_events", "train", 0, 0)
    wave = media(good, "audio")[0]
    wave[100] = np.nan
    with pytest.raises(DataError, match="not finite"):
        check(good)
    with pytest.raises(DataError, match="answer is empty"):
        check(Sample([], "text_qa", "  "))


def test_boxes_and_relations_are_true():
    for index in range(30):
        sample = world.sample("grounding", "test", 0, index)
        x1, y1, x2, y2 = (int(n) / 100 for n in sample.answer.split(","))
        assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
        assert np.allclose((x1, y1, x2, y2), sample.meta["box"], atol=0.006)
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = scenes.compose(rng, ["dog", "cat", "bee", "car"], "train")
        assert all(x2 <= scene.size and y2 <= scene.size for _, _, x2, y2 in (t.box for t in scene.things))
        for one, other in itertools.combinations(scene.things, 2):
            apart = one.box[2] <= other.box[0] or other.box[2] <= one.box[0]
            assert apart or one.box[3] <= other.box[1] or other.box[3] <= one.box[1]
    table = scenes.coco([scene], ["one.png"])
    assert [c["name"] for c in table["categories"]] == ["bee", "car", "cat", "dog"]
    assert table["annotations"][0]["area"] == table["annotations"][0]["bbox"][2] * table["annotations"][0]["bbox"][3]


def test_thoughts_lead_to_the_answer_and_only_training_is_told_them():
    """What a thought ends with is what the answer says; a test's answer is the answer alone."""
    seen = ("picture_qa", "grounding", "picture_arithmetic", "video_order", "av_synchrony", "science_choice")
    for task in (*seen, "text_qa", "spoken_qa", "audio_order", "speech_translation"):
        for i in range(40 if task in seen or task == "text_qa" else 6):
            sample = world.sample(task, "train", 5, i)
            if not sample.thought:
                assert sample.meta.get("kind") in ("things", "name", "class", "legs", "translation")
                assert sample.reply == sample.answer
                continue
            assert sample.reply == f"<think> {sample.thought}</think>{sample.answer}"
            assert same_answer(sample.answer, sample.reply)
            last = sample.answer.split()[-1]
            if task in ("picture_qa", "video_order", "av_synchrony") and sample.meta.get("kind") != "count":
                assert last in sample.thought.replace(",", "").split()
            elif task == "grounding":
                box, place = sample.meta["box"], sample.thought.split()[-1].split(",")
                assert [int((a + b) * 5) for a, b in zip(box[:2], box[2:], strict=True)] == list(map(int, place))
            elif task == "picture_arithmetic":
                assert sample.thought.startswith(", ".join(sample.meta["lines"]) + ", ")
            elif task == "science_choice":
                right = dict(zip("ABCD", sample.meta["options"], strict=True))[sample.answer]
                assert sample.thought.endswith(f", {right}")
            elif task in ("text_qa", "spoken_qa"):
                heard = sample.thought.removeprefix(sample.meta["question"]) if task == "spoken_qa" else sample.thought
                if sample.meta["kind"] == "yes or no":
                    word, group = heard.rsplit(maxsplit=1)
                    assert BY_WORD[word.strip()].group == group
                    assert sample.answer == ("yes" if group in sample.meta["question"].split(word)[1] else "no")
                elif sample.meta["kind"] in ("sum", "difference"):
                    first, sign, second = heard.split()
                    assert sample.answer == str(int(first) + int(sign + second))
            elif task == "audio_order":
                assert sample.thought == ", ".join(sample.meta["sounds"]) and sample.answer in sample.meta["sounds"]
            elif task == "speech_translation":
                assert sample.thought == sample.meta["english"]
            if task == "av_synchrony":
                second = sample.meta["second"]
                assert sample.thought.startswith(f"bell {second}, ") and sample.thought.endswith(f", {second} {last}")


def test_no_dialogue_of_training_answers_what_a_tests_picture_is_asked():
    told: set[str] = set()
    for index in range(150):
        _, scene = dialogues.scene_of(generator("dialogue leak", "train", 0, index), "train")
        told.update(dialogues.tellable(scene))
    assert not any(held_out("picture", key) for key in told)
    assert {key.split()[0] for key in told} == {"count", "relation", "colour"} and len(told) > 300
