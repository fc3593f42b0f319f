"""Talker: from what the thinker says and how it means it, to codec tokens (report, section 2.3).

Two tracks run side by side. The text track carries the thinker's reply, one vector per token, then text_eos, then
text_pad for ever; the code track carries the codes made so far. Their sum enters a decoder of its own:

    position     context ...   speaker bos   reply 0     reply 1   reply 2   ...   text_eos   text_pad  ...
    plus                       codec_pad     codec_bos   code 0    code 1    ...   code n     code n+1  ...
    predicts                                 code 0      code 1    code 2    ...                        codec_eos

Notable:
- a vector is the thinker's last hidden state (tone, what comes next) plus the input embedding (which word exactly);
- where the context holds sound or pictures the embedding is left out;
- the reply may come from an iterator: the first code needs the first vector only, not the end of the text.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import sampling as samplers
from . import tmrope
from .config import TalkerConfig
from .cpu_kernels import DecoderLinear
from .decoding import ROOM, Stepper
from .errors import InputError
from .layers import Decoder, KVCache
from .sampling import Sampling

LOUD = 0.6  # root mean square of fresh codes' embeddings
WRITING = ("o_proj", "down_proj")  # what writes into the residual stream
IGNORE = -100  # a label that does not count, and padding of codes


@dataclass(frozen=True)
class TalkerContext:
    """What the talker knows before the reply, for a batch; `context_vectors` makes the first field."""

    embeds: Tensor  # (batch, length, embedding_size)
    input_ids: Tensor  # (batch, length): the thinker's, of which positions are computed
    speaker_bos: Tensor  # (batch or 1, embedding_size): the thinker's embedding of the speaker's token
    text_eos: Tensor  # (embedding_size,): the thinker's embedding of tts_text_end_token_id
    text_pad: Tensor  # (embedding_size,): and of tts_text_pad_token_id
    attention_mask: Tensor | None = None  # (batch, length), 1 for real tokens; padding on either side
    image_grid_thw: Tensor | None = None  # the media of the prompt, as the thinker had them
    video_grid_thw: Tensor | None = None
    audio_seqlens: Tensor | None = None
    video_second_per_grid: Tensor | Sequence[float] | None = None
    use_audio_in_video: bool = False


@dataclass
class TalkerOutput:
    """What a teacher-forced pass gives."""

    logits: Tensor  # (batch, codes + 1, vocab): of each code and of what follows the last
    loss: Tensor  # scalar, nats a code


@dataclass
class Prefilled:
    """A talker that has heard the context and waits for the first reply vector."""

    cache: KVCache
    text_eos: Tensor
    text_pad: Tensor
    position: Tensor  # (3, batch, 1): of the first reply vector, as of all text three times the same
    next_position: Tensor  # (batch,): of the code after it


def context_vectors(hidden_states: Tensor, inputs_embeds: Tensor, input_ids: Tensor, config: TalkerConfig) -> Tensor:
    """Hidden state plus embedding, at media places the hidden state alone: (batch, length, embedding_size).

    hidden_states: after the thinker's last norm; inputs_embeds: its input, media in their places; both of that shape.
    """
    media = (config.audio_token_index, config.image_token_index, config.video_token_index)
    return thinker_vectors(
        hidden_states, inputs_embeds, torch.isin(input_ids, torch.tensor(media, device=input_ids.device))
    )


def thinker_vectors(hidden_states: Tensor, inputs_embeds: Tensor, is_media: Tensor) -> Tensor:
    """What the talker is told at each place: (batch, length, dim) twice, (batch, length) bool -> (batch, length, dim).

    The hidden state, plus the embedding where a word stands (report, section 2.3; at media places as the reference)."""
    return hidden_states + inputs_embeds.masked_fill(is_media.unsqueeze(-1), 0)


def text_track(reply: Iterable[Tensor], text_eos: Tensor, text_pad: Tensor) -> Iterator[Tensor]:
    """The reply's vectors, (batch, embedding_size) each, as they come; then text_eos once, then text_pad for ever."""
    yield from reply
    yield text_eos
    yield from itertools.repeat(text_pad)


