"""The talker's recipes (report, section 4.3): continuation with timbre disentanglement, speakers, and joint tuning.

What the talker is given comes from a thinker that has read the whole conversation, answer included, in one pass. The
codes it shall say come from the speech tokenizer. Stage by stage:
- `talker`: codes of the source voice under anybody's speaker token, so that no voice is tied to some words (the codes
  hold no other's timbre, which is the DiT's to give); and half the time the first codes are given, so that it learns to
  go on from what was said.
- `speakers`: codes of the speaker whose token opens the reply.
- `joint`: thinker and talker together, the talker's loss reaching into the thinker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...codec.speech_tokenizer import SpeechTokenizer
from ...config import OmniConfig, preset
from ...data import world
from ...data.sample import Sample, assistant, user
from ...data.speech import REPLY_SPEAKERS
from ...data.splits import generator, pick
from ...data.spoken import reply_speaker
from ...errors import DataError
from ...talker import IGNORE, Talker, TalkerContext, code_targets, context_vectors
from ...thinker import Thinker
from .. import packing, reading, speech_bank
from ..loader import to_device, usable
from ..nano import processor
from ..optimise import decay_groups
from ..parts import SOURCES, frozen_tokenizer, need_first, need_part, save_part
from ..reading import Pointer
from ..recipe import Batch, Recipe, Settings


@dataclass(frozen=True, kw_only=True)
class TalkerSettings(Settings, speech_bank.Supply):
    sentences: int = speech_bank.SOLO
    shards: int = 40
    growth: float = 0.05
    continued: float = 0.5  # share of rows whose first codes are given
    longest: int = 500  # codes of an example
    reading: float = 0.0  # weight of the loss that makes it know which word comes next (reading.py)
    ahead: int = 8  # codes later that this word is said
    mishear: float = 0.0  # mean share of the codes said that it hears wrongly or not at all (reading.py)
    start: str = ""  # folder with a `talker` to go on from, with a schedule of its own; "": fresh weights
    banked: bool = False  # whether sentences to repeat come from the bank, where they are said already (`Speakers`)


CPU = TalkerSettings(
    steps=3000,
    batch_size=12,
    learning_rate=3e-3,
    ema=0.999,
    evaluate_every=500,
    save_every=50,
    workers=1,
    reading=0.5,
    mishear=0.25,
)
SCALES = {
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
        longest=160,
    ),
    "cpu": CPU,
    "t4": replace(CPU, batch_size=32, shards=60, growth=0.05, workers=2),
    "gpu": replace(CPU, steps=4500, batch_size=96, shards=60, growth=0.05, workers=12, save_every=500),
}


@dataclass
class Spoken:
    """One example: a conversation, its answer aloud. What is thought before it is not said."""

    sample: Sample
    codes: Tensor  # (n,) int64
    speaker: int  # place in REPLY_SPEAKERS of the token that opens the reply
    given: int = 0  # first codes that are no target

    @cached_property
    def encoded(self) -> packing.Encoded:
        """Conversation and answer as the thinker's tensors; what the template writes behind the answer is not said."""
        messages = [*self.sample.messages, assistant(self.sample.reply)]
        encoded = dict(processor()(messages=messages, labels=True, longest_audio=True))
        last = int((encoded["labels"][0] != packing.IGNORED).nonzero()[-1]) + 1
        for name in ("input_ids", "attention_mask", "labels"):
            encoded[name] = encoded[name][:, :last]
        return encoded


