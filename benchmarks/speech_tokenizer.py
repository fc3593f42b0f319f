"""What should a code be? Codebooks of several makes, side by side, through the shipped vocoder and without a DiT.

    python -m benchmarks.speech_tokenizer [--sentences 48] [--minutes 20] [--checkpoint FOLDER]

Each codebook but the checkpoint's is fitted by k-means to the same amount of speech, and codes held-out sentences of
the source voice and, with the same timing, of speakers never heard. What the codes stand for goes to the vocoder as it
is, and an independent recogniser writes down what it hears. A small network tells how many phonemes the codes keep.
Writes benchmarks/results/speech_tokenizer.md.
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni_lab.codec import mel as mels
from omni_lab.codec.speech_tokenizer import FRAMES_PER_CODE, SpeechTokenizer, pairs
from omni_lab.config import SpeechTokenizerConfig
from omni_lab.data import sentences, speech
from omni_lab.data.folders import samples_folder
from omni_lab.data.splits import generator
from omni_lab.evaluate import ears
from omni_lab.evaluate.metrics import word_error_rate
from omni_lab.lab.codebook import k_means
from omni_lab.omni import OmniModel
from omni_lab.runtime import hardware
from omni_lab.train import speech_bank
from omni_lab.train.recipes import find

OUT = Path(__file__).parent / "results" / "speech_tokenizer.md"
SOURCE = "heart"
LOUD = 6.0  # nats below the loudest frame within which a frame is speech: only those make an utterance's mean
DOUBT = 20  # how often a code must have been seen before what followed it counts as much as codes' overall shares
HISTORY = """\
On 2026-11-22, before it was taken out, the tokenizer that this one replaced was measured: an encoder with finite scalar
quantisation (Mentzer et al. 2024; 1024 codes), trained for 63 minutes to rebuild the mel and to spell. Its own decoder
lost 15 % of the words of 10 sentences, of which the vocoder on the real mel lost 3.7 %. Its codes had 3.56 nats by
bigrams counted on 500 sentences, where those of k-means on the source voice had 2.71."""


@dataclass(frozen=True)
class Way:
    """One make of codebook."""

    size: int
    everybody: bool = False  # fitted to all the bank's speakers, in place of the source voice
    centred: bool = False  # with each utterance's mean removed, which is given back afterwards

    def __str__(self) -> str:
        words = f"{self.size}, {'everybody' if self.everybody else 'source voice'}"
        return words + (", utterance mean removed" if self.centred else "")


@dataclass(frozen=True)
class Rendition:
    """A sentence never trained on, by the source voice and by another in the same timing."""

    text: str
    waves: tuple[Tensor, Tensor]  # 24 kHz
    mels: tuple[Tensor, Tensor]  # (frames, 80), as many frames in both


def renditions(count: int) -> list[Rendition]:
    """Held-out sentences, each by the source voice and by one of the speakers never heard, in turn."""
    made, others = [], itertools.cycle(speech.HELD_OUT_SPEAKERS)
    for i in range(count):
        text = sentences.sentence(generator("speech tokenizer benchmark", "test", 0, i), "test")
        both = [speech.utter(text, replace(speech.SPEAKERS[name], speed=1.0), i) for name in (SOURCE, next(others))]
        hop = FRAMES_PER_CODE * mels.HOP
        samples = min(len(wave) for wave in both) // hop * hop
        one, other = (torch.from_numpy(wave[:samples].copy()) for wave in both)
        made.append(Rendition(text, (one, other), (mels.mel_spectrogram(one), mels.mel_spectrogram(other))))
    return made


def bank(everybody: bool, minutes: float) -> list[Tensor]:
    """Mels of the speech bank's training side: so many minutes of the source voice, or of all speakers."""
    found: list[Tensor] = []
    for number in itertools.count():
        pair = speech_bank.shard("train", number) if everybody else ()
        clips = [clip for two in pair for clip in two] if everybody else speech_bank.solo("train", number)
        for clip in clips:
            if sum(map(len, found)) >= minutes * 60 * mels.SAMPLE_RATE / mels.HOP:
                return found
            found.append(clip.mel)
    return found