def padded_text_track(reply: Tensor, lengths: Tensor, text_eos: Tensor, text_pad: Tensor, steps: int) -> Tensor:
    """`text_track` of replies of different lengths: (batch, longest, dim) and (batch,) -> (batch, steps, dim)."""
    reply = F.pad(reply, (0, 0, 0, max(0, steps - reply.shape[1])))[:, :steps]
    place = torch.arange(steps, device=reply.device)[None, :, None]  # (1, steps, 1)
    end = lengths.to(reply.device)[:, None, None]
    return torch.where(place < end, reply, torch.where(place == end, text_eos, text_pad))


def code_targets(codes: Tensor, end_token: int) -> Tensor:
    """What each place shall predict: the codes, then `end_token`, then IGNORE: (batch, n) -> (batch, n + 1)."""
    targets = F.pad(codes, (0, 1), value=IGNORE)
    count = (codes != IGNORE).sum(1, keepdim=True)
    return targets.scatter(1, count, end_token)


def talker_inputs(context: Tensor, speaker_bos: Tensor, text: Tensor, codes: Tensor, codec_pad: Tensor) -> Tensor:
    """Both tracks, summed: context | speaker bos + codec_pad | text + codes (report, section 2.3).

    context: (batch, length, dim); speaker_bos: (batch or 1, dim); text: (batch, steps, dim) from the first reply vector
    on; codes: (batch, steps, dim), embeddings of codec_bos and the codes; codec_pad: (dim,), an embedding too.
    Returns (batch, length + 1 + steps, dim).
    """
    opening = (speaker_bos + codec_pad).expand(context.shape[0], -1).unsqueeze(1)
    return torch.cat((context, opening, text + codes), dim=1)


