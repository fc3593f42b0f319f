"""Where are words, and voices, lost on the way from a text to a wave? One part of the codec after another is put in.

    python -m benchmarks.lost_words [CHECKPOINT ...] [--sentences 100] [--speakers 8]

The same sentences are heard by the independent recogniser as the source voice says them, as Griffin-Lim and the vocoder
make them from the source's own mel, as DiT and vocoder make them from the source's own codes, and as the whole model
says them. Voices likewise: how often a voice made up for this is nearer to its own ten seconds than to another's, as it
is, through the vocoder, and as the DiT makes it from the *source voice's* codes, as in a reply.

The sentences are of training's side: this is for deciding what to train next, and tests are not for that.
Writes benchmarks/results/lost_words.md.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from omni_lab.codec.mel import mel_spectrogram
from omni_lab.data import sentences, speech
from omni_lab.data.folders import samples_folder
from omni_lab.data.splits import generator
from omni_lab.evaluate import ears
from omni_lab.evaluate.asking import POINTS
from omni_lab.evaluate.tasks.speaking import closer, heard_errors, reference, spoken
from omni_lab.lab.codec_parts import GriffinLim
from omni_lab.omni import OmniModel
from omni_lab.runtime import hardware, threads

OUT = Path(__file__).parent / "results" / "lost_words.md"
EACH = 6  # sentences a speaker
NAMES = "lost words"  # of this benchmark's random numbers


def lines(count: int) -> list[str]:
    """Sentences of the grammar, of training's side."""
    return [sentences.sentence(generator(NAMES, "train", 0, i), "train") for i in range(count)]


def made_of_mel(vocoder: Callable, wave: np.ndarray) -> np.ndarray:
    """A wave (samples,) as a vocoder makes it from its mel: whole frames of it."""
    return vocoder(mel_spectrogram(torch.from_numpy(wave))[None])[0].numpy()


def made_of_codes(model: OmniModel, wave: np.ndarray, voice: str | None = None) -> np.ndarray:
    """A wave (samples,) as DiT and vocoder make it from its codes, in the first voice or in a named one."""
    codes = model.speech_tokenizer.encode(torch.from_numpy(wave))
    return model.say(codes, model.voice(voice), seed=0, num_steps=POINTS).numpy().reshape(-1)


def words_lost(model: OmniModel, texts: Sequence[str]) -> dict[str, float]:
    """WER after each part, for one checkpoint."""
    source = [speech.say(text, "heart", seed=number) for number, text in enumerate(texts)]
    vocoder = model.token2wav.code2wav_bigvgan_model
    ways: dict[str, Callable[[], list[np.ndarray]]] = {
        "the source voice": lambda: source,
        "its mel, Griffin-Lim": lambda: [made_of_mel(GriffinLim(), wave) for wave in source],
        "its mel, vocoder": lambda: [made_of_mel(vocoder, wave) for wave in source],
        "its codes, DiT and vocoder": lambda: [made_of_codes(model, wave) for wave in source],
        "its text: the whole model": lambda: spoken(model, texts, 0, ""),
    }
    return {name: heard_errors(texts, make()) for name, make in tqdm(ways.items(), desc="words", unit="way")}


def voices_lost(model: OmniModel, texts: Sequence[str], count: int) -> dict[str, float]:
    """Share of (sentence, other speaker) pairs in which a voice is nearer to its own speaker, after each part."""
    rng, prints = generator(NAMES, "train", 0, 10**6), {}
    source = [speech.say(text, "heart", seed=number) for number, text in enumerate(texts)]
    for number in range(count):
        someone = replace(speech.random_speaker(rng), name=f"made up {number}")
        speech.SPEAKERS[someone.name] = someone
        shown = reference(someone.name, 0)
        prints[someone.name] = ears.voiceprint(shown, speech.SPEAKING_RATE)
        model.enrol(shown, speech.SPEAKING_RATE, someone.name, disclose=False)  # synthetic, and measured unmarked
    found: dict[str, list[bool]] = {}
    try:
        for name in tqdm(prints, desc="voices", unit="speaker"):
            own = [speech.say(text, name, seed=number) for number, text in enumerate(texts)]
            ways = {
                "the speaker": own,
                "their mel, vocoder": [made_of_mel(model.token2wav.code2wav_bigvgan_model, wave) for wave in own],
                "the source voice's codes, DiT and vocoder": [made_of_codes(model, wave, name) for wave in source],
            }
            for way, waves in ways.items():
                found[way] = found.get(way, [])
                for wave in waves:
                    found[way] += closer(ears.voiceprint(wave, speech.SPEAKING_RATE), name, prints)
    finally:
        for name in prints:
            del speech.SPEAKERS[name]
    return {way: float(np.mean(nearer)) for way, nearer in found.items()}


def table(title: str, rows: dict[str, dict[str, float]]) -> list[str]:
    """A table with a column for each checkpoint: rows is {checkpoint: {way: figure}}."""
    names = list(rows)
    ways = list(rows[names[0]])
    head = [f"| {title} | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    return head + [
        f"| {way} | " + " | ".join(f"{100 * rows[name][way]:.1f} %" for name in names) + " |" for way in ways
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path, help="folders; none: the shipped one")
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--speakers", type=int, default=8)
    chosen = parser.parse_args()
    words, voices = {}, {}
    with threads(1), torch.no_grad():
        for folder in chosen.checkpoints or [samples_folder() / "checkpoints" / "nano"]:
            model = OmniModel.from_pretrained(folder, "cpu", torch.float32)
            words[folder.name] = words_lost(model, lines(chosen.sentences))
            voices[folder.name] = voices_lost(model, lines(EACH), chosen.speakers)
    pairs = EACH * chosen.speakers * (chosen.speakers - 1)
    report = [
        "# Where words and voices are lost", "",
        f"`python -m benchmarks.lost_words`, on {hardware().name}. The same {chosen.sentences} sentences of training's "
        "side in every row.", "",
        *table("words wrong, of", words), "",
        f"Voices made up for this, {chosen.speakers} of them, {pairs} pairs in every row.", "",
        *table("voice nearest to its own speaker, of", voices), "",
    ]  # fmt: skip
    OUT.write_text("\n".join(report))
    print("\n".join(report))


if __name__ == "__main__":
    main()
