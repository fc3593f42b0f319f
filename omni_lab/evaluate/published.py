"""The field's own test sets, in the layout in which they are published, and their measures.

OmniBench (Li et al. 2024) as accuracy on four options; LibriSpeech (Panayotov et al. 2015) as word error rate of the
whole set; seed-tts-eval (Anastassiou et al. 2024) as mean word error rate of utterances and mean similarity to the
prompt's voice. A figure can be set beside a published one only if the recogniser and the judge of voices are the
published ones too (Whisper large-v3 and WavLM-large): both are arguments, and what is reported names them.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import readers
from ..data.sample import HEARING_RATE, Sample, audio, image, user
from ..errors import DataError
from ..processing.thoughts import without_thoughts
from . import ears, metrics
from .outcome import Outcome, accuracy

LETTERS = "ABCD"
Hears = Callable[[np.ndarray, int], str]  # (samples,), rate -> text
Voiceprint = Callable[[np.ndarray, int], np.ndarray]  # (samples,), rate -> (dim,)


def omnibench(path: str | Path, folder: str | Path, report: readers.Report | None = None) -> Iterator[Sample]:
    """OmniBench's questions on a picture and a sound together: samples whose answer is the letter of an option.

    path: `dataset/batch-5_1142_20240817.jsonl`, a question a line; folder: `mm_data`, with `image/` and `audio/`. Bad
    records are counted in `report`, and too many of them raise DataError, as in `data.readers`.
    """
    folder = Path(folder)

    def read(line: str) -> Sample:
        record = json.loads(line)
        options, answer = list(record["options"]), record["answer"]
        if answer not in options or len(options) != len(LETTERS):
            raise ValueError(f"the answer {answer!r} is none of {len(options)} options")
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
        asked = "\n".join([record["question"], *lines, "Answer with the letter of the right option."])
        picture = image(readers.open_picture(folder / "image" / record["image_path"]))
        sound = audio(readers.open_sound(folder / "audio" / record["audio_path"]))
        meta = {"key": str(record["index"]), "kind": record["task type"], "options": options}
        return Sample([user(asked, picture, sound)], "omnibench", LETTERS[options.index(answer)], meta=meta)

    return readers.each(str(path), ((f"line {i}", line) for i, line in written(path)), read, report)


def written(path: str | Path) -> Iterator[tuple[int, str]]:
    """Line numbers and lines of a text file, without the blank ones. Raises DataError naming the file."""
    for number, line in enumerate(readers.lines_of(path), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{path}: cannot be read (line {number} is not UTF-8)") from None
        if text.strip():
            yield number, text


def chosen_letter(reply: str, options: Sequence[str] = ()) -> str:
    """The letter that a reply to a question with options means; "" when it means none, or several.

    A letter that stands alone or before a point or bracket counts first ("a" before a word is the article); else the
    one option that the reply quotes.
    """
    reply = without_thoughts(reply).strip()
    small = LETTERS.lower()
    found = re.match(rf"\W*([{LETTERS}])(?:[.):,]|\W*$)", reply) or re.search(
        rf"(?i:answer|option)\W+(?i:is\W+)?([{LETTERS}]\b(?!')|[{small}](?=[.):,]|\W*$))", reply
    )
    if found:
        return found[1].upper()
    said = f" {metrics.essence(reply)} "
    quoted = [i for i, option in enumerate(options) if f" {metrics.essence(option)} " in said]
    return LETTERS[quoted[0]] if len(quoted) == 1 else ""


def score_choices(samples: Sequence[Sample], replies: Sequence[str]) -> Outcome:
    """Accuracy on questions with options, in all and by kind."""

    def right(sample: Sample, reply: str) -> float:
        return float(chosen_letter(reply, sample.meta.get("options", ())) == sample.answer)

    return accuracy(samples, replies, chance=1 / len(LETTERS), right=right)


def score_librispeech(samples: Sequence[Sample], replies: Sequence[str]) -> Outcome:
    """Word error rate over all words of the set, after Whisper's English normaliser on both sides."""
    value = metrics.word_error_rate([s.answer for s in samples], replies)
    return Outcome("word error rate", value, 1.0, 1.0, len(samples))


@dataclass(frozen=True)
class Utterance:
    """One line of seed-tts-eval's meta.lst."""

    name: str  # the synthesised file is NAME.wav
    prompt_text: str
    prompt: Path  # the recording whose voice is wanted
    text: str  # what is to be said


def seed_tts(path: str | Path) -> list[Utterance]:
    """The lines of `meta.lst`: NAME|PROMPT TEXT|PROMPT WAV|TEXT, with the true recording behind where there is one.

    Raises DataError naming the file and the line.
    """
    path, found = Path(path), []
    for number, line in written(path):
        parts = line.strip().split("|")
        if len(parts) not in (4, 5):
            raise DataError(f"{path}: line {number} has {len(parts)} fields, expected 4 or 5 with | between")
        found.append(Utterance(Path(parts[0]).stem, parts[1], path.parent / parts[2], parts[3]))
    if not found:
        raise DataError(f"{path}: no utterances")
    return found


def spaced(text: str) -> str:
    """`text` with spaces around each Chinese character."""
    return re.sub(r"([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])", r" \1 ", text)


def score_seed_tts(
    utterances: Sequence[Utterance],
    folder: str | Path,
    hear: Hears = ears.write_down,
    voiceprint: Voiceprint = ears.voiceprint,
) -> dict[str, float]:
    """{"WER", "SIM", "n"} of the synthesised `folder`/NAME.wav: means over utterances, as the set's own script takes.

    WER of an utterance is its errors over its words, so a short one weighs as much as a long one; Chinese is written
    without spaces, and each of its characters counts as a word. SIM is the cosine
    with the prompt's voice. Raises DataError when a file is missing: a set scored in part would look better.
    """
    errors, alike = [], []
    for utterance in utterances:
        path = Path(folder) / f"{utterance.name}.wav"
        for needed in (path, utterance.prompt):
            if not needed.is_file():
                raise DataError(f"{needed}: missing; every utterance of the set is scored")
        spoken, prompt = readers.open_sound(path), readers.open_sound(utterance.prompt)
        said, heard = spaced(utterance.text), spaced(hear(spoken, HEARING_RATE))
        errors.append(metrics.word_error_rate([said], [heard]))
        prints = voiceprint(spoken, HEARING_RATE), voiceprint(prompt, HEARING_RATE)
        alike.append(metrics.similarity(*prints))
    return {"WER": float(np.mean(errors)), "SIM": float(np.mean(alike)), "n": len(utterances)}
