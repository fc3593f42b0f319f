"""Speech from the field's sets: a folder or a hub name in, waves with their words and speakers out.

Understood are the layouts of LibriSpeech and LJSpeech, and Parquet files as hubs store them (columns "audio" and
"text"; "speaker_id" where there are several). What comes out is like the sentences that ship (`speech.shipped`), so
that a lab can take one for the other.
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from ..errors import DataError
from . import readers
from .bank import Sound
from .sample import SPEAKING_RATE, Sample
from .shards import located
from .speech import resample


def load(source: str | Path, rate: int, limit: int | None = None) -> tuple[Sound, ...]:
    """The first `limit` sentences of a set, at `rate` Hz, about "text" and "speaker".

    source: a folder, or a hub name such as "openslr/librispeech_asr/clean/test" (the Parquet files of a set whose paths
    begin with "clean/test"), which are downloaded once. Raises DataError where there is neither, or no speech in it."""
    folder, tables = located(source)
    found = tuple(islice((sound_of(sample, rate) for sample in samples(folder, tables, rate)), limit))
    if not found:
        raise DataError(f"{folder}: no speech in it")
    return found


def samples(folder: Path, tables: list[Path], rate: int) -> Iterable[Sample]:
    """What the reader of this folder's layout makes of it. Raises DataError when it has none that is known."""
    if tables:
        return (sample for table in tables for sample in readers.parquet(table, rate=rate))
    if (folder / "metadata.csv").is_file():
        return readers.ljspeech(folder)
    if next(folder.rglob("*.trans.txt"), None):
        return readers.librispeech(folder, rate=rate)
    raise DataError(f"{folder}: neither *.parquet, metadata.csv (LJSpeech) nor *.trans.txt (LibriSpeech) in it")


def sound_of(sample: Sample, rate: int) -> Sound:
    """The spoken sentence of a sample, be it heard (ASR) or to be said. Raises DataError where nobody speaks."""
    if sample.speech is not None:
        waves = [resample(sample.speech, SPEAKING_RATE, rate)]
    else:
        waves = [part["audio"] for part in sample.messages[0]["content"] if part["type"] == "audio"]
    if not waves:
        raise DataError(f"{sample.meta['key']}: no sound in it, so no speech")
    text = sample.answer.capitalize() if sample.answer.isupper() else sample.answer  # LibriSpeech is all capitals
    about = {"text": text, "speaker": str(sample.meta.get("voice", "somebody"))}
    return Sound(str(sample.meta["key"]), waves[0], about)
