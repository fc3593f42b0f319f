"""DiT: codes -> mel by flow matching with the sliding-window block mask and guidance dropout (report, section 2.4).

The speaker encoder learns along: its vector, and the reference mel, come from another clip of the same voice, so that
they can carry the voice and not the words. Other speakers' clips often come with the codes of the source voice's
rendition of the sentence, which has the same timing: so the DiT learns to take the timbre from its conditions when it
speaks the talker's codes, which are the source voice's. That voice's own clips keep their own codes: it had lost words
while they too came with anybody's. What a reader cannot read off the mels made of them is a second loss (`words`,
train/mel_reader.py): off those at which a velocity points from the line to the real mel, or (`own`) from where the DiT
has come by itself, as in a reply, where no real mel helps it on.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...codec import flow_matching
from ...codec.dit import DiT
from ...codec.speaker import REFERENCE_FRAMES, SpeakerEncoder, reference_window
from ...codec.speech_tokenizer import SpeechTokenizer
from ...config import preset
from ...data.splits import generator
from .. import speech_bank
from ..mel_reader import MelReader, unread
from ..parts import TEMPERATURE, frozen_tokenizer, need_part, save_part
from ..recipe import Batch, Recipe, Settings
from ..speech_bank import IGNORED, Clip

MEL_MEAN = -5.7  # of log-mel frames of speech: where the output's bias starts
GUIDANCE = 0.5  # with which replies are made (DiT.sample)
OWN_STEPS = 2  # of Euler, to where the DiT comes by itself


@dataclass(frozen=True)
class DiTSettings(Settings, speech_bank.Supply):
    frames: int = 240  # of a crop, in mel frames: whole blocks
    guidance_dropout: float = 0.15  # share of rows that learn the unconditional velocity
    dropout: float = 0.0  # of the DiT's layers; the reference's 0.1 is for one that could learn its data by heart
    reference_frames: int = REFERENCE_FRAMES
    other_voice: float = 0.5  # share of others' clips with the source voice's codes, where it said the same
    lent: float = 0.0  # share of batches in which all codes are the source voice's, as a talker's are
    source: float = 0.0  # share of batches of the source voice alone, from its own shards
    words: float = 0.0  # weight of what the mel reader cannot read, in nats, of that voice's sentences
    own: float = 0.0  # share of the rows whose words are read off what the DiT makes from its own noise on
    start: str = ""  # folder of parts to go on from, with a schedule of its own; "": fresh weights


CPU = DiTSettings(
    steps=6000,
    batch_size=12,
    learning_rate=1e-3,
    ema=0.999,
    evaluate_every=1000,
    save_every=100,
    lent=0.85,
    source=0.6,
    words=1.0,
)


class DiTRecipe(Recipe):
    """Codes -> mel."""

    name: ClassVar[str] = "dit"
    reads: ClassVar[tuple[str, ...]] = ("speech_tokenizer", "mel_reader")
    writes: ClassVar[tuple[str, ...]] = ("dit", "speaker_encoder")
    scales: ClassVar[Mapping[str, Settings]] = {
        "smoke": replace(
            CPU,
            steps=3,
            batch_size=2,
            shards=1,
            sentences=4,
            frames=96,
            evaluate_every=0,
            log_every=1,
            ema=0.5,
            lent=0.0,
        ),
        "cpu": CPU,
        "t4": replace(CPU, batch_size=32, shards=60, workers=2, reference_frames=240),
        "gpu": replace(CPU, batch_size=64, shards=60, workers=3, reference_frames=240, save_every=500),
    }
    least = speech_bank.LEAST
    settings: DiTSettings

    @cached_property
    def tokenizer(self) -> SpeechTokenizer:
        """The trained speech tokenizer, frozen; loaded once per process."""
        return frozen_tokenizer(preset(self.settings.preset), self.parts, self.name)

    @cached_property
    def reader(self) -> MelReader:
        """Who reads phonemes off mels, frozen; loaded once per process."""
        reader = MelReader().eval().requires_grad_(False)
        need_part(self.parts, "mel_reader", reader, self.name)
        return reader.to(self.device)

    def build(self) -> nn.Module:
        config = preset(self.settings.preset)
        assert self.tokenizer and (not self.settings.words or self.reader)  # their absence must be found out now
        dit = replace(config.token2wav_config.dit_config, dropout=self.settings.dropout)
        network = DiT(dit)
        nn.init.constant_(network.proj_out.bias, MEL_MEAN)
        model = nn.ModuleDict({"dit": network, "speaker_encoder": SpeakerEncoder(dit)})
        if self.settings.start:
            for name in self.writes:
                need_part(Path(self.settings.start), name, model[name], self.name)
        return model

    def batch(self, index: int) -> Batch:
        if self.settings.source:
            rng = generator("source batch", "train", self.seed, index)
            if rng.random() < self.settings.source:
                alone = list(speech_bank.drawn_solo(self.settings, rng, index))
                own = [alone[i] for i in rng.integers(len(alone), size=self.settings.batch_size)]
                return self.examples([(clip, clip) for clip in own], alone, rng)
        pairs, rng = speech_bank.drawn(self.settings, self.seed, index)
        clips = [clip for pair in pairs for clip in pair]
        chosen, places, others = [], [*range(len(clips))], self.settings.other_voice
        if self.settings.lent and rng.random() < self.settings.lent:
            # Given a voice's own codes, the DiT can read it off them, and need not heed what a speaker's vectors say.
            of_source = [i for i in places if "heart" in (clips[i].speaker, clips[i ^ 1].speaker)]
            places, others = of_source or places, 1.0
        for i in rng.choice(places, size=self.settings.batch_size):
            beside = clips[i ^ 1]  # pairs stand side by side
            lent = beside.speaker == "heart" != clips[i].speaker
            borrowed = lent and rng.random() < others
            chosen.append((clips[i], beside if borrowed else clips[i]))
        return self.examples(chosen, clips, rng)

    @torch.no_grad()
    def examples(self, chosen: list[tuple[Clip, Clip]], clips: list[Clip], rng: np.random.Generator) -> Batch:
        """Crops of the first of each (said, coded) pair, the codes of the second, and another clip of that voice."""
        mels, codes, conds, references, phonemes = [], [], [], [], []
        for clip, coded in chosen:
            code = self.codes_of(coded)
            mel = clip.mel[: 2 * len(code)]  # rounding may cut the last frame of one of the two
            code = code[: len(mel) // 2]
            start = 2 * int(rng.integers(max(1, (len(mel) - self.settings.frames) // 2 + 1)))
            mels.append(mel[start : start + self.settings.frames])
            phonemes.append(speech_bank.labels(clip)[: len(mel)][start : start + self.settings.frames])
            codes.append(code[start // 2 : (start + self.settings.frames) // 2])
            other = speech_bank.another_by(clip.speaker, clips, clip.text, rng) or clip
            voice = reference_window(other.mel)
            frames = self.settings.reference_frames
            conds.append(voice[:frames])
            third = speech_bank.another_by(clip.speaker, clips, clip.text, rng) or other
            references.append(reference_window(third.mel)[:frames])
        mel, mask = speech_bank.pad(mels)
        return {
            "mel": mel,
            "mask": mask,
            "phonemes": speech_bank.pad(phonemes, IGNORED)[0],
            "codes": speech_bank.pad(codes)[0],
            "cond": torch.stack(conds),
            "reference": torch.stack(references),
            "samples": len(chosen),
        }

    def codes_of(self, clip: Clip) -> Tensor:
        """A clip's codes, made once by each process."""
        key = zlib.crc32(clip.wave.tobytes()), len(clip.wave)
        if key not in self.coded:
            self.coded[key] = self.tokenizer.codes(clip.mel)
        return self.coded[key]

    @cached_property
    def coded(self) -> dict[tuple[int, int], Tensor]:
        """Codes of the clips that this process has coded."""
        return {}

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        dit, cond, settings = model["dit"], model["speaker_encoder"](batch["cond"]), self.settings

        def network(noisy: Tensor, time: Tensor, drop: Tensor) -> Tensor:
            return dit(noisy, time, batch["codes"], cond, batch["reference"], drop, batch["mask"])

        figures: dict[str, Tensor] = {}

        def words(mel: Tensor, drop: Tensor) -> Tensor:
            # Rows without codes are left out: nothing tells them what is said.
            figures["phonemes"] = self.missed(mel, batch["phonemes"].masked_fill(drop[:, None], IGNORED), batch["mask"])
            return settings.words * (1 - settings.own) * figures["phonemes"]

        dropout = settings.guidance_dropout if model.training else 0.0
        readable = settings.words > 0 and bool((batch["phonemes"] != IGNORED).any())
        loss = flow_matching.training_loss(
            network, batch["mel"], batch["mask"], dropout, beside=words if readable else None
        )
        if settings.words:
            # In the log what is read of batches by other voices counts as 0.
            told = settings.words * (1 - settings.own) * figures.get("phonemes", loss * 0)
            figures["flow matching"] = loss.detach() - told.detach()
        if settings.own and readable:
            rows = slice(max(1, round(settings.own * len(cond))))
            mask, labels = batch["mask"][rows], batch["phonemes"][rows]
            seen = (batch["codes"][rows], cond[rows], batch["reference"][rows])
            figures["own phonemes"] = self.missed(self.own_mel(dit, seen, mask), labels, mask)
            loss = loss + settings.words * settings.own * figures["own phonemes"]
        return loss, figures

    def missed(self, mel: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """What the reader cannot read off mels, in nats a frame. Behind a clip's end stand zeros, as when it learned,
        and nothing is asked of the DiT there."""
        return unread(self.reader(mel.masked_fill(~mask[..., None], 0.0)), labels)

    def own_mel(self, dit: Any, seen: tuple[Tensor, Tensor, Tensor], mask: Tensor) -> Tensor:
        """The mel at which the DiT points from where it comes by itself, at a time drawn for each row: as in a reply
        from less noise than training's, and guided. The gradient is of the last velocity alone."""
        codes, cond, reference = seen
        noise = TEMPERATURE * torch.randn(*mask.shape, dit.config.mel_dim, device=mask.device)
        time, drop = torch.rand(len(mask), device=mask.device), torch.arange(2 * len(mask), device=mask.device)
        both, drop = [torch.cat((x, x)) for x in (codes, cond, reference, mask)], drop >= len(mask)

        def guided(now: Tensor, state: Tensor) -> Tensor:
            out = dit(torch.cat((state, state)), torch.cat((now, now)), *both[:3], drop, both[3])
            conditional, unconditional = out.chunk(2)
            return flow_matching.guided_velocity(conditional, unconditional, GUIDANCE)

        with torch.no_grad():
            state = flow_matching.own_point(guided, noise, time, OWN_STEPS)
        return flow_matching.destination(state, dit(state, time, *seen, None, mask), time)

    def blocks(self, model: Any) -> list[nn.Module]:
        """None: the DiT asks all its layers for their modulations before it calls the first one."""
        return []

    def compile(self, model: Any) -> None:
        model["dit"].compile()

    def evaluate(self, model: Any) -> dict[str, float]:
        """Flow-matching loss on sentences never heard, by speakers never heard and, three of ten, by the source voice;
        distance of sampled mels from the real ones."""
        pairs = speech_bank.shard("test", 0, self.settings.sentences)[: 4 if self.settings.steps < 100 else 24]
        clips = [clip for pair in pairs for clip in pair]
        from ..loader import to_device

        own = [(clip, clip) for clip in clips[::2]]
        batch = self.examples(own, clips, generator("dit evaluation", "test", 0, 0))
        batch = to_device(batch, model["dit"].proj_out.bias.device)
        loss, _ = self.loss(model, batch, "main")
        cond = model["speaker_encoder"](batch["cond"])
        made = model["dit"].sample(batch["codes"], cond, batch["reference"], num_steps=9, solver="euler")
        error = ((made - batch["mel"]).abs().mean(-1) * batch["mask"]).sum() / batch["mask"].sum()
        return {"loss": loss.item(), "sampled mel error": error.item()}

    def finish(self, model: Any) -> None:
        save_part(self.parts, "dit", model["dit"])
        save_part(self.parts, "speaker_encoder", model["speaker_encoder"])
