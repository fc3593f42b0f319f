"""Tasks of listening: speech, sounds, music."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...data import music as music_world
from ...data import recordings, sounds
from ...data.sample import HEARING_RATE, Sample, audio, user
from ...data.spoken import TRANSCRIBE
from .. import ears
from ..asking import ask, items
from ..metrics import word_error_rate
from ..outcome import Evaluation, Outcome, accuracy, commonest


def waves(samples: Sequence[Sample]) -> list:
    """The sound of each sample's last turn, at 16 kHz."""
    return [next(p["audio"] for p in s.messages[-1]["content"] if p["type"] == "audio") for s in samples]


def recognition(model: Any, samples: Sequence[Sample], progress: str) -> Outcome:
    """WER of the model, and of the independent recogniser on the same sound; a silent listener has 1."""
    replies = ask(model, samples, progress=progress)
    references = [s.answer for s in samples]
    whisper = ears.write_all_down(waves(samples), HEARING_RATE)
    parts = {"independent recogniser": word_error_rate(references, whisper)}
    return Outcome("WER", word_error_rate(references, replies), 1.0, 1.0, len(samples), parts)


def asr(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """New sentences in the voice of training."""
    return recognition(model, items("asr", count, seed), "asr" * progress)


def asr_recorded(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """All held-out prompts of the recorded person (or the first `count`)."""
    prompts = recordings.prompts("test")[:count]
    samples = [Sample([user(TRANSCRIBE, audio(p.wave))], "asr_recorded", p.text, meta={"key": p.key}) for p in prompts]
    return recognition(model, samples, "asr_recorded" * progress)


def speech_translation(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """English heard, the whole German, French or Spanish sentence right."""
    samples = items("speech_translation", count, seed)
    replies = ask(model, samples, progress="speech_translation" * progress)
    return accuracy(samples, replies, chance=0.0, by="language")


def sound_events(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """What makes the sound, of eighteen kinds."""
    samples = items("sound_events", count, seed)
    replies = ask(model, samples, progress="sound_events" * progress)
    found = accuracy(samples, replies, chance=1 / len(sounds.LABELS), by="label")  # by sound: each has one answer
    return replace(found, baseline=commonest(samples))


def music(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """Key (with mode), metre, and tempo within 4 %: all three right; each alone in `parts`."""
    samples = items("music", count, seed)
    replies = ask(model, samples, progress="music" * progress)
    scores = [musical(s.meta["piece"], reply) for s, reply in zip(samples, replies, strict=True)]
    rates = [sum(score[place] for score in scores) / count for place in range(3)]
    whole = sum(all(score) for score in scores) / count
    alone = 1 / (len(music_world.KEYS) * len(music_world.MODES))
    slow, fast = music_world.SLOWEST, music_world.FASTEST
    tempo = sum(0.08 * bpm for bpm in range(slow, fast + 1, 2)) / 46 / (fast - slow)
    parts = dict(zip(("key", "metre", "tempo"), rates, strict=True)) | {"chance of the key": alone}
    return Outcome("key, metre and tempo right", whole, alone * 0.5 * tempo, 0.0, count, parts)


def musical(piece: music_world.Piece, reply: str) -> tuple[bool, bool, bool]:
    """Whether key, metre and tempo of a reply are right."""
    told = music_world.parse(reply)
    if told is None:
        return False, False, False
    key = f"{music_world.KEYS[piece.key]} {piece.mode}".lower()
    return told[0] == key, told[1] == f"{piece.beats}/4", abs(told[2] - piece.tempo) <= 0.04 * piece.tempo


def audio_order(model: Any, count: int, seed: int, progress: bool) -> Outcome:
    """Which of two sounds came first, or last."""
    samples = items("audio_order", count, seed)
    return accuracy(samples, ask(model, samples, progress="audio_order" * progress), chance=0.5)


TASKS = {
    "asr": Evaluation(asr, 0.018, "LibriSpeech test-clean", lower_is_better=True),
    "asr_recorded": Evaluation(asr_recorded, 0.034, "LibriSpeech test-other", lower_is_better=True),
    "speech_translation": Evaluation(speech_translation, 0.302, "CoVoST2 en-de (BLEU)"),
    "sound_events": Evaluation(sound_events, 0.6787, "MMAU sound"),
    "music": Evaluation(music, 0.88, "GiantSteps tempo"),
    "audio_order": Evaluation(audio_order, 0.656, "MMAU average"),
}
