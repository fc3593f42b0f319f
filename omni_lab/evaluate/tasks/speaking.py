"""Tasks of speaking: words, voices and pauses of what the model says aloud, by independent ears."""

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ...data import sentences, speech
from ...data.sample import SPEAKING_RATE, Sample, user
from ...data.splits import generator
from .. import dpo_change, ears
from ..asking import POINTS, ask_aloud
from ..metrics import pause_errors as count_pause_errors
from ..metrics import similarity, word_error_rate
from ..outcome import Evaluation, Outcome

ENROLMENT = 10.0  # seconds of a new speaker


def texts(kind: str, count: int, seed: int) -> list[str]:
    """Held-out sentences: "sentence", "paused_sentence" or "hard_sentence" of the grammar."""
    make = getattr(sentences, kind)
    return [make(generator(f"evaluate {kind}", "test", seed, index), "test") for index in range(count)]


def spoken(model: Any, lines: Sequence[str], seed: int, progress: str, speaker: str | None = None) -> list[np.ndarray]:
    """Each sentence as the model says it when asked to: float32 (samples,) at 24 kHz, empty where silent."""
    samples = [Sample([user(f"Say: {line}")], "say_this", line) for line in lines]
    return ask_aloud(model, samples, seed, speaker, progress)


def source(lines: Sequence[str], speaker: str = "heart") -> list[np.ndarray]:
    """The same sentences by the source voice, or a speaker made from it."""
    return [speech.say(line, speaker, seed=number) for number, line in enumerate(lines)]


def heard_errors(lines: Sequence[str], waves: Sequence[np.ndarray]) -> float:
    """WER of the independent recogniser on spoken sentences."""
    return word_error_rate(lines, ears.write_all_down(waves, SPEAKING_RATE))


@functools.cache
def source_errors(lines: tuple[str, ...]) -> float:
    """`heard_errors` of the source voice, which is the same for every model and task that asks for these sentences."""
    return heard_errors(lines, source(lines))


