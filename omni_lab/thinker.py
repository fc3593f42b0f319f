"""Thinker: text, pictures, sound and video in, text out (report, section 2.2; the decoder is Qwen2.5's).

Media are encoded, put in the places of their placeholder tokens, and from there on treated as text; only their
positions (TMRoPE) differ. A reply is made in two steps that streaming can interleave: `prefill` takes the prompt in,
whole or in pieces, `decode` yields one token at a time together with what the talker needs of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import decoding, tmrope
from . import sampling as samplers
from .config import ThinkerConfig
from .cpu_kernels import DecoderLinear
from .encoders.audio import AudioEncoder
from .encoders.vision import VisionEncoder
from .errors import InputError
from .layers import Decoder, KVCache
from .sampling import GREEDY, Sampling

IGNORE = -100  # a label that does not count
WRITING = ("o_proj", "down_proj", "attn.proj", "out_proj", "fc2")  # what writes into a residual stream


@dataclass
class ThinkerOutput:
    """What a pass of the thinker gives."""

    logits: Tensor | None  # (batch, length, vocab); after `prefill` (batch, 1, vocab); None where not asked for
    loss: Tensor | None  # scalar in nats a token, where labels were given
    hidden_states: tuple[
        Tensor, ...
    ]  # [0] input embeddings, [-1] after the last norm; all layers between, if asked for
    rope_deltas: Tensor | None  # (batch, 1): position of the next token minus number of tokens
    cache: KVCache | None

    @property
    def inputs_embeds(self) -> Tensor:
        """Input embeddings with media in their places: (batch, length, hidden_size)."""
        return self.hidden_states[0]

    @property
    def last_hidden_state(self) -> Tensor:
        """After the last norm: (batch, length, hidden_size)."""
        return self.hidden_states[-1]


@dataclass
class Token:
    """One decoded token of each row."""

    ids: Tensor  # (batch,); `pad_token_id` in rows that have ended
    embeds: Tensor  # (batch, hidden_size): its input embedding
    hidden: Tensor | None  # (batch, hidden_size) after the last norm; None for the very last, which is never fed back


class Thinker(nn.Module):
    """Encoders, decoder and head under the names of the released checkpoints: visual, audio_tower, model, lm_head."""

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_tower = AudioEncoder(config.audio_config)
        self.visual = VisionEncoder(config.vision_config)
        self.model = Decoder(config.text_config)
        self.lm_head = DecoderLinear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.initialise()
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @torch.no_grad()
    def initialise(self) -> None:
        """Fresh weights, which keep the size of what they are given; what writes into a residual stream halves it.

        The usual deviation of 0.02 does so at a width of 2,500; at 256 it leaves a third, from layer to layer."""
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv3d)):
                kept = 0.5 if name.endswith(WRITING) else 1.0
                nn.init.normal_(module.weight, std=kept * module.weight[0].numel() ** -0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)
        nn.init.normal_(self.lm_head.weight, std=0.02)  # all tokens equally likely at first
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def gradient_checkpointing(self, on: bool = True) -> None:
        """Recompute layers in backward instead of keeping what they computed: less memory, a third more time."""
        self.model.gradient_checkpointing = on
        self.visual.gradient_checkpointing = on
        self.audio_tower.gradient_checkpointing = on

    def audio_features(
        self,
        input_features: Tensor,
        feature_attention_mask: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Encode sound: (clips, mels, frames) log-mel and either a mask (clips, frames) or (clips,) lengths in frames.

        Returns (tokens, hidden_size), the clips' tokens one after another. Raises InputError for NaN and wrong shapes.
        """
        check_finite(input_features, "input_features")
        if feature_attention_mask is not None:
            mask = feature_attention_mask.bool()
            if input_features.dim() != 3 or mask.shape != (input_features.shape[0], input_features.shape[2]):
                shapes = f"{tuple(input_features.shape)} and {tuple(mask.shape)}"
                raise InputError(
                    f"input_features and their mask are {shapes}, expected (n, mels, frames) and (n, frames)"
                )
            input_features, lengths = input_features.transpose(1, 2)[mask].t(), mask.sum(1)
        elif lengths is None:
            lengths = [input_features.shape[-1]] * (input_features.shape[0] if input_features.dim() == 3 else 1)
        return self.audio_tower(input_features, lengths)

    def vision_features(self, pixel_values: Tensor, grid_thw: Tensor | None, name: str = "pixel_values") -> Tensor:
        """Encode pictures or videos: (patches, values) and their (n, 3) sizes -> (tokens, hidden_size)."""
        if grid_thw is None:
            raise InputError(f"{name} came without their grid_thw: pass the sizes in patches, (n, 3)")
        check_finite(pixel_values, name)
        return self.visual(pixel_values, grid_thw)

    def embed(
        self,
        input_ids: Tensor,
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
        audio_feature_lengths: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
    ) -> Tensor:
        """Input embeddings with media in the places of their tokens: (batch, length) -> (batch, length, hidden_size).

        Raises InputError where placeholders and features differ in number.
        """
        if input_ids.dim() != 2:
            raise InputError(f"input_ids are {tuple(input_ids.shape)}, expected (batch, length)")
        embeds = self.model.embed_tokens(input_ids)
        sound = pictures = videos = None
        if input_features is not None:
            sound = self.audio_features(input_features, feature_attention_mask, audio_feature_lengths)
        if pixel_values is not None:
            pictures = self.vision_features(pixel_values, image_grid_thw)
        if pixel_values_videos is not None:
            videos = self.vision_features(pixel_values_videos, video_grid_thw, "pixel_values_videos")
        config = self.config
        embeds = place(embeds, input_ids == config.audio_token_index, sound, "audio")
        embeds = place(embeds, input_ids == config.image_token_index, pictures, "image")
        return place(embeds, input_ids == config.video_token_index, videos, "video")

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
        audio_feature_lengths: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        video_second_per_grid: Tensor | Sequence[float] | None = None,
        use_audio_in_video: bool | None = False,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: KVCache | None = None,
        output_hidden_states: bool = False,
        logits_to_keep: int | None = None,
    ) -> ThinkerOutput:
        """One pass; the arguments are the reference's.

        input_ids: (batch, length), or inputs_embeds: (batch, length, hidden_size). attention_mask: 1 for real tokens,
        padding on either side. Media as in `embed`; video_second_per_grid: (videos,) seconds per temporal patch.
        labels: (batch, length), -100 where nothing is to be learned. position_ids: (3, batch, length), default TMRoPE.
        segment_ids: (batch, length), for several samples in a row, each with its own position_ids. cache: is read,
        written and advanced; positions go on from it. logits_to_keep: logits of the last so many places only; 0: none,
        and the loss is computed at labelled places alone, which saves most of its memory.
        """
        sound = (input_features, feature_attention_mask, audio_feature_lengths)
        if inputs_embeds is None:
            if input_ids is None:
                raise InputError("the thinker needs input_ids or inputs_embeds")
            pictures = (pixel_values, image_grid_thw, pixel_values_videos, video_grid_thw)
            inputs_embeds = self.embed(input_ids, *sound, *pictures)
        batch, length, _ = inputs_embeds.shape
        deltas = None
        if position_ids is None:
            mask = None if attention_mask is None else attention_mask[:, -length:]
            media = (image_grid_thw, video_grid_thw, mask, bool(use_audio_in_video), audio_lengths(*sound))
            position_ids, deltas = self.positions(input_ids, (batch, length), *media, video_second_per_grid, cache)
        if cache is not None:
            follow(cache, position_ids, attention_mask, deltas)
        collect: list[Tensor] | None = [] if output_hidden_states else None
        hidden = self.model(inputs_embeds, position_ids, attention_mask, segment_ids, cache, collect)
        keep = length if logits_to_keep is None else logits_to_keep
        logits = self.lm_head(hidden[:, -keep:]) if keep else None
        loss = None
        if labels is not None:
            loss = self.loss(hidden, logits, next_tokens(labels, segment_ids, (batch, length)))
        states = tuple(collect) if collect is not None else (inputs_embeds, hidden)
        return ThinkerOutput(logits, loss, states, deltas, cache)

    def positions(
        self,
        input_ids: Tensor | None,
        shape: tuple[int, int],
        image_grid_thw: Tensor | None,
        video_grid_thw: Tensor | None,
        mask: Tensor | None,
        use_audio_in_video: bool,
        audio_seqlens: Tensor | None,
        second_per_grids: Tensor | Sequence[float] | None,
        cache: KVCache | None,
    ) -> tuple[Tensor, Tensor]:
        """TMRoPE of the new tokens, (3, batch, length), and (batch, 1) deltas; goes on from where `cache` has ended."""
        if input_ids is None:
            input_ids = torch.zeros(shape, dtype=torch.long, device=self.lm_head.weight.device)
        media = (image_grid_thw, video_grid_thw, mask, use_audio_in_video, audio_seqlens, second_per_grids)
        ids, deltas = tmrope.position_ids(input_ids, *media, config=self.config)
        if cache is None or cache.next_start is None:
            return ids, deltas
        # next token = tokens + delta, so what the earlier pieces hold beyond their number of tokens carries over
        behind = cache.next_start[:, None] - cache.tokens()[:, None]
        return ids + cache.next_start[None, :, None], deltas + behind

    def loss(self, hidden: Tensor, logits: Tensor | None, targets: Tensor) -> Tensor:
        """Mean cross-entropy over labelled places, in nats; hidden (batch, length, dim), targets (batch, length).

        Without logits of all places the head runs at labelled ones alone. Nothing labelled: 0, with gradients of 0.
        """
        targets = targets.flatten()
        if logits is None or logits.shape[1] != hidden.shape[1]:
            chosen = (targets != IGNORE).nonzero().squeeze(1)
            targets = targets[chosen]
            logits = self.lm_head(hidden.flatten(0, 1)[chosen])
        logits = logits.view(len(targets), -1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
        return total / (targets != IGNORE).sum().clamp(min=1)

    @torch.no_grad()
    def prefill(self, cache: KVCache | None = None, **inputs: Any) -> ThinkerOutput:
        """Take in a prompt, or its next piece: the arguments of `forward`; `cache` is the one of the piece before.

        Pieces may end anywhere in text, between media, and within a sound after whole chunks of 2 s; cut elsewhere,
        they equal the whole if they come with its position_ids. logits: (batch, 1, vocab), of each row's last token.
        """
        given = inputs.get("inputs_embeds") if inputs.get("input_ids") is None else inputs["input_ids"]
        if given is None:
            raise InputError("the thinker needs input_ids or inputs_embeds")
        shape = given.shape[:2]
        if cache is None:
            weight = self.model.norm.weight
            cache = KVCache(self.config.text_config, shape[0], shape[1], weight.device, weight.dtype)
        out = self(**inputs, cache=cache, logits_to_keep=0)
        last = last_places(inputs.get("attention_mask"), shape, out.last_hidden_state.device)
        hidden = out.last_hidden_state[torch.arange(shape[0], device=last.device), last]  # (batch, hidden_size)
        out.logits = self.lm_head(hidden).unsqueeze(1)
        return out

    @torch.no_grad()
    def decode(
        self,
        start: ThinkerOutput,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop_token_ids: Sequence[int] = (),
        pad_token_id: int = 0,
        seen: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Token]:
        """Go on from `prefill`, one token of each row at a time, until all rows have ended.

        stop_token_ids end a row and are yielded. seen: (batch, vocab) bool, from `sampling.seen_tokens`, for the
        repetition penalty (changed in place). generator: on the logits' device. The cache lacks the last token.
        """
        if start.logits is None or start.cache is None:
            raise InputError("decode needs what prefill returned: logits and a cache")
        logits = start.logits[:, -1]
        stops = samplers.stop_table(stop_token_ids, logits.device)
        ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        start.cache.reserve(min(max_new_tokens, decoding.ROOM), spare=False)
        step = decoding.stepper(self.model, self.lm_head, start.cache)
        for count in range(1, max_new_tokens + 1):
            ids = samplers.next_token(logits, sampling, seen, generator)
            if len(ids) > 1:
                ids = ids.masked_fill(ended, pad_token_id)
            if seen is not None:
                seen.scatter_(1, ids[:, None], True)
            embeds = self.model.embed_tokens(ids)
            if stop_token_ids:
                ended |= torch.isin(ids, stops)
            if count == max_new_tokens or (stop_token_ids and bool(ended.all())):
                yield Token(ids, embeds, None)
                return
            hidden = step(embeds)
            yield Token(ids, embeds, hidden)
            logits = step.logits(hidden)

    def generate(
        self,
        max_new_tokens: int = 256,
        sampling: Sampling = GREEDY,
        stop_token_ids: Sequence[int] = (),
        pad_token_id: int = 0,
        generator: torch.Generator | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Reply to a prompt: the arguments of `forward` -> (batch, new) token ids, `pad_token_id` after a row's end.

        max_new_tokens: 1 or more. Raises InputError."""
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens {max_new_tokens}: expected at least 1")
        start = self.prefill(**inputs)
        start.hidden_states = ()  # nobody asks for them, and they would stay until the end
        seen = None
        if sampling.repetition_penalty != 1.0:
            vocab, ids = self.config.text_config.vocab_size, inputs.get("input_ids")
            mask = inputs.get("attention_mask")
            if ids is None:  # of a prompt of embeddings nothing has been seen
                embeds = inputs["inputs_embeds"]
                ids, mask = torch.empty(len(embeds), 0, dtype=torch.long, device=embeds.device), None
            seen = samplers.seen_tokens(vocab, ids, mask)
        tokens = self.decode(start, max_new_tokens, sampling, stop_token_ids, pad_token_id, seen, generator)
        return torch.stack([token.ids for token in tokens], dim=1)


def check_finite(values: Tensor, name: str) -> None:
    """Raise InputError for NaN or infinite values: one would spread to every token of its sample."""
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{name} hold NaN or infinite values")


def place(embeds: Tensor, where: Tensor, features: Tensor | None, kind: str) -> Tensor:
    """Put features (n, dim) in the n places of `where` (batch, length). Raises InputError if the numbers differ."""
    count, given = int(where.sum()), 0 if features is None else features.shape[0]
    if count != given:
        raise InputError(f"input_ids hold {count} {kind} placeholders, but the {kind} given makes {given} tokens")
    if features is None or given == 0:
        return embeds
    return embeds.masked_scatter(where.unsqueeze(-1), features.to(embeds.dtype))


def audio_lengths(features: Tensor | None, mask: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """Mel frames of each clip, (clips,), from whichever of mask, lengths and features is given."""
    if mask is not None:
        return mask.sum(-1)
    if lengths is None and features is not None:
        return torch.full((features.shape[0] if features.dim() == 3 else 1,), features.shape[-1])
    return lengths


def next_tokens(labels: Tensor, segment_ids: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """Target of each place: the label of the next one, or IGNORE at a row's and at a packed sample's end."""
    if labels.shape != shape:
        raise InputError(f"labels are {tuple(labels.shape)}, the tokens {tuple(shape)}")
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE)
    if segment_ids is None:
        return targets
    return targets.masked_fill(segment_ids != F.pad(segment_ids[:, 1:], (0, 1), value=-1), IGNORE)


def last_places(mask: Tensor | None, shape: Sequence[int], device: torch.device) -> Tensor:
    """Where each row's last real token stands: (batch,)."""
    batch, length = shape
    if mask is None:
        return torch.full((batch,), length - 1, device=device)
    return (mask[:, -length:].bool() * torch.arange(length, device=device)).argmax(-1)


def follow(cache: KVCache, position_ids: Tensor, mask: Tensor | None, deltas: Tensor | None) -> None:
    """Remember in the cache where the text after these tokens goes on, for pieces to come and for decoding."""
    batch, length = position_ids.shape[1:]
    highest = position_ids.amax(0)  # (batch, length)
    mask = torch.ones_like(highest) if mask is None else mask[:, -length:]
    last = highest.gather(1, last_places(mask, (batch, length), highest.device)[:, None]).squeeze(1) + 1
    top = highest.masked_fill(mask == 0, -1).amax(-1) + 1
    if deltas is not None and cache.next_position is None:
        top = (mask.sum(-1, keepdim=True) + deltas).squeeze(1)
    before = cache.next_position
    cache.next_start = last
    cache.next_position = top if before is None else torch.maximum(before, top)
