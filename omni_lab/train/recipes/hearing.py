"""The audio encoder alone learns to spell what it hears, before a language model listens (CTC, Graves et al. 2006).

Next-token loss would have a decoder find out by itself which stretch of sound belongs to which word. Letters in order,
with no decoder in the way, teach the same encoder in a fraction of the time; the head that spells is thrown away.
Where it is known which phoneme is heard when (train/phoneme_bank.py), each half of a token's 40 ms is to say it.
Whole words are taught beside them, by the language model's own head (transcripts.py): fast speech has a letter for
nearly every token of sound, so that letters alone leave it hardly a choice of places.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import preset
from ...data import music, recordings, speech, spoken, unit_selection
from ...data.sample import Sample
from ...data.splits import generator, pick
from ...encoders.audio import token_count
from ...processing import audio as sound
from ...thinker import Thinker
from .. import phoneme_bank, speech_bank, transcripts
from ..nano import processor
from ..optimise import decay_groups
from ..parts import need_part, save_part
from ..recipe import Batch, Recipe, Settings

Timed = tuple[Any, str, Any]  # a wave at 16 kHz, its words, and the phoneme of each 10 ms, or None
PHONEMES = len(speech.PHONEMES) + 1
TIMED_SHARDS = 40  # of the phoneme bank at most: 22 MB each, in every process
TIMED_FOR_ONE = 5  # clips in one of them for a sentence of the other bank's

# What the bank does not hold: settings that say its share, and its maker.
BESIDE: dict[str, Callable[[np.random.Generator, str], Sample | Timed]] = {
    "recorded": lambda rng, _: phoneme_bank.said_by_the_person(rng),
    "prompts": spoken.prompt,
    "questions": spoken.spoken_qa,
    "music": music.music,
}


@dataclass(frozen=True)
class HearingSettings(Settings, speech_bank.Supply):
    recorded: float = 0.15  # share of clips in which a real person reads a prompt
    prompts: float = 0.0  # share in which other voices say words of those prompts
    questions: float = 0.0  # share of questions of `spoken_qa`
    music: float = 0.0  # share of music, of which key, metre and tempo are spelled
    words: float = 1.0  # weight of the loss that makes it say words, as the language model writes them, beside letters
    source: float = 0.0  # share of the bank's clips by the source voice alone, half of whose words stand in no order
    timed: float = 0.0  # share of clips of which it is known which phoneme is heard when; `recorded` is of those, too
    phonemes: float = 1.0  # weight of the loss in which every 20 ms say their phoneme
    start: str = ""  # folder with a `hearing` to go on from, with a schedule of its own; "": the part it reads
    hidden: int = 2  # stretches of time and of pitch blanked in each clip (SpecAugment, Park et al. 2019)


# By letters and words alone, after 72,000 clips two words of five were wrong, and as many of those learned from: it had
# not heard enough. After 213,000 one of ten was, after 300,000 one of thirteen. Of what phonemes add: docs/training.md.
CPU = HearingSettings(
    steps=18000, batch_size=12, learning_rate=1.5e-3, final=0.3, ema=0.998, evaluate_every=3000, save_every=100,
    workers=1, recorded=0.2, timed=0.5, music=0.2, source=0.5, hidden=0,
)  # fmt: skip


class Hearing(Recipe):
    """Sound -> letters, through the thinker's audio encoder."""

    name: ClassVar[str] = "hearing"
    reads: ClassVar[tuple[str, ...]] = ("language",)
    writes: ClassVar[tuple[str, ...]] = ("hearing",)
    scales: ClassVar[Mapping[str, Settings]] = {
        "smoke": replace(
            CPU,
            steps=2,
            batch_size=2,
            shards=1,
            sentences=4,
            workers=0,
            evaluate_every=0,
            log_every=1,
            ema=0.5,
            source=0.0,
        ),
        "cpu": CPU,
        "t4": replace(CPU, steps=4000, batch_size=48, shards=60, growth=0.05, workers=2, evaluate_every=1000),
        "gpu": replace(CPU, steps=2500, batch_size=128, shards=60, growth=0.05, workers=12, evaluate_every=500),
    }
    least = speech_bank.LEAST
    settings: HearingSettings

    def build(self) -> nn.Module:
        config = preset(self.settings.preset).thinker_config
        thinker = Thinker(config)
        if self.settings.start:
            need_part(Path(self.settings.start), self.name, thinker, self.name)
        else:
            need_part(self.parts, "language", thinker, self.name)
        letters = nn.Linear(config.audio_config.output_dim, len(transcripts.LETTERS) + 1)
        phonemes = nn.Linear(config.audio_config.output_dim, 2 * PHONEMES)
        return nn.ModuleDict({"thinker": thinker, "letters": letters, "phonemes": phonemes})

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        learning = (model["thinker"].audio_tower, model["letters"], model["phonemes"])
        named = [pair for part in learning for pair in part.named_parameters()]
        return {"main": decay_groups(named, self.settings)}

    def blocks(self, model: Any) -> list[nn.Module]:
        return [*model["thinker"].audio_tower.layers]

    def compile(self, model: Any) -> None:
        """Nothing: its clips have many lengths."""

    def warm(self) -> None:
        """Align the recorded prompts, once: each worker would take 20 seconds of its own for it."""
        if self.settings.recorded:
            unit_selection.places()

    def batch(self, index: int) -> Batch:
        pairs, rng = speech_bank.drawn(self.settings, self.seed, index)
        alone = speech_bank.drawn_solo(self.settings, rng, index) if self.settings.source else ()
        clips = []
        for _ in range(self.settings.batch_size):
            sample = self.beside(rng, index)
            if isinstance(sample, Sample):
                wave = next(part["audio"] for part in sample.messages[-1]["content"] if part["type"] == "audio")
                clips.append((wave, transcripts.words_said(sample) or "", None))
            elif sample is not None:
                clips.append(sample)
            else:
                own = alone and rng.random() < self.settings.source
                clip = pick(rng, alone if own else pick(rng, pairs))
                wave = speech.heard(clip.wave.astype("float32") / 32767)
                clips.append((speech.in_any_room(wave, rng), clip.text, None))
        batch = self.pack(clips)
        hide(batch["input_features"], batch["feature_attention_mask"].sum(1).tolist(), self.settings.hidden, rng)
        return batch | {"samples": len(clips)}

    def beside(self, rng: np.random.Generator, index: int) -> Sample | Timed | None:
        """What the bank does not hold, by the shares of BESIDE and `timed`; None: the bank's turn."""
        left = rng.random()
        for share, make in BESIDE.items():
            left -= getattr(self.settings, share)
            if left < 0:
                return make(rng, "train")
        if left < self.settings.timed:
            known = min(self.settings.shards, TIMED_SHARDS, 2 + int(index * self.settings.growth))
            clip = pick(rng, phoneme_bank.shard(int(rng.integers(known)), self.settings.sentences * TIMED_FOR_ONE))
            wave, track = phoneme_bank.in_a_place(clip.wave.astype("float32") / 32767, clip.phonemes, rng)
            return wave, clip.text, track
        return None

    def pack(self, clips: list[Timed]) -> Batch:
        """Waves at 16 kHz with their words, and their phonemes or None -> log-mels, their mask, letters, words (clips,
        longest), and phonemes (tokens of all clips, 2)."""
        features, mask = sound.log_mel([wave for wave, *_ in clips], processor().feature_extractor, None)
        letters = transcripts.join([transcripts.spell(text) for _, text, _ in clips])
        words = transcripts.join([processor().tokenizer(text)["input_ids"] for _, text, _ in clips])
        tracks = []
        for (*_, track), frames in zip(clips, mask.sum(1), strict=True):
            tokens = int(token_count(frames))
            if track is None:
                tracks.append(torch.full((tokens, 2), transcripts.NOTHING))
            else:
                # A token hears four frames of 10 ms: what is heard in the middle of either half.
                whole = np.zeros(4 * tokens, np.int64)
                whole[: len(track)] = track[: len(whole)]
                tracks.append(torch.from_numpy(whole).view(tokens, 2, 2)[..., 1])
        batch = {"input_features": features, "feature_attention_mask": mask, "letters": letters, "words": words}
        return batch | {"phonemes": torch.cat(tracks)}

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        frames = batch["feature_attention_mask"].sum(1)
        heard = model["thinker"].audio_features(batch["input_features"], batch["feature_attention_mask"])
        letters = transcripts.spelling_loss(model["letters"](heard), token_count(frames), batch["letters"], 0)
        blank = processor().tokenizer.pad_token_id or 0
        words = transcripts.ctc_loss(model["thinker"], heard, frames, batch["words"], blank)
        signs = model["phonemes"](heard).float().unflatten(-1, (2, PHONEMES))
        known = (batch["phonemes"] != transcripts.NOTHING).sum().clamp_min(1)
        phonemes = F.cross_entropy(signs.flatten(0, 1), batch["phonemes"].flatten(), reduction="sum") / known
        loss = letters + self.settings.words * words + self.settings.phonemes * phonemes
        return loss, {"letters": letters, "words": words, "phonemes": phonemes}

    def evaluate(self, model: Any) -> dict[str, float]:
        """Nats a letter, letters and word tokens wrong: new sentences by voices never heard, the same by the source
        voice, and prompts by the real person."""
        few = self.settings.steps < 100
        pairs = speech_bank.shard("test", 0, self.settings.sentences)[: 2 if few else 32]
        rng = generator("hearing evaluation", "test", 0, 0)
        made = [(speech.heard(clip.wave.astype("float32") / 32767), clip.text) for clip, _ in pairs]
        own = [(speech.heard(speech.say(clip.text, "heart", 0)), clip.text) for clip, _ in pairs]
        read = [(p.wave, p.text) for p in recordings.prompts("test")[: 2 if few else 32]]
        figures = {}
        for name, clips in (("sentences", made), ("source voice", own), ("recorded", read)):
            batch = self.pack([(speech.in_a_room(wave, rng), text, None) for wave, text in clips])
            device = model["letters"].weight.device
            batch = {key: tensor.to(device) for key, tensor in batch.items()}
            figures[name] = self.loss(model, batch, "main")[1]["letters"].item()
            figures[f"{name}, letters wrong"] = self.wrong(model, batch, model["letters"], "letters", 0)
            thinker, blank = model["thinker"], processor().tokenizer.pad_token_id or 0
            head = nn.Sequential(thinker.model.norm, thinker.lm_head)
            figures[f"{name}, words wrong"] = self.wrong(model, batch, head, "words", blank)
        return figures

    def wrong(self, model: Any, batch: Batch, head: nn.Module, what: str, blank: int) -> float:
        """Edits a symbol that greedy spelling needs: repeats merged, blanks dropped."""
        from torchaudio.functional import edit_distance

        mask = batch["feature_attention_mask"]
        logits = head(model["thinker"].audio_features(batch["input_features"], mask))
        edits = length = 0
        spelled = logits.argmax(-1).split(token_count(mask.sum(1)).tolist())
        for best, wanted in zip(spelled, batch[what], strict=True):
            told = [i for i in torch.unique_consecutive(best).tolist() if i != blank]
            truth = [i for i in wanted.tolist() if i != transcripts.NOTHING]
            edits, length = edits + edit_distance(told, truth), length + len(truth)
        return edits / length

    def finish(self, model: Any) -> None:
        save_part(self.parts, self.name, model["thinker"])


def hide(features: Tensor, lengths: list[int], count: int, rng: Any) -> None:
    """Blank, in place, `count` stretches of time (up to 0.3 s) and of mel bands (up to 20) in each clip."""
    for row, frames in zip(features, lengths, strict=True):
        silence = row.min()
        for _ in range(count):
            start, size = int(rng.integers(frames)), int(rng.integers(30))
            row[:, start : start + size] = silence
            low, width = int(rng.integers(len(row))), int(rng.integers(20))
            row[low : low + width] = silence