class Talker(nn.Module):
    """The decoder over both tracks, under the names of the released checkpoints."""

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.config = config
        self.thinker_to_talker_proj = DecoderLinear(config.embedding_size, config.hidden_size)
        self.model = Decoder(config, config.embedding_size)
        self.codec_head = DecoderLinear(config.hidden_size, config.vocab_size, bias=False)
        # The release's; a checkpoint's generation_config.json may say otherwise.
        self.default_sampling = Sampling(0.9, 40, 0.8, 1.05, (config.tts_codec_start_token_id,))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Fresh weights: codes as loud as what the thinker says, and a projection that keeps them so.

        Codes are *added* to the thinker's vectors, which have a root mean square near one. Begun at the usual 0.02 they
        drown, above all in text_pad, the same large vector at nearly every place. Matrices nearly keep the size of what
        they are given, those that write into the residual stream a third of it."""
        nn.init.normal_(self.model.embed_tokens.weight, std=LOUD)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                kept = 1.0 if name == "thinker_to_talker_proj" else 0.35 if name.endswith(WRITING) else 0.7
                nn.init.normal_(module.weight, std=kept * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.codec_head.weight, std=0.02)  # all codes equally likely at first

    @property
    def end_tokens(self) -> tuple[int, int]:
        """What ends a reply: codec_eos, and codec_pad as well."""
        return self.config.tts_codec_end_token_id, self.config.tts_codec_pad_token_id

    def code_embed(self, token: int) -> Tensor:
        """Embedding of one code or special token: (embedding_size,)."""
        return self.model.embed_tokens.weight[token]

    def forward(
        self,
        context: TalkerContext,
        reply: Tensor,
        codes: Tensor,
        reply_lengths: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> TalkerOutput:
        """Teacher-forced loss of a batch, differentiable down to the thinker's states.

        reply: (batch, longest reply, embedding_size) with (batch,) lengths (default: all full); codes: (batch, n),
        IGNORE behind the end of shorter rows. labels: (batch, n + 1), default `code_targets`; IGNORE where nothing is
        to be learned, as in the prompt of an in-context continuation. Raises InputError.
        """
        config = self.config
        lengths = self.check(context, reply, reply_lengths, codes)
        targets = code_targets(codes, config.tts_codec_end_token_id) if labels is None else labels
        steps = codes.shape[1] + 1
        if targets.shape != (codes.shape[0], steps):
            raise InputError(f"talker: labels are {tuple(targets.shape)}, expected {(codes.shape[0], steps)}")
        text = padded_text_track(reply, lengths, context.text_eos, context.text_pad, steps)
        spoken = F.pad(codes.masked_fill(codes == IGNORE, 0), (1, 0), value=config.tts_codec_start_token_id)
        inputs = talker_inputs(
            context.embeds,
            context.speaker_bos,
            text,
            self.model.embed_tokens(spoken),
            self.code_embed(config.tts_codec_pad_token_id),
        )
        positions, next_position = self.positions(context)
        later = next_position[:, None] + torch.arange(steps - 1, device=inputs.device)  # (batch, steps - 1)
        positions = torch.cat((positions, later.expand(3, -1, -1)), dim=2)
        mask = context.attention_mask
        mask = None if mask is None else F.pad(mask, (0, steps + 1), value=1)
        # Autocast would hand on 16 bits, and everything is added to this.
        hidden = self.model(self.thinker_to_talker_proj(inputs).to(inputs.dtype), positions, mask)
        logits = self.codec_head(hidden[:, -steps:])
        # A sum over the whole table wants 32 bits or more.
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = F.cross_entropy(exact.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
        return TalkerOutput(logits, total / (targets != IGNORE).sum().clamp(min=1))

    def check(
        self, context: TalkerContext, reply: Tensor, lengths: Tensor | None, codes: Tensor | None = None
    ) -> Tensor:
        """The replies' lengths, (batch,); raises InputError for shapes that do not fit and codes beyond the table."""
        config, batch = self.config, context.embeds.shape[0]
        if context.embeds.ndim != 3 or context.embeds.shape[2] != config.embedding_size:
            shape = f"(batch, length, {config.embedding_size})"
            raise InputError(f"talker: the context is {tuple(context.embeds.shape)}, expected {shape}")
        if context.input_ids.shape != context.embeds.shape[:2]:
            ids, states = tuple(context.input_ids.shape), tuple(context.embeds.shape[:2])
            raise InputError(f"talker: input_ids are {ids}, the context is {states}")
        if reply.ndim != 3 or reply.shape[0] != batch or reply.shape[2] != config.embedding_size:
            shape = f"({batch}, vectors, {config.embedding_size})"
            raise InputError(f"talker: the reply is {tuple(reply.shape)}, expected {shape}")
        if lengths is None:
            lengths = torch.full((batch,), reply.shape[1], device=reply.device)
        if lengths.shape != (batch,) or bool(((lengths < 0) | (lengths > reply.shape[1])).any()):
            raise InputError(f"talker: reply lengths {lengths.tolist()} do not fit a reply of {reply.shape[1]} vectors")
        if codes is not None:
            if codes.ndim != 2 or codes.shape[0] != batch or codes.is_floating_point():
                raise InputError(f"talker: codes are {tuple(codes.shape)} {codes.dtype}, expected whole ({batch}, n)")
            wrong = codes[(codes != IGNORE) & ((codes < 0) | (codes >= config.vocab_size))]
            if wrong.numel():
                raise InputError(f"talker: code {int(wrong[0])} is not in the table of {config.vocab_size}")
            if bool(((codes[:, :-1] == IGNORE) & (codes[:, 1:] != IGNORE)).any()):
                raise InputError(f"talker: padding of codes ({IGNORE}) must stand behind them")
            if bool((lengths == 0).any()):
                raise InputError("talker: a row has no reply vector, so there is nothing to say")
        return lengths

    def positions(self, context: TalkerContext) -> tuple[Tensor, Tensor]:
        """TMRoPE ids of context, speaker bos and first vector, (3, batch, length + 2), and of what follows, (batch,).

        Always computed: a prompt without padding has them as one with padding does.
        """
        ids = F.pad(context.input_ids, (0, 2), value=self.config.tts_text_start_token_id)
        mask = torch.ones_like(context.input_ids) if context.attention_mask is None else context.attention_mask
        mask = F.pad(mask.long(), (0, 2), value=1)
        positions, delta = tmrope.position_ids(
            ids,
            context.image_grid_thw,
            context.video_grid_thw,
            mask,
            context.use_audio_in_video,
            context.audio_seqlens,
            context.video_second_per_grid,
            config=self.config,
        )
        return positions, mask.sum(1) + delta.squeeze(1)

    @torch.no_grad()
    def prefill(self, context: TalkerContext) -> Prefilled:
        """Take in the context and the speaker. Raises InputError."""
        self.check(context, context.embeds[:, :0], None)
        batch, length, _ = context.embeds.shape
        weight = self.codec_head.weight
        cache = KVCache(self.config, batch, length + 1, weight.device, weight.dtype)
        nothing = context.embeds[:, :0]
        pad = self.code_embed(self.config.tts_codec_pad_token_id)
        positions, next_position = self.positions(context)
        mask = context.attention_mask
        mask = None if mask is None else F.pad(mask, (0, 1), value=1)
        inputs = talker_inputs(context.embeds, context.speaker_bos, nothing, nothing, pad)
        inputs = self.thinker_to_talker_proj(inputs)
        self.model(inputs, positions[:, :, :-1], mask, None, cache)
        return Prefilled(cache, context.text_eos, context.text_pad, positions[:, :, -1:], next_position)

    @torch.no_grad()
    def decode(
        self,
        start: Prefilled,
        track: Iterator[Tensor],
        max_new_tokens: int = 4096,
        sampling: Sampling | None = None,
        generator: torch.Generator | None = None,
        ended: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """One code of each row at a time, (batch,), until all rows have ended; rows that have ended hold codec_pad.

        track: the text track, one (batch, embedding_size) or (embedding_size,) vector a step; the next one is asked for
        after the code before it has been yielded. sampling: default `default_sampling`. ended: (batch,) rows with
        nothing to say. `start` is used up.
        """
        config, sampling = self.config, sampling or self.default_sampling
        cache, pad = start.cache, config.tts_codec_pad_token_id
        device, batch = self.codec_head.weight.device, start.position.shape[1]
        ended = torch.zeros(batch, dtype=torch.bool, device=device) if ended is None else ended.to(device).clone()
        stops = samplers.stop_table(self.end_tokens, device)
        seen = torch.zeros(batch, config.vocab_size, dtype=torch.bool, device=device)
        # The prompt counts as seen: its code track is mask tokens, pad and bos.
        seen[:, [config.tts_codec_mask_token_id, pad, config.tts_codec_start_token_id]] = True
        first = next(track, None)
        if first is None or bool(ended.all()):
            return
        cache.reserve(1 + min(max_new_tokens, ROOM), spare=False)
        first = (first + self.code_embed(config.tts_codec_start_token_id)).expand(batch, -1)
        cache.next_start = cache.next_position = start.position[0, :, 0]
        step = Stepper(self.model, self.codec_head, cache)
        hidden = step(self.thinker_to_talker_proj(first))
        step.jump(start.next_position)
        for count in range(1, max_new_tokens + 1):
            codes = samplers.next_token(step.logits(hidden), sampling, seen, generator)
            codes = codes.masked_fill(ended, pad)
            seen.scatter_(1, codes[:, None], True)
            ended |= torch.isin(codes, stops)
            if bool(ended.all()):
                return
            yield codes.masked_fill(ended, pad)
            if count == max_new_tokens:
                return
            vectors = self.model.embed_tokens(codes) + next(track)
            hidden = step(self.thinker_to_talker_proj(vectors))

    def stream(self, context: TalkerContext, reply: Iterable[Tensor], **how) -> Iterator[Tensor]:
        """Codes while the reply is still being written: `reply` yields (batch, embedding_size) vectors; see `decode`.

        An empty reply gives no codes.
        """
        vectors = iter(reply)
        first = next(vectors, None)
        if first is None:
            return
        start = self.prefill(context)
        track = text_track(itertools.chain([first], vectors), context.text_eos, context.text_pad)
        yield from self.decode(start, track, **how)

    def generate(
        self, context: TalkerContext, reply: Tensor, reply_lengths: Tensor | None = None, **how
    ) -> list[Tensor]:
        """Codes of a batch of finished replies: (batch, longest, embedding_size) -> one (n,) int64 tensor a row.

        Rows without reply vectors give no codes. `how`: max_new_tokens, sampling, generator, as in `decode`.
        """
        lengths = self.check(context, reply, reply_lengths)
        steps = reply.shape[1] + 1  # the longest row's text_eos included
        text = padded_text_track(reply, lengths, context.text_eos, context.text_pad, steps)
        track = itertools.chain(text.unbind(1), itertools.repeat(context.text_pad))
        rows = list(self.decode(self.prefill(context), track, ended=lengths == 0, **how))
        if not rows:
            return [torch.empty(0, dtype=torch.long, device=reply.device) for _ in lengths]
        codes = torch.stack(rows, dim=1)  # (batch, steps)
        pad = self.config.tts_codec_pad_token_id
        return [row[: int((row != pad).sum())] for row in codes]
