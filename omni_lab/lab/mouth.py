"""Lab 06's mouth: a thinker that has read the sentence, a talker that says it, a codec that makes it sound.

All in batches: one pass of the thinker for many sentences, all tries of all of them in one generation.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..omni import OmniModel
from ..talker import IGNORE, Talker, TalkerContext
from ..thinker import Thinker
from ..train import preferences
from ..train.loader import to_device
from ..train.recipes import talker as recipes
from . import announcer
from .announcer import Announcer

NANO = recipes.TalkerRecipe(recipes.SCALES["smoke"])


@dataclass(frozen=True)
class Heard:
    """What a talker is given of each sentence of a batch."""

    context: TalkerContext
    reply: Tensor  # (batch, longest, dim)
    lengths: Tensor  # (batch,)

    def rows(self, index: Tensor) -> "Heard":
        """Some of the rows, in that order; a row may come twice."""
        batch = len(self.lengths)
        own = {f.name: getattr(self.context, f.name) for f in fields(self.context)}
        taken: dict[str, Any] = {
            k: v[index] for k, v in own.items() if torch.is_tensor(v) and v.ndim > 1 and len(v) == batch
        }
        return Heard(replace(self.context, **taken), self.reply[index], self.lengths[index])


@dataclass(frozen=True)
class Mouth:
    """Says sentences."""

    thinker: Thinker
    talker: Talker
    sound: Callable[[Sequence[Tensor]], list[Tensor]]  # codes (n,) each -> 24 kHz waves (samples,) each
    codes: int  # ids from here on are no sound
    longest: int  # codes of a sentence

    @property
    def device(self) -> torch.device:
        """Where it computes; codes and sound come and go on the CPU."""
        return self.talker.codec_head.weight.device

    @torch.no_grad()
    def hear(self, texts: Sequence[str], speaker: int = 0) -> Heard:
        """The thinker reads the sentences: "Say: ..." and the answer. speaker: which token opens the reply."""
        nothing = torch.zeros(1, dtype=torch.long)
        batch = NANO.pack([recipes.Spoken(recipes.said(text), nothing, speaker) for text in texts])
        batch = to_device(batch, self.device)
        seen = self.thinker(**batch["thinker"], logits_to_keep=0)
        context, reply = recipes.talker_view(self.thinker, self.talker, seen, batch)
        return Heard(context, reply, batch["reply_lengths"])

    @torch.no_grad()
    def say(
        self, texts: Sequence[str], tries: int = 1, seed: int = 0, rows: int = 64, speaker: int = 0
    ) -> list[list[Tensor]]:
        """`tries` attempts at each sentence, drawn with the talker's own dials: codes (n,), none of them special."""
        dice, made = torch.Generator(self.device).manual_seed(seed), []
        heard = self.hear(texts, speaker)
        places = torch.arange(len(texts)).repeat_interleave(tries)
        for some in places.split(rows):
            part = heard.rows(some)
            made += self.talker.generate(
                part.context, part.reply, part.lengths, max_new_tokens=self.longest, generator=dice
            )
        made = [row[row < self.codes].cpu() for row in made]
        return [made[i * tries : (i + 1) * tries] for i in range(len(texts))]

    def log_probabilities(self, talker: Talker, heard: Heard, codes: Sequence[Tensor]) -> Tensor:
        """log p of each row of codes and of its end, (batch,), in nats, under `talker`."""
        padded = torch.nn.utils.rnn.pad_sequence(list(codes), batch_first=True, padding_value=IGNORE).to(self.device)
        targets = recipes.code_targets(padded, talker.config.tts_codec_end_token_id)
        logits = talker(heard.context, heard.reply, padded, heard.lengths, targets).logits
        return preferences.sequence_log_probability(logits, targets)


def with_talker(who: Mouth, talker: Talker) -> Mouth:
    """The same mouth with another talker."""
    return replace(who, talker=talker)


def small(thinker: Thinker, talker: Talker, voice: Announcer) -> Mouth:
    """The telephone announcer's mouth."""
    return Mouth(thinker, talker, lambda rows: [voice.wave(row) for row in rows], voice.silence + 1, 100)


def shipped(model: OmniModel, speaker: str, longest: int = 500) -> Mouth:
    """The model's own mouth: DiT (4 Euler steps) and vocoder, one row at a time.

    On a CPU that takes a third of the time of a batch of 8: what lies between the vocoder's layers stays in the cache,
    and it has a quicker copy of itself for single rows (`packed_vocoder`)."""

    @torch.no_grad()
    def sound(rows: Sequence[Tensor]) -> list[Tensor]:
        waves = []
        for row in rows:
            noise = torch.randn(1, 2 * len(row), 80, generator=torch.Generator().manual_seed(0))
            how: dict[str, Any] = {"speaker": speaker, "noise": noise, "num_steps": 5, "solver": "euler"}
            waves.append(model.token2wav(row[None], **how)[0].float().cpu() if len(row) else torch.zeros(0))
        return waves

    return Mouth(model.thinker, model.talker, sound, model.speech_tokenizer.config.codebook_size, longest)


@dataclass(frozen=True)
class Pull:
    """What a loss on preferences may look at: a batch of pairs, all (batch,)."""

    chosen: Tensor  # log p under the policy, in nats
    rejected: Tensor
    chosen_before: Tensor  # log p under the reference
    rejected_before: Tensor
    chosen_length: Tensor  # codes, the end included
    rejected_length: Tensor

    @property
    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four log-probabilities in the order in which DPO takes them."""
        return self.chosen, self.rejected, self.chosen_before, self.rejected_before


def post_train(
    who: Mouth,
    pairs: Sequence[preferences.Triple],
    loss: Callable[[Pull], Tensor],
    steps: int,
    rate: float = 5e-4,
    anchor: float = 5.0,
    batch: int = 8,
    seed: int = 0,
) -> tuple[Talker, list[tuple[float, float]]]:
    """A copy of the talker after `steps` of learning from preferences; the talker itself stays, as the reference.

    loss: of a batch. anchor: weight of the loss on the winners' own codes, in nats a code, as in the recipe
    `talker_dpo` and in Pang et al. 2024 (section 2). DPO's own terms are sums over the codes: an anchor that is to hold
    against them needs a weight of about beta / 2 times the codes of an attempt (some 60 here). The story holds, of each
    step, the share of pairs preferred more than before, and the change of log p of the winners in nats a code."""
    policy, heard = copy.deepcopy(who.talker).train(), who.hear([pair.text for pair in pairs])
    sides = [[pair.chosen for pair in pairs], [pair.rejected for pair in pairs]]
    with torch.no_grad():  # the reference does not change: once is enough
        before = [who.log_probabilities(who.talker, heard, rows) for rows in sides]
    lengths = [torch.tensor([len(row) + 1.0 for row in rows], device=who.device) for rows in sides]
    dice, story = torch.Generator().manual_seed(seed), []

    def loss_of(step: int) -> Tensor:
        some = torch.randperm(len(pairs), generator=dice)[:batch]
        now = [who.log_probabilities(policy, heard.rows(some), [rows[i] for i in some]) for rows in sides]
        pull = Pull(*now, *(old[some] for old in before), *(length[some] for length in lengths))
        change = (pull.chosen - pull.chosen_before) / pull.chosen_length
        story.append((preferences.reward_accuracy(*pull.all).item(), change.mean().item()))
        return loss(pull) - anchor * (pull.chosen / pull.chosen_length).mean()

    announcer.learn(policy, loss_of, steps, rate, warm_up=0.1)
    return policy.eval(), story