def split_mean(mel: Tensor, way: Way) -> tuple[Tensor, Tensor]:
    """What is coded, and what is added again: a mel (frames, bands) without its mean and that mean, or all and zero."""
    if not way.centred:
        return mel, mel.new_zeros(mel.shape[1])
    loudness = mel.mean(1)
    mean = mel[loudness > loudness.max() - LOUD].mean(0)
    return mel - mean, mean


def of_pairs(entries: Tensor) -> SpeechTokenizer:
    """A tokenizer that measures its distances between pairs of frames, with this codebook (codes, 2 * bands)."""
    made = SpeechTokenizer(SpeechTokenizerConfig(codebook_size=len(entries), mel_dim=entries.shape[1] // 2))
    with torch.no_grad():
        made.codebook.copy_(entries)
    return made.eval().requires_grad_(False)


def coded(mel: Tensor, way: Way, tokenizer: SpeechTokenizer) -> tuple[Tensor, Tensor]:
    """Codes of a mel and the mel that they stand for: (frames // 2,), (frames // 2 * 2, bands)."""
    rest, mean = split_mean(mel, way)
    codes = tokenizer.codes(rest)
    return codes, tokenizer.mel(codes) + mean


def bigram_nats(learnt: Sequence[Tensor], judged: Sequence[Tensor], size: int) -> float:
    """Nats a code of `judged` when it is guessed from the code before, by counts on `learnt`.

    What followed a code seen n times weighs n / (n + DOUBT); the rest is the share of each code overall, half a count
    added to each."""
    before, after = neighbours(learnt)
    followed = torch.bincount(before * size + after, minlength=size * size).view(size, size).double()
    seen = followed.sum(1)  # (size,)
    overall = torch.bincount(torch.cat(list(learnt)), minlength=size) + 0.5
    overall = overall.double() / overall.sum()
    before, after = neighbours(judged)
    weight = (seen / (seen + DOUBT))[before]
    share = followed[before, after] / seen[before].clamp(min=1)
    return float(-(weight * share + (1 - weight) * overall[after]).log().mean())


def neighbours(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """All codes that have one before them in their row, and those before: (n,), (n,)."""
    return torch.cat([row[:-1] for row in rows]), torch.cat([row[1:] for row in rows])


def perplexity(codes: Tensor, size: int) -> float:
    """How many codes are in use in effect."""
    return float(torch.special.entr(torch.bincount(codes, minlength=size) / len(codes)).sum().exp())


@dataclass(frozen=True)
class Learners:
    """How the network that tells phonemes is trained."""

    sentences: int = 400
    judged: int = 80
    steps: int = 900
    width: int = 128
    rate: float = 2e-3


LEARNERS = Learners()


class Teller(nn.Module):
    """Codes (batch, n), or mel pairs (batch, n, dim), of a sentence -> logits of the phoneme of each."""

    def __init__(self, size: int, dim: int, width: int) -> None:
        super().__init__()
        self.read = nn.Embedding(size, width) if size else nn.Linear(dim, width)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.tell = nn.Linear(width, len(speech.PHONEMES) + 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.read(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            hidden = hidden + F.gelu(layer(norm(hidden).transpose(1, 2)).transpose(1, 2))
        return self.tell(hidden)


def phonemes_told(rows_of: Callable[[Tensor], Tensor], size: int = 0, learners: Learners = LEARNERS) -> str:
    """Share of the source voice's sounding moments whose phoneme is told by what `rows_of` makes of a mel.

    rows_of: mel (frames, bands) -> codes (frames // 2,) below `size`, or vectors (frames // 2, dim) where that is 0."""
    learnt, judged = (
        [(rows_of(clip.mel), torch.from_numpy(clip.phonemes[1::FRAMES_PER_CODE].astype(np.int64))) for clip in clips]
        for clips in (timed("train", learners.sentences), timed("test", learners.judged))
    )
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        teller = Teller(size, learnt[0][0].shape[-1], learners.width)
        optimiser = torch.optim.AdamW(teller.parameters(), learners.rate)
        falling = torch.optim.lr_scheduler.OneCycleLR(optimiser, learners.rate, learners.steps, pct_start=0.06)
        for _ in range(learners.steps):
            some = [learnt[i] for i in torch.randint(len(learnt), (8,)).tolist()]
            x = nn.utils.rnn.pad_sequence([row for row, _ in some], True)
            y = nn.utils.rnn.pad_sequence([labels for _, labels in some], True, -100)
            loss = F.cross_entropy(teller(x).flatten(0, 1), y.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            falling.step()
    right = torch.cat([(teller(row[None])[0].argmax(1) == labels)[labels > 0] for row, labels in judged])
    return f"{right.float().mean():.1%}"


def timed(split: str, count: int) -> list[speech_bank.Clip]:
    """The first sentences of the source voice's bank, whose phonemes are known."""
    found: list[speech_bank.Clip] = []
    for number in itertools.count():
        found += speech_bank.solo(split, number, min(count, speech_bank.SOLO))
        if len(found) >= count:
            return found[:count]


@dataclass(frozen=True)
class Trial:
    """What every codebook is tried on."""

    vocoder: nn.Module
    said: list[Rendition]
    learnt: list[Tensor]  # mels of the source voice on whose codes bigrams are counted
    judged: list[Tensor]  # and those on which they guess

    def wer(self, waves: Sequence[Tensor]) -> str:
        """Words wrong in 24 kHz waves, one a sentence, as the recogniser hears them."""
        heard = ears.write_all_down([wave.numpy() for wave in waves], mels.SAMPLE_RATE)
        return f"{word_error_rate([r.text for r in self.said], heard):.1%}"

    def vocoded(self, spoken: Sequence[Tensor]) -> str:
        """Words wrong in mels (frames, bands), one a sentence, through the vocoder."""
        return self.wer([self.vocoder(mel[None])[0] for mel in spoken])

    def row(self, name: str, way: Way, tokenizer: SpeechTokenizer) -> str:
        """A codebook's line of the table."""
        own, other = ([coded(r.mels[voice], way, tokenizer) for r in self.said] for voice in (0, 1))
        spoken = [[mel for _, mel in voice] for voice in (own, other)]
        real = torch.cat([r.mels[0] for r in self.said])
        same = [a == b for (a, _), (b, _) in zip(own, other, strict=True)]
        learnt, judged = ([coded(mel, way, tokenizer)[0] for mel in some] for some in (self.learnt, self.judged))
        told = phonemes_told(lambda mel: coded(mel, way, tokenizer)[0], way.size)
        figures = [
            f"{(torch.cat(spoken[0]) - real).abs().mean():.3f}",
            f"{perplexity(torch.cat(judged), way.size):.0f}",
            f"{bigram_nats(learnt, judged, way.size):.2f}",
            f"{torch.cat(same).float().mean():.1%}",
            told,
        ]
        return "| " + " | ".join([name, *figures, *(self.vocoded(voice) for voice in spoken)]) + " |"


def table(ways: Sequence[Way], model: OmniModel, said: list[Rendition], minutes: float, rounds: int) -> str:
    """Rows of recordings, of the vocoder, of the checkpoint's own codebook, and of every way."""
    one_voice = bank(False, minutes)
    half = len(one_voice) // 2
    judged = [clip.mel for clip in speech_bank.solo("test", 0)[:half]]
    trial = Trial(model.token2wav.code2wav_bigvgan_model, said, one_voice[:half], judged)
    heads = (
        "codebook",
        "mel error (nats)",
        "perplexity",
        "bigram (nats a code)",
        "same code in both voices",
        "phonemes",
    )
    lines = ["| " + " | ".join([*heads, "WER", "WER, other voice"]) + " |", "|---" * 8 + "|"]

    def add(line: str) -> None:
        print(line, f"({time.process_time():.0f} s of processor time)", flush=True)
        lines.append(line)

    told = phonemes_told(pairs)
    for name, heard, measure, rows in (
        ("recordings", "", trial.wer, [[r.waves[voice] for r in said] for voice in (0, 1)]),
        ("vocoder on the real mel", told, trial.vocoded, [[r.mels[voice] for r in said] for voice in (0, 1)]),
    ):
        add(f"| {name} | | | | | {heard} | {measure(rows[0])} | {measure(rows[1])} |")
    shipped = model.speech_tokenizer
    size = shipped.config.codebook_size
    add(trial.row(f"**{size}, the checkpoint's own**", Way(size), shipped))
    began = find("speech_tokenizer").at("cpu").build()["tokenizer"].requires_grad_(False)
    add(trial.row(f"{len(began.codebook)}, where its recipe begins", Way(len(began.codebook)), began))
    for way in ways:
        heard = bank(True, minutes) if way.everybody else one_voice
        vectors = torch.cat([pairs(split_mean(mel, way)[0]) for mel in heard])
        add(trial.row(str(way), way, of_pairs(k_means(vectors, way.size, rounds))))
    return "\n".join(lines)


def page(lines: str, model_folder: Path, said: Sequence[Rendition], minutes: float, rounds: int) -> str:
    """The whole file, with what was measured and how."""
    words = sum(len(r.text.split()) for r in said)
    seconds = sum(len(r.waves[0]) for r in said) / mels.SAMPLE_RATE
    return f"""# What should a code be? Codebooks over pairs of mel frames, preset nano

{hardware("cpu").name}, float32, torch {torch.__version__}; vocoder of the checkpoint `{model_folder.name}`.
{len(said)} held-out sentences ({words} words, {seconds:.0f} s), each by the source voice and, in the same timing, by a
speaker never heard. k-means: {rounds} rounds on {minutes:g} min of speech; the checkpoint's own codebook was fitted by
`omni-lab train speech_tokenizer`. No DiT: the mel that the codes stand for goes straight to the vocoder.

- *mel error*: mean absolute difference from the real log-mel, source voice.
- *perplexity*: codes in use in effect, in other sentences of the source voice. *bigram*: how hard the next of these
  codes is to guess from the one before, by counts on {minutes / 2:g} min that the codebook was fitted to as well; what
  followed a code seen n times weighs n / (n + {DOUBT}), the rest is each code's overall share with half a count added.
- *same code in both voices*: share of moments at which both speakers' renditions have one code.
- *phonemes*: of the source voice's moments that sound, in sentences never learnt from, that share whose phoneme a
  small network tells by the codes around it ({LEARNERS.steps} steps on {LEARNERS.sentences} sentences); in the
  vocoder's row by the mel itself. What codes do not keep, no DiT can say.
- *WER*: words that the recogniser heard wrong; *other voice*: of the rendition by the speaker never heard.
- *where its recipe begins*: k-means between discriminants of phonemes, before it learns by what is read from its codes.
- *utterance mean removed*: known only when the utterance is over, so such codes cannot be made while one speaks.

{lines}

{HISTORY}
"""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=48)
    parser.add_argument("--minutes", type=float, default=20.0, help="of speech to fit a codebook to")
    parser.add_argument("--rounds", type=int, default=12, help="of k-means")
    parser.add_argument("--size", type=int, default=1024, help="of the codebooks that are fitted in several ways")
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512, 2048], help="others, on the source voice")
    parser.add_argument("--checkpoint", type=Path, default=samples_folder() / "checkpoints" / "nano")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    given = parsed()
    torch.set_num_threads(given.threads)
    model = OmniModel.from_pretrained(given.checkpoint, "cpu", torch.float32)
    said = renditions(given.sentences)
    ways = [Way(given.size, everybody, centred) for centred in (False, True) for everybody in (False, True)]
    ways += [Way(size) for size in given.sizes]
    lines = table(ways, model, said, given.minutes, given.rounds)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = given.out.with_name(f".{given.out.name}.{os.getpid()}")
    temporary.write_text(page(lines, given.checkpoint, said, given.minutes, given.rounds), encoding="utf-8")
    os.replace(temporary, given.out)
    print(f"written: {given.out}")


if __name__ == "__main__":
    main()
