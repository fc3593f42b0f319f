"""The thinker's recipes: language alone, hearing (ASR), LLaVA's two stages, and the report's three stages (section 3).

They differ in tasks, in what learns, and in length; everything else is this one class.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...config import OmniConfig, preset
from ...data import unit_selection, world
from ...data.sample import Sample, assistant, audio, picture_size, user
from ...data.speech import heard, in_any_room
from ...data.splits import generator, pick
from ...data.spoken import TRANSCRIBE, prompt, to_say
from ...data.wordings import in_other_words
from ...thinker import Thinker, next_tokens
from .. import looking, memory, naming, packing, places, speech_bank, transcripts
from ..balance import balance, beyond
from ..loader import still_hoping, to_device, usable
from ..nano import processor
from ..optimise import decay_groups
from ..parts import need_part, save_part
from ..recipe import Batch, Recipe, Settings
from ..stand_ins import complete

TEXT = ("text_qa", "text_chat", "equation", "listed", "scene_talk", "scene_told", "repeat", "say_this")
HEARD = ("asr", "asr_recorded", "speech_translation", "spoken_qa", "sound_events", "audio_order", "music")
SEEN = ("picture_qa", "picture_talk", "picture_arithmetic", "ocr", "page", "grounding", "science_choice")
SPELLED = ("ocr",)  # answered letter by letter, as pictures spell: each letter is a token of its own
ADAPTERS = r"visual\.merger\.|audio_tower\.(proj|ln_post)\."
LOUDEST = 10.0  # times the embedding table's root mean square: what an encoder's tokens may have for nothing
STRETCH = 100_000  # positions of the mixture that belong to one batch: far more than fit into its rows
LONGEST_LOOKED_AT = 4096  # tokens of a row that holds all samples of a batch, where `looking` learns
BESIDE = ("transcripts", "named", "looks")  # of a batch: what the model is not given, only losses
ENCODERS = r"visual\.|audio_tower\."


@dataclass(frozen=True)
class Learning:
    """A set of parameters that learns."""

    names: str  # regular expression on the beginning of parameter names
    rate: float = 1.0  # times the settings' learning rate
    starts: float = 0.0  # share of the run before which it stays still


@dataclass(frozen=True)
class ThinkerSettings(Settings, speech_bank.Supply):
    length: int = 512  # tokens a row; batch_size counts rows
    turns: int = 1  # samples joined to one conversation
    answers_only: bool = True  # loss on the assistant's words alone; False: on every token
    text: float = 1.0  # times the weight of the tasks without media
    emphasis: str = ""  # times the weight of single tasks: "sound_events:4 picture_qa:2"
    start: str = ""  # folder with this part to go on from, with a schedule of its own; "": the part it reads
    frozen: str = ""  # regular expression on the beginning of names that stay as they are, whatever the recipe teaches
    loudness: float = 0.1  # weight of the loss on pictures and sounds that are LOUDEST times as loud as words, or more
    ctc: float = 0.0  # weight of the loss that makes the audio encoder spell what was said (transcripts.py)
    places: float = 0.0  # weight of the loss that makes the decoder say where pictures' tokens lie (places.py)
    naming: float = 0.0  # weight of the loss that makes pictures' tokens say what they lie on (naming.py)
    named: int = 6  # pictures a micro-batch for that loss, of their own
    looking: float = 0.0  # weight of the loss that tells attention where the next word is seen or heard (looking.py)
    source: float = 0.0  # share of the bank's sentences by the source voice alone, which has five times as many
    wordings: float = 0.25  # share of requests made in other words than the suite's (data/wordings.py)
    early: float = 0.0  # weight of the answers' loss behind two thirds of the layers, where later tokens can still look


CPU = ThinkerSettings(
    steps=1500, batch_size=4, learning_rate=1e-3, ema=0.999, workers=1, evaluate_every=500, save_every=50
)
SCALES = {
    "smoke": replace(
        CPU, steps=2, batch_size=1, length=384, workers=0, evaluate_every=0, log_every=1, ema=0.5, shards=0, named=1
    ),
    "cpu": CPU,
    "t4": replace(CPU, steps=1500, batch_size=16, workers=2, shards=60, growth=0.05),
    "gpu": replace(
        CPU, steps=1000, batch_size=16, learning_rate=1.5e-3, workers=12, save_every=500, shards=60, growth=0.05
    ),
}


def scaled(**changes: Any) -> dict[str, ThinkerSettings]:
    """The thinker's settings table with `changes` at every scale but smoke's length; steps is a factor."""
    factor = changes.pop("steps", 1.0)
    table = {}
    for scale, settings in SCALES.items():
        kept = {"length": settings.length} if scale == "smoke" else {}
        steps = 2 if scale == "smoke" else round(settings.steps * factor)
        table[scale] = replace(settings, **changes | kept, steps=steps)
    return table


class ThinkerRecipe(Recipe):
    """Next-token loss over packed rows of samples of the nano world."""

    tasks: ClassVar[tuple[str, ...] | None] = None  # of world.TASKS; None: all that training may use
    learns: ClassVar[tuple[Learning, ...]] = (Learning(""),)
    least = {"turns": 1, "named": 1}
    heard: ClassVar[bool] = False  # by the talker: its words are made as loud as its thoughts (balance.py)
    settings: ThinkerSettings

    def build(self) -> nn.Module:
        model = Thinker(self.config.thinker_config)
        if self.settings.start:
            need_part(Path(self.settings.start), self.name, model, self.name)
            return model
        for name in self.reads:
            need_part(self.parts, name, model, self.name)
        return model

    def need_to_fit(self, available: int, precision: str, processes: int) -> None:
        """All that stays from step to step, and the decoder's activations: at the published sizes nearly all."""
        chosen = self.settings
        with torch.device("meta"):
            model = Thinker(self.config.thinker_config)
        memory.need_to_fit(
            available, self.config.thinker_config.text_config, chosen.batch_size, chosen.length, precision=precision,
            checkpointed=chosen.checkpoint_activations, accumulate=chosen.accumulate // processes, processes=processes,
            averaged=chosen.ema > 0, **memory.counts(model, self.groups(model)),
        )  # fmt: skip

    @property
    def config(self) -> OmniConfig:
        return preset(self.settings.preset)

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        """Each parameter goes to the first entry of `learns` that names it; what none names is frozen."""
        still = self.settings.frozen
        left = {name: p for name, p in model.named_parameters() if not (still and re.match(still, name))}
        groups = []
        for entry in self.learns:
            chosen = {name: p for name, p in left.items() if re.match(entry.names, name)}
            left = {name: p for name, p in left.items() if name not in chosen}
            rate = entry.rate * self.settings.learning_rate
            groups += decay_groups(chosen.items(), self.settings, lr=rate, starts=entry.starts)
        return {"main": groups}

    def blocks(self, model: Any) -> list[nn.Module]:
        return [*model.model.layers, *model.visual.blocks, *model.audio_tower.layers]

    def compile(self, model: Any) -> None:
        """The decoder alone: its rows have one shape, the encoders' media have many."""
        model.model.compile()

    def chosen_tasks(self) -> tuple[str, ...]:
        return self.tasks or tuple(name for name, task in world.TASKS.items() if not task.test_only)

    def encode(self, sample: Sample) -> packing.Encoded:
        """One conversation with its answer -> the processor's tensors, labels and positions."""
        messages, sound = [*sample.messages, assistant(sample.reply)], has_talking_film(sample)
        encoded = dict(processor()(messages=messages, labels=True, use_audio_in_video=sound, longest_audio=True))
        if sample.task in SPELLED:
            encoded = looking.spelled(encoded, sample.answer, sample.meta.get("glyphs", ()), picture_size(sample))
        if not self.settings.answers_only:
            encoded["labels"] = encoded["input_ids"].clone()
        if "input_features" in encoded:
            # Sounds but the last belong to earlier turns, whose words nobody has kept.
            words = transcripts.words_said(sample)
            silent: list[list[int]] = [[] for _ in range(len(encoded["input_features"]) - 1)]
            encoded["transcripts"] = [*silent, processor().tokenizer(words)["input_ids"] if words else []]
        return packing.with_positions(encoded, self.config.thinker_config)

    def drawn(
        self, tasks: Sequence[str], split: str, start: int, bad: list[str], taken: list[int]
    ) -> Iterator[packing.Encoded]:
        """Endless encoded samples of `tasks` from position `start` of their mixture on.

        A line for each bad one goes to `bad`; the position of each one used to `taken`.
        """
        position, emphasis, idle = start, world.emphasised(self.settings.emphasis), 0
        while True:
            turns = range(self.settings.turns)
            drawn = [world.schedule(tasks, self.seed, position + i, self.settings.text, emphasis) for i in turns]
            position += len(drawn)
            taken.extend(range(position - len(drawn), position))
            makers = [partial(self.sample, task, split, place) for task, place in drawn]
            made = usable(makers, bad)
            encoded = usable([partial(self.encode, conversation(made))] if made else [], bad)
            idle = still_hoping(idle, encoded, bad)
            yield from encoded

    def sample(self, task: str, split: str, place: int) -> Sample:
        """Sample `place` of a task, some of training's asked for in other words."""
        made, rng = self.canonical(task, split, place), generator("wording", split, self.seed, place)
        return in_other_words(made, rng) if split == "train" and rng.random() < self.settings.wordings else made

    def canonical(self, task: str, split: str, place: int) -> Sample:
        """Sample `place` of a task; most sentences to write down come from the bank, where they are said already, half
        the prompts are said by other voices, and what is to be said aloud is not said: the talker listens to that."""
        if task == "say_this":
            return to_say(generator(task, split, self.seed, place), split)
        rng = generator("heard", split, self.seed, place)
        if task == "asr_recorded" and split == "train" and rng.random() < 0.5:
            return prompt(generator(task, split, self.seed, place), split)
        if task != "asr" or split == "test" or not self.settings.shards or rng.random() < 0.2:
            return world.sample(task, split, self.seed, place)
        index = place // STRETCH
        pairs, draw = speech_bank.drawn(self.settings, self.seed, index)
        alone = self.settings.source and rng.random() < self.settings.source
        clip = pick(rng, speech_bank.drawn_solo(self.settings, draw, index) if alone else pick(rng, pairs))
        wave = in_any_room(heard(clip.wave.astype("float32") / 32767), rng)
        return Sample([user(TRANSCRIBE, audio(wave))], "asr", clip.text)

    def warm(self) -> None:
        if "asr_recorded" in self.chosen_tasks() and world.emphasised(self.settings.emphasis).get("asr_recorded", 1.0):
            unit_selection.places()

    def batch(self, index: int) -> Batch:
        bad, taken = list[str](), list[int]()
        samples, length = self.drawn(self.chosen_tasks(), "train", index * STRETCH, bad, taken), self.settings.length
        filled = packing.fill(samples, self.settings.batch_size, length)
        complete(filled, self.chosen_tasks(), length, processor(), self.config.thinker_config)
        # What looks is compared with the whole row, so that a long one costs memory.
        short = not self.settings.looking or self.settings.batch_size * length <= LONGEST_LOOKED_AT
        if self.device.type == "cpu" and not self.settings.compile and short:
            filled, length = packing.end_to_end(filled)
        packed: Batch = packing.pack(filled, length, processor().tokenizer.pad_token_id or 0)
        answers = float((packed["labels"] != packing.IGNORED).sum())
        said = [clip for row in filled for sample in row for clip in sample.get("transcripts", [])]
        if (self.settings.ctc or self.settings.looking) and any(said):
            packed["transcripts"] = transcripts.join(said)
        if self.settings.looking:
            packed["looks"] = looking.gather(filled)
        if self.settings.naming:
            packed["named"] = naming.some(self.settings.named, generator("named", "train", self.seed, index))
        return packed | {"samples": len(taken), "skipped": bad, "weight": answers}

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        said, named, looks = (batch.get(name) for name in BESIDE)
        given = {name: value for name, value in batch.items() if name not in BESIDE}
        told: dict[str, list[Tensor]] = {"visual": [], "audio_tower": []}  # tokens that each encoder gave
        hooks = [
            getattr(model, tower).register_forward_hook(lambda _, __, outcome, kept=kept: kept.append(outcome))
            for tower, kept in told.items()
        ]
        try:
            out = model(**given, logits_to_keep=0, output_hidden_states=True)
        finally:
            for hook in hooks:
                hook.remove()
        states = out.hidden_states  # the input of every layer of the decoder, so the outcome of the one before
        losses, weights = {"answers": out.loss}, {"answers": 1.0} | vars(self.settings)
        heard = [tokens.flatten(0, -2) for kept in told.values() for tokens in kept]
        if self.settings.loudness and heard:
            words = model.model.embed_tokens.weight.detach()
            losses["loudness"] = beyond(torch.cat(heard), words).sub(math.log(LOUDEST)).clamp(min=0).square().mean()
        if named is not None:
            losses["naming"] = naming.loss(model, named)
        if said is not None:
            frames, blank = given["feature_attention_mask"].sum(1), processor().tokenizer.pad_token_id or 0
            losses["ctc"] = transcripts.ctc_loss(model, told["audio_tower"][0], frames, said, blank)
        if self.settings.early:
            targets = next_tokens(given["labels"], given["segment_ids"], given["labels"].shape)
            halfway = states[max(2 * len(model.model.layers) // 3, 1)]
            losses["early"] = model.loss(model.model.norm(halfway), None, targets)
        media = self.pictures(given)
        if self.settings.places and media:
            said_at = states[places.behind(model)]
            lying = torch.cat([said_at[given["input_ids"] == token] for token, _ in media])
            ends = torch.tensor(places.words(), device=lying.device)
            where = torch.cat([places.of_grid(grid) for _, grid in media])
            losses["places"] = places.place_loss(model, lying, where, ends)
        if looks is not None:
            seen = [(token, tokens) for (token, _), tokens in zip(media, told["visual"], strict=True)]
            looking_from = looking.sought(model, states, given["position_ids"])
            losses["looking"] = looking.loss(model, looking_from, given, looks, seen, told["audio_tower"], said)
        return sum(weights[name] * loss for name, loss in losses.items()), losses

    def pictures(self, given: Mapping[str, Tensor]) -> list[tuple[int, Tensor]]:
        """(placeholder token, sizes in patches) of a batch's pictures and of its videos."""
        config = self.config.thinker_config
        kinds = ((config.image_token_index, "image_grid_thw"), (config.video_token_index, "video_grid_thw"))
        return [(token, given[name]) for token, name in kinds if name in given]

    def evaluate(self, model: Any) -> dict[str, float]:
        """Mean loss of held-out answers (nats a token) of each task, a few rows each."""
        device, figures = model.lm_head.weight.device, {}
        for task, packed in self.held_out.items():
            figures[task] = self.loss(model, to_device(packed, device), "main")[1]["answers"].item()
        return figures

    @cached_property
    def held_out(self) -> dict[str, Batch]:
        """Two packed rows of each task's held-out samples, made once."""
        one_turn, made = type(self)(replace(self.settings, turns=1, emphasis=""), seed=1), {}  # also of the undrawn
        for task in self.chosen_tasks() if self.settings.steps > 20 else self.chosen_tasks()[:1]:
            filled = packing.fill(one_turn.drawn((task,), "test", 0, [], []), 2, self.settings.length)
            made[task] = packing.pack(filled, self.settings.length, processor().tokenizer.pad_token_id or 0)
        return made

    def finish(self, model: Any) -> None:
        if self.heard:
            balance(model)
        save_part(self.parts, self.name, model)


def has_talking_film(sample: Sample) -> bool:
    """Whether a video with sound stands in the messages."""
    parts = [part for m in sample.messages if not isinstance(m["content"], str) for part in m["content"]]
    return any(part["type"] == "video" and part["video"].get("audio") is not None for part in parts)


def conversation(samples: list[Sample]) -> Sample:
    """Several samples as the turns of one conversation; the last one's answer is left open.

    A video with sound stands alone: the format says for a whole conversation whether sounds belong to its videos. A
    page to be read stands last, and no second one with it: the last answer alone is spelled.
    """
    pages = [sample for sample in samples if sample.task in SPELLED]
    samples = [*(sample for sample in samples if sample.task not in SPELLED), *pages[:1]]
    alone = next((sample for sample in samples if has_talking_film(sample)), None)
    if alone is not None:
        return alone
    messages: list[dict[str, Any]] = []
    for sample in samples[:-1]:
        messages += [*sample.messages, assistant(sample.reply)]
    last = samples[-1]
    return Sample([*messages, *last.messages], last.task, last.answer, meta=last.meta, thought=last.thought)


class Language(ThinkerRecipe):
    """The decoder alone, on the course's text: a nano LLM to start from."""

    name = "language"
    tasks = TEXT
    learns = (Learning(r"model\.|lm_head\."),)
    writes = ("language",)
    scales = scaled(steps=0.8, answers_only=False)


class AudioEncoder(ThinkerRecipe):
    """Hearing: everything learns to write down speech and to name sounds; the encoder is what is wanted of it."""

    name = "audio_encoder"
    tasks = ("asr", "asr_recorded", "sound_events")
    reads, writes = ("seeing",), ("audio_encoder",)
    scales = scaled(steps=1.2, ctc=0.5)


class Llava1(ThinkerRecipe):
    """LLaVA's first stage: the projector alone, on pictures and their descriptions."""

    name = "llava_1"
    tasks = ("picture_qa", "ocr")
    learns = (Learning(r"visual\.merger\."),)
    reads, writes = ("language",), ("llava_1",)
    scales = scaled(steps=0.3)


class Llava2(ThinkerRecipe):
    """LLaVA's second stage: projector and language model, on visual instructions."""

    name = "llava_2"
    tasks = SEEN
    learns = (Learning(r"visual\.merger\.|model\.|lm_head\."),)
    reads, writes = ("llava_1",), ("llava_2",)
    scales = scaled(steps=0.7, places=0.5, looking=0.3)


class Thinker1(ThinkerRecipe):
    """Stage 1: the language model frozen; adapters first, then the encoders too."""

    name = "thinker_1"
    learns = (Learning(ADAPTERS), Learning(ENCODERS, starts=0.2))
    reads, writes = ("audio_encoder",), ("thinker_1",)
    scales = scaled(steps=0.4, ctc=0.3, naming=0.3)


class Thinker2(ThinkerRecipe):
    """Stage 2: everything learns from everything."""

    name = "thinker_2"
    heard = True
    reads, writes = ("thinker_1",), ("thinker_2",)
    scales = scaled(steps=3.6, ctc=0.3, places=0.5, naming=0.3, looking=0.3, source=0.5)


class Thinker3(ThinkerRecipe):
    """Stage 3: long sequences, here conversations of several turns."""

    name = "thinker_3"
    heard = True
    reads, writes = ("thinker_2",), ("thinker_3",)
    scales = scaled(steps=0.2, turns=4, length=2048, places=0.5, naming=0.3, looking=0.3, source=0.5)