class TalkerRecipe(Recipe):
    """Stage 1: continuation, timbre disentangled."""

    name: ClassVar[str] = "talker"
    reads: ClassVar[tuple[str, ...]] = ("speech_tokenizer",)
    starts_from: ClassVar[tuple[str, ...]] = ()  # talkers to go on from, the furthest trained first
    writes: ClassVar[tuple[str, ...]] = ("talker",)
    scales = SCALES
    least = speech_bank.LEAST
    settings: TalkerSettings

    @property
    def config(self) -> OmniConfig:
        return preset(self.settings.preset)

    @cached_property
    def tokenizer(self) -> SpeechTokenizer:
        """The trained speech tokenizer, frozen; loaded once per process."""
        return frozen_tokenizer(self.config, self.parts, self.name)

    def build(self) -> nn.Module:
        config, _ = self.config, self.tokenizer  # its absence must be found out now
        model = nn.ModuleDict({"thinker": Thinker(config.thinker_config), "talker": Talker(config.talker_config)})
        if self.settings.reading:
            model["pointer"] = Pointer(config.talker_config.hidden_size, config.talker_config.embedding_size)
        if self.parts is not None:
            # What `joint` has made of the thinker is where it ends, not where anything begins.
            need_first(self.parts, SOURCES["thinker"][1:], model["thinker"], self.name)
            if self.starts_from:
                need_first(self.parts, self.starts_from, model["talker"], self.name)
        if self.settings.start:
            need_part(Path(self.settings.start), "talker", model["talker"], self.name)
        return model

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        learning = [part for name, part in model.items() if name != "thinker"]
        return {"main": decay_groups([p for part in learning for p in part.named_parameters()], self.settings)}

    def blocks(self, model: Any) -> list[nn.Module]:
        return [*model["talker"].model.layers]

    def compile(self, model: Any) -> None:
        model["talker"].model.compile()

    def spoken(self, index: int, bad: list[str]) -> list[Spoken]:
        """The examples of micro-batch `index`: sentences of the bank under any speaker's token."""
        settings, rng = self.settings, generator("talker batch", "train", self.seed, index)
        sentences = self.coded("train", int(rng.integers(min(settings.shards, 2 + int(index * settings.growth)))))
        made = []
        for choice in rng.integers(len(sentences), size=settings.batch_size):
            text, codes = sentences[choice]
            given = int(rng.integers(len(codes))) if rng.random() < settings.continued else 0
            made.append(Spoken(said(text), codes, int(rng.integers(len(REPLY_SPEAKERS))), given))
        return made

    def coded(self, split: str, number: int) -> list[tuple[str, Tensor]]:
        """Sentences of the source voice with their codes: a shard of the bank, kept as codes once it was heard."""
        if (split, number) not in self.heard:
            clips = speech_bank.solo.__wrapped__(split, number, self.settings.sentences)  # its waves are not kept
            longest = self.settings.longest
            self.heard[split, number] = [(clip.text, self.tokenizer.codes(clip.mel)[:longest]) for clip in clips]
        return self.heard[split, number]

    @cached_property
    def heard(self) -> dict[tuple[str, int], list[tuple[str, Tensor]]]:
        """Shards that were coded by this process."""
        return {}

    @torch.no_grad()
    def batch(self, index: int) -> Batch:
        bad: list[str] = []
        spoken = self.spoken(index, bad)
        if not spoken:
            raise DataError(f"none of {self.settings.batch_size} samples in a row can be used: {bad[-1]}")
        packed = self.pack(spoken) | {"samples": self.settings.batch_size, "skipped": bad}
        if self.settings.reading:
            aloud = [self.said(each) for each in spoken]
            packed["said"] = torch.nn.utils.rnn.pad_sequence(aloud, True, reading.IGNORED)
        return packed

    def pack(self, spoken: Sequence[Spoken]) -> Batch:
        """Examples -> prompts padded on the left, answers and codes on the right, media in row order."""
        config, pad_id = self.config, processor().tokenizer.pad_token_id or 0
        encoded = [each.encoded for each in spoken]
        sizes = [(e["input_ids"].shape[1] - packing.answer_length(e), packing.answer_length(e)) for e in encoded]
        before, after = max(p for p, _ in sizes), max(a for _, a in sizes)
        rows = torch.full((len(spoken), before + after), pad_id)
        mask, labels = torch.zeros_like(rows), torch.full_like(rows, packing.IGNORED)
        for row, (e, (prompt, answer)) in enumerate(zip(encoded, sizes, strict=True)):
            place = slice(before - prompt, before + answer)
            rows[row, place], mask[row, place] = e["input_ids"][0], 1
            labels[row, place] = e["labels"][0]
        codes = torch.nn.utils.rnn.pad_sequence([s.codes for s in spoken], True, IGNORE)
        given = torch.tensor([s.given for s in spoken])
        targets = continuation_targets(codes, given, config.talker_config.tts_codec_end_token_id)
        for row, each in enumerate(spoken):
            if len(each.codes) >= self.settings.longest:  # cut there: nobody has heard it end
                targets[row, len(each.codes)] = IGNORE
        first = processor().tokenizer.convert_tokens_to_ids("<spk_0>")
        return {
            "thinker": {"input_ids": rows, "attention_mask": mask, **packing.join_media(encoded)},
            "labels": labels,
            "speakers": torch.tensor([first + s.speaker for s in spoken]),
            "before": before,
            # Tokens of each row, the last ones before the answer.
            "thoughts": torch.tensor([packing.thought_length(e) for e in encoded]),
            # The token that ends the answer is never fed back, so the talker has no vector of it.
            "reply_lengths": torch.tensor([answer - 1 for _, answer in sizes]),
            "codes": codes,
            "targets": targets,
            "weight": float((targets != IGNORE).sum()),
        }

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            heard = model["thinker"](**batch["thinker"], logits_to_keep=0)
            context, reply = talker_view(model["thinker"], model["talker"], heard, batch)
        share, silence = self.settings.mishear * model.training, self.config.talker_config.tts_codec_mask_token_id
        codes = reading.misheard(batch["codes"], share, silence)
        states: list[Tensor] = []
        hook = model["talker"].model.register_forward_hook(lambda _, __, hidden: states.append(hidden))
        try:
            out = model["talker"](context, reply, codes, batch["reply_lengths"], batch["targets"])
        finally:
            hook.remove()
        figures = {"code accuracy": accuracy(out.logits, batch["targets"])}
        if "pointer" not in model:
            return out.loss, figures
        steps = batch["said"].shape[1]
        pointed = model["pointer"](states[0][:, -steps:], reply, batch["reply_lengths"])
        wrong = reading.reading_loss(pointed, batch["said"])
        return out.loss + self.settings.reading * wrong, {"codes": out.loss, "reading": wrong, **figures}

    def said(self, spoken: Spoken) -> Tensor:
        """Place in the reply of the token that is about to be said at each code, (codes + 1,)."""
        ids = spoken.encoded["input_ids"][0, -packing.answer_length(spoken.encoded) : -1].tolist()
        words = [processor().tokenizer.decode([token]) for token in ids]
        letters = [sum(sign.isalnum() for sign in word) for word in words]
        return reading.said_at(self.tokenizer.mel(spoken.codes), letters, self.settings.ahead)

    def evaluate(self, model: Any) -> dict[str, float]:
        """Nats a code and accuracy on held-out sentences in the source voice."""
        some = self.coded("test", 0)[: 4 if self.settings.steps < 100 else 48]
        spoken = [Spoken(said(text), codes, 0) for text, codes in some]
        device = model["talker"].codec_head.weight.device
        batch = to_device(self.pack(spoken), device)
        heard = model["thinker"](**batch["thinker"], logits_to_keep=0)
        context, reply = talker_view(model["thinker"], model["talker"], heard, batch)
        out = model["talker"](context, reply, batch["codes"], batch["reply_lengths"], batch["targets"])
        return {"loss": out.loss.item(), "code accuracy": accuracy(out.logits, batch["targets"]).item()}

    @torch.no_grad()
    def example(self, task: str, split: str, place: int, bad: list[str]) -> list[Spoken]:
        """One sample of the nano world with its own speaker's token; none if it is bad."""
        made = usable([partial(world.sample, task, split, self.seed, place)], bad)
        return [
            Spoken(s, self.tokenizer.encode(torch.from_numpy(s.speech))[: self.settings.longest], place_of(s.speaker))
            for s in made
            if s.speech is not None
        ]

    def finish(self, model: Any) -> None:
        save_part(self.parts, self.name, model["talker"])


