"""What a conversation leaves behind in thinker and talker: their KV caches, fed piece by piece with true positions.

The talker hears what the thinker has understood, token by token, so it can take its context in while the question is
still being asked. After a reply its cache goes back to where the reply began and takes in the words instead of the
codes: in the next turn they are context like any other, as in the reference.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import talker as talkers
from ..codec.speaker import Speaker
from ..errors import InputError
from ..layers import KVCache
from ..talker import Prefilled
from ..thinker import ThinkerOutput, Token


@dataclass(frozen=True)
class Place:
    """A point in the conversation to which one can go back."""

    length: int  # tokens
    start: int  # position at which the next segment starts
    top: int  # position of the next generated token; above `start` only after wide pictures in a video with sound


class Memory:
    """The caches of one conversation of at most `limit` tokens."""

    def __init__(self, model: Any, limit: int) -> None:
        config = model.config
        self.model, self.limit = model, limit
        weight = model.thinker.lm_head.weight
        self.thinker = KVCache(config.thinker_config.text_config, 1, 512, weight.device, weight.dtype)
        self.talker: KVCache | None = None
        if model.talker is not None:
            weight = model.talker.codec_head.weight
            self.talker = KVCache(config.talker_config, 1, 512, weight.device, weight.dtype)
        vocabulary = config.thinker_config.text_config.vocab_size
        self.seen = torch.zeros(1, vocabulary, dtype=torch.bool, device=model.device)  # for a repetition penalty
        self.place = Place(0, 0, 0)
        self.output: ThinkerOutput | None = None

    def check(self, tokens: int) -> None:
        """Raise InputError unless so many tokens more fit."""
        if self.place.length + tokens > self.limit:
            raise InputError(
                f"the conversation is full: {self.place.length} tokens and {tokens} more, at most {self.limit} fit "
                "(a second of sound takes 25): begin a new one"
            )

    def feed(self, ids: Tensor, embeds: Tensor, positions: Tensor) -> None:
        """Take in tokens: ids (n,), input embeddings (n, hidden_size), positions (3, n). Raises InputError if full."""
        count = len(ids)
        if not count:
            return
        self.check(count)
        device, config = self.model.device, self.model.config.talker_config
        ids, embeds, positions = ids[None].to(device), embeds[None], positions[:, None].to(device)
        self.output = self.model.thinker.prefill(self.thinker, inputs_embeds=embeds, position_ids=positions)
        if self.talker is not None:
            context = talkers.context_vectors(self.output.last_hidden_state, embeds, ids, config)
            self.hear(context, positions)
        self.seen[0, ids[0]] = True
        highest = positions.amax(0)[0]
        start = int(highest[-1]) + 1
        self.place = Place(self.place.length + count, start, max(self.place.top, int(highest.max()) + 1))
        self.settle()

    def hear(self, context: Tensor, positions: Tensor) -> None:
        """Give the talker vectors (1, n, embedding_size) at positions (3, 1, n)."""
        talker = self.model.talker
        talker.model(talker.thinker_to_talker_proj(context), positions, None, None, self.talker)

    def settle(self) -> None:
        """Tell the thinker's cache where it stands."""
        device = self.model.device
        self.thinker.next_start = torch.tensor([self.place.start], device=device)
        self.thinker.next_position = torch.tensor([self.place.top], device=device)

    def back_to(self, place: Place) -> None:
        """Forget what came after `place`."""
        self.place, self.output = place, None
        self.thinker.crop(place.length)
        if self.talker is not None:
            self.talker.crop(place.length)
        self.settle()

    def talk(self, voice: Speaker) -> Prefilled:
        """The talker, opened for a reply in a voice behind all that it has heard."""
        model, config = self.model, self.model.config.talker_config
        table = model.thinker.model.embed_tokens.weight
        if not 0 <= voice.bos_token < len(table):
            raise InputError(f"the speaker's token {voice.bos_token} is not in the vocabulary of {len(table)}")
        if self.talker is None:
            raise InputError("this model has no talker (enable_audio_output is false): ask with speak=False")
        special = [voice.bos_token, config.tts_text_end_token_id, config.tts_text_pad_token_id]
        bos, eos, pad = table[special].unbind(0)
        opening = (bos + model.talker.code_embed(config.tts_codec_pad_token_id))[None, None]
        start, device = self.place.start, model.device
        self.hear(opening, torch.full((3, 1, 1), start, device=device))
        position = torch.full((3, 1, 1), start + 1, device=device)
        following = torch.tensor([max(start + 2, self.place.top)], device=device)
        return Prefilled(self.talker, eos, pad, position, following)

    def replied(self, tokens: list[Token]) -> list[int]:
        """Turn a reply into context. Returns the ids that the thinker has written but not yet taken in (one, or none).

        The thinker's cache holds the tokens fed back to it; the talker's is taken back to before the reply."""
        if self.talker is not None:
            self.talker.crop(self.place.length)
        fed = [token.hidden + token.embeds for token in tokens if token.hidden is not None]
        if fed and self.talker is not None:
            context = torch.stack(fed, dim=1)  # (1, tokens, embedding_size)
            positions = torch.arange(self.place.top, self.place.top + len(fed), device=self.model.device)
            self.hear(context, positions.expand(3, 1, -1))
        top = self.place.top + len(fed)
        self.place = Place(self.place.length + len(fed), top if fed else self.place.start, top)
        self.thinker.crop(self.place.length)
        self.settle()
        return [int(token.ids) for token in tokens[len(fed) :]]