def speech_wer(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """WER of what the model says, as independent ears hear it, beside the WER of the source voice."""
    lines = texts("sentence", count, seed)
    ours = heard_errors(lines, spoken(model, lines, seed, "speech_wer" * progress))
    floor = source_errors(tuple(lines))
    return Outcome("WER", ours, 1.0, floor, count, {"source voice": floor})


@torch.inference_mode()
def resynthesis_wer_ratio(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """Wave -> codes -> wave: WER after, over the WER of the source itself (1: no word is lost on the way)."""
    lines = texts("sentence", count, seed)
    after = []
    for wave in tqdm(source(lines), desc="resynthesis" * progress, disable=not progress, leave=False):
        codes = model.speech_tokenizer.encode(torch.from_numpy(wave))
        after.append(model.say(codes, model.voice(None), seed=seed, num_steps=POINTS).numpy())
    floor, ours = source_errors(tuple(lines)), heard_errors(lines, after)
    ratio, worst = over(ours, floor, lines), over(1.0, floor, lines)
    return Outcome("WER ratio", ratio, worst, 1.0, count, {"resynthesised": ours, "source voice": floor})


def over(ours: float, floor: float, lines: Sequence[str]) -> float:
    """A ratio of two WERs; where the lower has no error at all, half an error stands in for it."""
    half = 0.5 / max(sum(len(line.split()) for line in lines), 1)
    return ours / max(floor, half)


def speaker_similarity(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """Speakers never heard, each enrolled from ten seconds: how often a sentence in the new voice is nearer to its own
    speaker than to another one, over all (sentence, other speaker) pairs. Chance is a half."""
    names = speech.HELD_OUT_SPEAKERS
    each = max(count // len(names), 1)
    references = {name: reference(name, seed) for name in names}
    prints = {name: ears.voiceprint(wave, SPEAKING_RATE) for name, wave in references.items()}
    lines, nearer, source_nearer, own = texts("sentence", each, seed), [], [], []
    speakers = dict(model.speakers)
    try:
        for name in names:
            model.enrol(references[name], SPEAKING_RATE, name, disclose=False)  # synthetic, and measured unmarked
            ours = spoken(model, lines, seed, f"as {name}" * progress, name)
            for wave, true in zip(ours, source(lines, name), strict=True):
                nearer += closer(ears.voiceprint(wave, SPEAKING_RATE), name, prints)
                source_nearer += closer(ears.voiceprint(true, SPEAKING_RATE), name, prints)
                own.append(similarity(ears.voiceprint(wave, SPEAKING_RATE), prints[name]))
    finally:
        model.speakers.clear()  # who was there before is there again, and nobody else
        model.speakers.update(speakers)
    parts = {"source voices": float(np.mean(source_nearer)), "cosine to own": float(np.mean(own))}
    baseline = 0.5  # one voice for all is nearer to the right one in half of the pairs
    return Outcome("pairs", float(np.mean(nearer)), 0.5, baseline, each * len(names), parts)


def reference(name: str, seed: int) -> np.ndarray:
    """Ten seconds of a speaker, of sentences that no test asks for."""
    rng = generator(f"enrolment {name}", "train", seed, 0)
    wave = np.zeros(0, np.float32)
    while len(wave) < ENROLMENT * SPEAKING_RATE:
        wave = np.concatenate([wave, speech.say(sentences.sentence(rng, "train"), name, seed)])
    return wave[: int(ENROLMENT * SPEAKING_RATE)]


def closer(voice: np.ndarray, name: str, prints: dict[str, np.ndarray]) -> list[bool]:
    """For every other speaker: is the voice nearer to `name`?"""
    own = similarity(voice, prints[name])
    return [own > similarity(voice, other) for other_name, other in prints.items() if other_name != name]


def pause_errors(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """Missing and misplaced pauses over the places between words, on sentences with commas."""
    lines = texts("paused_sentence", count, seed)
    ours = pause_rate(lines, spoken(model, lines, seed, "pause_errors" * progress))
    floor = pause_rate(lines, source(lines))
    commas = sum(line[:-1].count(",") for line in lines) / sum(len(line.split()) - 1 for line in lines)
    return Outcome("pause error rate", ours, 0.5, commas, count, {"source voice": floor})


def pause_rate(lines: Sequence[str], waves: Sequence[np.ndarray]) -> float:
    """Pause errors over the judged places; a sentence of which nothing was understood counts as all wrong."""
    errors = places = 0
    for line, heard in zip(lines, ears.all_words(waves, SPEAKING_RATE), strict=True):
        wrong, judged = count_pause_errors(line, heard)
        missed = 0 if judged else len(line.split()) - 1
        errors, places = errors + wrong + missed, places + judged + missed
    return errors / max(places, 1)


def dpo_wer_ratio(model: Any, count: int, seed: int, progress: bool, folder: str | Path | None) -> Outcome:
    """WER on hard sentences as the talker says them, over that with DPO's change to its weights taken back.

    Needs that change beside the checkpoint. Raises CheckpointError if it is not of this talker."""
    path = Path(folder) / dpo_change.FILE if folder else None
    if path is None or not path.is_file():
        return Outcome("WER ratio", None, 1.0, 1.0, 0, note=f"the checkpoint has no {dpo_change.FILE} to take back")
    lines = texts("hard_sentence", count, seed)
    after = heard_errors(lines, spoken(model, lines, seed, "after DPO" * progress))
    trained = copy.deepcopy(model.talker.state_dict())
    model.talker.load_state_dict(dpo_change.taken_back(trained, path))
    try:
        before = heard_errors(lines, spoken(model, lines, seed, "before DPO" * progress))
    finally:
        model.talker.load_state_dict(trained)
    parts = {"after": after, "before": before}
    return Outcome("WER ratio", over(after, before, lines), 1.0, 1.0, count, parts)


TASKS = {
    "speech_wer": Evaluation(speech_wer, 0.0232, "seed-tts-eval test-en", lower_is_better=True, ours_alone=True),
    "resynthesis_wer_ratio": Evaluation(resynthesis_wer_ratio, lower_is_better=True, ours_alone=True),
    "speaker_similarity": Evaluation(speaker_similarity, ours_alone=True),
    "pause_errors": Evaluation(pause_errors, lower_is_better=True, ours_alone=True),
    # hard set, 6.54 % after over 7.97 % before
    "dpo_wer_ratio": Evaluation(dpo_wer_ratio, 0.0654 / 0.0797, "seed-tts-eval hard", True, True, True),
}
