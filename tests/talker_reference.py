"""The reference's talker with our configuration and weights, and its greedy decoding with its known fault mended."""

from dataclasses import asdict

import torch
from torch import Tensor
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTalkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniTalkerForConditionalGeneration

from omni_lab.config import TalkerConfig
from omni_lab.talker import Talker, TalkerContext

IDS = dict(
    tts_codec_pad_token_id=52, tts_codec_start_token_id=53, tts_codec_end_token_id=54, tts_codec_mask_token_id=56
)
IDS |= dict(audio_token_index=90, image_token_index=91, video_token_index=92, audio_start_token_id=93)
IDS |= dict(audio_end_token_id=94, vision_start_token_id=95, vision_end_token_id=96, tts_text_start_token_id=97)
IDS |= dict(tts_text_end_token_id=98, tts_text_pad_token_id=99, vocab_size=64)


def tiny(width: int, dim: int, heads: int, kv_heads: int, head_dim: int, sections: tuple, layers: int) -> TalkerConfig:
    return TalkerConfig(
        embedding_size=width, hidden_size=dim, intermediate_size=2 * dim + 3, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim, mrope_section=sections, **IDS,
    )  # fmt: skip


CONFIGS = {
    "three heads to one": tiny(24, 32, 3, 1, 16, (2, 3, 3), 2),
    "no height in the last sections, as the 3B has it": tiny(40, 24, 4, 2, 8, (2, 2, 0), 3),
    "five heads each with its own": tiny(16, 30, 5, 5, 12, (1, 3, 2), 1),
}


def reference_of(talker: Talker) -> Qwen2_5OmniTalkerForConditionalGeneration:
    """The reference with the weights of `talker`, which are drawn anew, large enough to matter."""
    raw = asdict(talker.config)
    rope = {
        "mrope_section": list(raw.pop("mrope_section")),
        "rope_theta": raw.pop("rope_theta"),
        "rope_type": "default",
    }
    config = Qwen2_5OmniTalkerConfig(**raw, rope_parameters=rope)
    reference = Qwen2_5OmniTalkerForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.25, generator=generator)
    talker.load_state_dict(reference.state_dict(), strict=True)
    talker.eval()
    return reference


def context_of(talker: Talker, ids: list[list[int]], seed: int = 0, device=None, **media) -> TalkerContext:
    """Random states for prompts of given ids, left-padded with 0 to one length."""
    longest = max(map(len, ids))
    input_ids = torch.tensor([[0] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    generator, width = torch.Generator().manual_seed(seed), talker.config.embedding_size

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    embeds = normal(len(ids), longest, width)
    bos, eos, pad = normal(1, width), normal(width), normal(width)
    mask = None if bool(mask.all()) else mask.to(device)
    return TalkerContext(*(t.to(device) for t in (embeds, input_ids, bos, eos, pad)), mask, **media)


def reference_inputs(talker: Talker, context: TalkerContext, reply: Tensor) -> dict:
    """What the reference's `generate` hands to its talker for a batch of replies of one length."""
    batch, length = context.input_ids.shape
    config = talker.config

    def column(token: int) -> Tensor:
        return torch.full((batch, 1), token, device=reply.device)

    tail = [context.text_eos.expand(batch, 1, -1), context.text_pad.expand(batch, 1, -1)]
    mask = torch.ones_like(context.input_ids) if context.attention_mask is None else context.attention_mask
    special = [column(config.tts_codec_pad_token_id), column(config.tts_codec_start_token_id)]
    opening = context.speaker_bos.expand(batch, -1).unsqueeze(1)
    return dict(
        input_ids=torch.cat([column(config.tts_codec_mask_token_id).expand(-1, length), *special], dim=1),
        input_text_ids=torch.cat([context.input_ids, column(97), column(5)], dim=1),
        inputs_embeds=torch.cat([context.embeds, opening, reply[:, :1]], dim=1),
        thinker_reply_part=torch.cat([reply[:, 1:], *tail], dim=1),
        attention_mask=torch.cat([mask, mask.new_ones(batch, 2)], dim=1),
        image_grid_thw=context.image_grid_thw,
        video_grid_thw=context.video_grid_thw,
        video_second_per_grid=context.video_second_per_grid,
        audio_feature_lengths=context.audio_seqlens,
        use_audio_in_video=context.use_audio_in_video,
    )


def always_masked(reference: Qwen2_5OmniTalkerForConditionalGeneration) -> None:
    """Mend the fault: `generate` drops a mask of ones, and the talker then forgets codec_bos and all positions."""
    plain = reference.prepare_inputs_for_generation

    def prepare(input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs) -> dict:
        made = plain(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if made.get("attention_mask") is None:
            made["attention_mask"] = torch.ones_like(input_ids)
        return made

    reference.prepare_inputs_for_generation = prepare


@torch.no_grad()
def reference_logits(reference, inputs: dict, codes: Tensor) -> Tensor:
    """Logits of the reference, code by code through its cache: (batch, codes + 1, vocab)."""
    inputs = dict(inputs)
    inputs["inputs_embeds"] = inputs["inputs_embeds"].clone()  # it adds to its input in place
    inputs.pop("input_ids")
    out = reference(**inputs, use_cache=True)
    logits, mask, reply = [out.logits[:, -1]], inputs["attention_mask"], inputs["thinker_reply_part"]
    for column in codes.unbind(1):
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        out = reference(
            input_ids=column[:, None], attention_mask=mask, past_key_values=out.past_key_values,
            thinker_reply_part=reply, use_cache=True,
        )  # fmt: skip
        reply = out.thinker_reply_part
        logits.append(out.logits[:, -1])
    return torch.stack(logits, dim=1)
