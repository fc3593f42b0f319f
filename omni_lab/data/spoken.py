"""Tasks of listening and speaking: recognition, translation, spoken questions, and replies aloud."""

import numpy as np

from . import recordings, sentences, speech, texts, unit_selection, word_cuts
from .sample import HEARING_RATE, Sample, audio, user
from .speech import REPLY_SPEAKERS, heard, in_a_room, in_any_room
from .splits import pick
from .words import LANGUAGES

TRANSCRIBE = "Write down what you hear."


def voice(
    rng: np.random.Generator, text: str, split: str, slowest: float = 0.9, own: float = 0.4
) -> tuple[np.ndarray, str]:
    """`text` as the model hears it, (samples,) at 16 kHz, at `slowest` to 1.1 times the voice's pace, and who says it.

    Training mixes the source voice (a share of `own`), the named speakers and speakers made up on the spot; the test
    is the source voice (a new sentence is what it tests; `speech.HELD_OUT_SPEAKERS` are asked for where the voice is
    what is new)."""
    seed, speed = int(rng.integers(2**31)), float(rng.uniform(slowest, 1.1))
    if split == "test" or rng.random() < own:
        wave, name = speech.say(text, "heart", seed, speed), "heart"
    elif rng.random() < 0.5:
        name = pick(rng, speech.speakers("train"))
        wave = speech.say(text, name, seed, speed)
    else:
        wave, name = speech.utter(text, speech.random_speaker(rng), seed, speed), "someone"
    return (in_a_room if split == "test" else in_any_room)(heard(wave), rng), name


def asr(rng: np.random.Generator, split: str) -> Sample:
    """A new sentence, written down. One training item in three is made of the recorded prompts' words."""
    if split == "train" and rng.random() < 0.33:
        return prompt(rng, split)
    text = sentences.sentence(rng, split)
    return written_down(text, *voice(rng, text, split))


def prompt(rng: np.random.Generator, split: str) -> Sample:
    """Words of training's recorded prompts (prompt_like) by a voice, mostly not the source's, written down.

    Prompts are read slowly, at two thirds of the source voice's pace (0.59 to 0.84), and begin at once."""
    text = prompt_like(rng)
    wave, name = voice(rng, text, split, slowest=0.55, own=0.15)
    return written_down(text, wave[int(rng.uniform(0, 0.25) * HEARING_RATE) :], name)


def written_down(text: str, wave: np.ndarray, name: str) -> Sample:
    """`text`, said in `wave` (samples,) at 16 kHz by `name`, to be written down."""
    meta = {"key": sentences.key_of(text), "voice": name}
    return Sample([user(TRANSCRIBE, audio(wave))], "asr", text, meta=meta)