class Speakers(TalkerRecipe):
    """Stage 3: each speaker's own voice, on sentences to repeat and on answers."""

    name = "speakers"
    starts_from: ClassVar[tuple[str, ...]] = ("talker_dpo", "talker")
    reads: ClassVar[tuple[str, ...]] = ("speech_tokenizer", "talker")
    writes: ClassVar[tuple[str, ...]] = ("speakers",)
    tasks: ClassVar[tuple[str, ...]] = ("say_this", "spoken_reply")
    scales = {
        k: replace(
            s, steps=max(2, s.steps // 3), learning_rate=s.learning_rate / 10, reading=0.0, mishear=0.0,
            banked=k in ("t4", "gpu"),
        )
        for k, s in SCALES.items()
    }  # fmt: skip

    def spoken(self, index: int, bad: list[str]) -> list[Spoken]:
        made: list[Spoken] = []
        for i in range(self.settings.batch_size):
            task, place = world.schedule(self.tasks, self.seed, index * self.settings.batch_size + i)
            known = self.from_bank(index, place) if self.settings.banked and task == "say_this" else None
            made += self.example(task, "train", place, bad) if known is None else [known]
        return made

    @torch.no_grad()
    def from_bank(self, index: int, place: int) -> Spoken | None:
        """A sentence to repeat by a speaker drawn as in `say_this`, who has said it in the bank: to have it said anew
        takes ten times as long as to code it. None where that speaker says nothing in the shard drawn."""
        settings, rng = self.settings, generator("banked", "train", self.seed, place)
        number = int(rng.integers(min(settings.shards, 2 + int(index * settings.growth))))
        name = reply_speaker(rng, "train")
        if name == "heart":  # which has shards of its own
            clips = [*speech_bank.solo("train", number, settings.sentences)]
        else:
            pairs = speech_bank.shard("train", number, settings.sentences * speech_bank.SENTENCES // speech_bank.SOLO)
            clips = [clip for pair in pairs for clip in pair if clip.speaker == name]
        if not clips:
            return None
        clip = pick(rng, clips)
        wave = torch.from_numpy(clip.wave.astype("float32") / 32767)  # not its `mel`, which it would keep
        return Spoken(said(clip.text), self.tokenizer.encode(wave)[: settings.longest], place_of(name))


class Joint(Speakers):
    """Thinker and talker together: the answer's words and its codes."""

    name = "joint"
    starts_from: ClassVar[tuple[str, ...]] = ("speakers", "talker_dpo", "talker")
    reads: ClassVar[tuple[str, ...]] = ("speech_tokenizer", "speakers")
    writes: ClassVar[tuple[str, ...]] = ("joint_thinker", "joint_talker")
    scales = {
        k: replace(
            s, steps=max(2, s.steps // 6), learning_rate=s.learning_rate / 15, reading=0.0, mishear=0.0,
            banked=k in ("t4", "gpu"),
        )
        for k, s in SCALES.items()
    }  # fmt: skip

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        """All but the vision encoder: no sample holds a picture."""
        named = [(name, p) for name, p in model.named_parameters() if not name.startswith("thinker.visual.")]
        return {"main": decay_groups(named, self.settings)}

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        heard = model["thinker"](**batch["thinker"], labels=batch["labels"], logits_to_keep=0)
        context, reply = talker_view(model["thinker"], model["talker"], heard, batch)
        out = model["talker"](context, reply, batch["codes"], batch["reply_lengths"], batch["targets"])
        return heard.loss + out.loss, {"text loss": heard.loss, "speech loss": out.loss}

    def finish(self, model: Any) -> None:
        save_part(self.parts, "joint_thinker", model["thinker"])
        save_part(self.parts, "joint_talker", model["talker"])


def continuation_targets(codes: Tensor, given: Tensor, end_token: int) -> Tensor:
    """What is to be learned where the first codes are given: (batch, n), (batch,) -> (batch, n + 1).

    The codes and their end (`code_targets`), IGNORE at each row's first `given` places: they are what one goes on from
    (in-context continuation; report, section 4.3)."""
    targets = code_targets(codes, end_token)
    place = torch.arange(targets.shape[1], device=codes.device)[None]  # (1, n + 1)
    return targets.masked_fill(place < given[:, None], IGNORE)


def said(text: str) -> Sample:
    """The conversation in which a sentence is to be said aloud."""
    return Sample([user(f"Say: {text}")], "say_this", text)


def place_of(speaker: str | None) -> int:
    return REPLY_SPEAKERS.index(speaker) if speaker in REPLY_SPEAKERS else 0


def talker_view(thinker: Thinker, talker: Talker, heard: Any, batch: Batch) -> tuple[TalkerContext, Tensor]:
    """What the talker is given of a thinker's pass over prompts and answers: context, reply (batch, longest, dim).

    As when it speaks, the context is the prompt alone: thoughts, (batch,) tokens behind it, are taken out."""
    ids, mask, before = batch["thinker"]["input_ids"], batch["thinker"]["attention_mask"], batch["before"]
    vectors = context_vectors(heard.last_hidden_state, heard.inputs_embeds, ids, talker.config)
    from_place = torch.arange(before, device=ids.device) - batch["thoughts"][:, None]  # (batch, before)
    real, from_place = from_place >= 0, from_place.clamp(min=0)
    embeds = thinker.model.embed_tokens.weight
    sounds = batch["thinker"].get("feature_attention_mask")
    context = TalkerContext(
        embeds=vectors.take_along_dim(from_place[..., None], 1),
        input_ids=ids.gather(1, from_place),
        speaker_bos=embeds[batch["speakers"]],
        text_eos=embeds[talker.config.tts_text_end_token_id],
        text_pad=embeds[talker.config.tts_text_pad_token_id],
        attention_mask=mask.gather(1, from_place) * real,
        image_grid_thw=batch["thinker"].get("image_grid_thw"),
        audio_seqlens=None if sounds is None else sounds.sum(1),
    )
    return context, vectors[:, before:]


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of labelled places whose likeliest code is the right one."""
    kept = targets != IGNORE
    return (logits.argmax(-1) == targets)[kept].float().mean()