def prompt_like(rng: np.random.Generator) -> str:
    """A training prompt, the beginning of one with the end of another, or up to eight words of all prompts, half the
    time one: those words are what training's prompts lack (41 in 100 of the test's)."""
    known, kind = recordings.transcripts("train"), rng.random()
    first, second = pick(rng, known), pick(rng, known)
    if kind < 0.2:
        return first
    if kind < 0.8:
        many = int(rng.integers(2, 9)) if rng.random() < 0.5 else 1
        text = " ".join(pick(rng, recordings.vocabulary()) for _ in range(many)).capitalize()
    else:
        one, two = first.rstrip(".!?").split(), second.split()
        text = " ".join(one[: max(1, len(one) // 2)] + two[len(two) // 2 :])
    several = len(text.split()) > 1
    held_out = {sentences.key_of(t) for t in recordings.transcripts("test")} if several else set()
    return first if sentences.key_of(text) in held_out or len(text.split()) > 14 else text


def asr_recorded(rng: np.random.Generator, split: str) -> Sample:
    """A prompt read by a real person, written down; the test's prompts were never heard. Most of training's items are
    words cut out of its prompts, in another order (word_cuts.py)."""
    if split == "train":
        text, wave, _ = recorded(rng)
        wave = in_any_room(wave, rng)
    else:
        prompt = pick(rng, recordings.prompts(split))
        text, wave = prompt.text, prompt.wave
    meta = {"key": sentences.key_of(text), "voice": "recorded"}
    return Sample([user(TRANSCRIBE, audio(wave))], "asr_recorded", text, meta=meta)


def recorded(rng: np.random.Generator) -> word_cuts.Cut:
    """What the recorded person says in training, or is made to say: prompts, their words in another order, and words of
    all prompts from their sounds, but none of the test's prompts. A little slower or faster, the pitch with it."""
    kind = rng.random()
    made = None
    while made is None and kind < 0.4:
        text = prompt_like(rng)
        made = None if sentences.key_of(text) in word_cuts.tested() else unit_selection.phrase(text, rng)
    text, wave, phonemes = made or (word_cuts.in_another_order(rng) if kind < 0.82 else word_cuts.whole(rng))
    wave = speech.resample(wave, 100, int(rng.integers(88, 113)))
    frames = -(-len(wave) // word_cuts.HOP)
    return text, wave, phonemes[np.arange(frames) * len(phonemes) // max(frames, 1)]


def speech_translation(rng: np.random.Generator, split: str) -> Sample:
    """An English sentence heard, its translation written. What was heard is thought first."""
    english, language, translation = sentences.sentence_pair(rng, split)
    wave, name = voice(rng, english, split)
    meta = {"key": f"{sentences.key_of(english)} {language}", "voice": name, "english": english, "language": language}
    question = f"Translate into {LANGUAGES[language]}."
    return Sample([user(question, audio(wave))], "speech_translation", translation, meta=meta, thought=english)


def spoken_qa(rng: np.random.Generator, split: str) -> Sample:
    """The questions of `text_qa`, asked aloud, with no text beside them. Thought is what was heard, and what is looked
    up before it is answered."""
    key, asked = texts.question_and_answer(rng, split)
    wave, name = voice(rng, asked.question, split)
    meta = {"key": key, "kind": asked.kind, "question": asked.question, "voice": name}
    thought = " ".join(filter(None, (asked.question, asked.thought)))
    return Sample([user("", audio(wave))], "spoken_qa", asked.answer, meta=meta, thought=thought)


def reply_speaker(rng: np.random.Generator, split: str) -> str:
    """Who answers: the source voice every other time."""
    return "heart" if split == "test" or rng.random() < 0.5 else pick(rng, REPLY_SPEAKERS)


def reply_voice(rng: np.random.Generator, text: str, split: str) -> tuple[np.ndarray, str]:
    """`text` as an answer aloud, (samples,) at 24 kHz, and the speaker."""
    name = reply_speaker(rng, split)
    return speech.say(text, name, int(rng.integers(2**31))), name


def say_this(rng: np.random.Generator, split: str) -> Sample:
    """On "Say: ..." the same sentence, aloud: what a talker learns most from."""
    sample = to_say(rng, split)
    sample.speech, sample.speaker = reply_voice(rng, sample.answer, split)
    return sample


def to_say(rng: np.random.Generator, split: str) -> Sample:
    """`say_this` before anybody has said it: what a thinker learns from."""
    style = rng.random()
    make = sentences.sentence if style < 0.7 else sentences.paused_sentence if style < 0.85 else sentences.hard_sentence
    text = make(rng, split)
    meta = {"key": sentences.key_of(text), "kind": make.__name__}
    return Sample([user(f"Say: {text}")], "say_this", text, meta=meta)


def spoken_reply(rng: np.random.Generator, split: str) -> Sample:
    """A typed or spoken question, answered aloud."""
    made = (texts.text_qa, spoken_qa)[int(rng.integers(2))](rng, split)
    english = made.meta["kind"] != "translation"  # the voice reads English only
    if english:
        made.speech, made.speaker = reply_voice(rng, made.answer, split)
    made.task = "spoken_reply"
    return made if english else spoken_reply(rng, split)
