"""The faults of the reference (transformers 5.23): each shown, and beside it that ours does better.

That it streams no sound is shown in tests/streaming: ours is heard before its text has ended.
"""

import inspect

import pytest
import torch
import transformers
from transformers import Qwen2_5OmniForConditionalGeneration
from transformers.models.qwen2_5_omni import configuration_qwen2_5_omni as configurations
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as models

from omni_lab import OmniModel
from omni_lab.codec.dit_layers import rotary_tables, rotate_first_head
from omni_lab.config import TalkerConfig, ThinkerConfig, VisionConfig
from omni_lab.errors import InputError
from omni_lab.talker import Talker

from .talker_reference import CONFIGS as TALKERS
from .talker_reference import context_of, reference_inputs, reference_of
from .test_omni import CONFIGS, NANO, PICTURE, OmniProcessor, randomise, voice

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Ours and the reference, as it is, with the same weights and voice."""
    config = CONFIGS["3 heads to 1"]
    ours = OmniModel(config).eval()
    randomise(ours)
    ours.processor = OmniProcessor.from_pretrained(NANO)
    ours.speakers["Ada"] = voice(config, 2033)
    folder = tmp_path_factory.mktemp("checkpoint")
    ours.save_pretrained(folder)
    return ours, Qwen2_5OmniForConditionalGeneration.from_pretrained(folder).eval()


def first_code_logits(talker, masked):
    """Of the reference's `generate` without padding; masked: hand it the mask that it dropped."""
    reference = reference_of(talker)
    context = context_of(talker, [[3, 4, 5, 6, 7]])
    reply = torch.randn(1, 4, talker.config.embedding_size, generator=torch.Generator().manual_seed(0))
    seen, plain = [], reference.prepare_inputs_for_generation

    def prepare(input_ids, inputs_embeds=None, **kwargs):
        made = plain(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        seen.append(made.get("attention_mask"))
        if masked and seen[-1] is None:
            made["attention_mask"] = torch.ones_like(input_ids)
        return made

    reference.prepare_inputs_for_generation = prepare
    made = reference.generate(
        **reference_inputs(talker, context, reply), max_new_tokens=1, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    assert seen == [None]
    return made.logits[0], talker(context, reply, torch.zeros(1, 1, dtype=torch.long)).logits[:, 0]


@torch.no_grad()
def test_1_its_talker_loses_a_mask_of_ones_and_with_it_bos_and_positions():
    talker = Talker(TALKERS["three heads to one"])
    theirs, ours = first_code_logits(talker, masked=False)
    assert (theirs - ours).abs().max() > 0.1
    theirs, ours = first_code_logits(talker, masked=True)
    assert torch.allclose(theirs, ours, atol=1e-5)


def test_2_it_cannot_answer_a_picture_aloud(pair):
    ours, theirs = pair
    inputs = ours.prepare(messages=[{"role": "user", "content": [PICTURE, "What is this?"]}])
    short = dict(thinker_max_new_tokens=3, talker_max_new_tokens=3, talker_do_sample=False)
    with pytest.raises(ValueError, match="pixel_values"):
        theirs.generate(**inputs, speaker="Ada", **short)
    assert len(ours.respond(inputs, "Ada", max_new_tokens=3, max_codes=3, num_steps=2).audio) > 0


def test_3_it_trains_neither_talker_nor_codec(pair):
    ours, theirs = pair
    assert not any("forward" in vars(kind) for kind in type(theirs).__mro__ if kind.__module__ == models.__name__)
    talker = Talker(TALKERS["three heads to one"])
    reference, context = reference_of(talker), context_of(talker, [[3, 4, 5]])
    reply, codes = torch.randn(1, 4, talker.config.embedding_size), torch.tensor([[1, 2, 3]])
    inputs = reference_inputs(talker, context, reply)
    with pytest.raises(RuntimeError, match="in-place"):
        reference(**inputs | {"inputs_embeds": inputs["inputs_embeds"].clone().requires_grad_()})
    assert reference(**inputs, labels=inputs["input_ids"]).loss is None
    assert talker(context, reply, codes).loss.requires_grad
    voiced = ours.speakers["Ada"]
    theirs.token2wav(codes, voiced.cond, voiced.ref_mel, num_steps=2).sum().backward()
    ours.token2wav(codes[0], speaker=voiced, num_steps=2).sum().backward()
    learning = [model.token2wav.code2wav_dit_model.proj_out.weight.grad is not None for model in pair]
    assert learning == [True, False]


def test_4_it_makes_the_wave_in_one_piece(pair):
    ours, theirs = pair
    assert not inspect.isgeneratorfunction(type(theirs).generate) and not hasattr(theirs, "stream")
    assert hasattr(ours, "stream")


def test_5_it_crashes_on_short_replies_and_unknown_codes(pair):
    ours, theirs = pair
    inputs = {"input_ids": torch.tensor([[3, 4]])}
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        theirs.generate(**inputs, speaker="Ada", thinker_max_new_tokens=1, talker_max_new_tokens=3)
    assert len(ours.respond(inputs, "Ada", max_new_tokens=1, max_codes=3, num_steps=2).audio) >= 0
    voiced = ours.speakers["Ada"]
    none, unknown = torch.empty(1, 0, dtype=torch.long), torch.tensor([[10**6]])
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        theirs.token2wav(none, voiced.cond, voiced.ref_mel)
    with pytest.raises((IndexError, RuntimeError)):
        theirs.token2wav(unknown, voiced.cond, voiced.ref_mel)
    assert ours.token2wav(none, speaker=voiced).shape == (1, 0)
    with pytest.raises(InputError, match="code 1000000 is not in the table"):
        ours.token2wav(unknown, speaker=voiced)


def test_6_a_field_that_it_reads_is_not_declared():
    assert "vision_start_token_id" in inspect.getsource(models.Qwen2_5OmniPreTrainedModelForConditionalGeneration)
    assert not hasattr(configurations.Qwen2_5OmniThinkerConfig(), "vision_start_token_id")
    assert ThinkerConfig().vision_start_token_id == configurations.Qwen2_5OmniTalkerConfig().vision_start_token_id


def test_7_its_defaults_are_not_the_published_sizes():
    theirs = configurations.Qwen2_5OmniVisionEncoderConfig(), configurations.Qwen2_5OmniTalkerConfig()
    assert [config.hidden_size for config in theirs] == [3584, 3584]
    assert [VisionConfig().hidden_size, TalkerConfig().hidden_size] == [1280, 896]


def test_8_the_dits_rotation_is_that_of_the_installed_library():
    """Head 0 alone, in neighbouring pairs; the library has changed this once."""
    made = configurations.Qwen2_5OmniDiTConfig(hidden_size=24, num_attention_heads=3, head_dim=8)
    made._attn_implementation = "sdpa"
    attention, seen = models.DiTAttention(made), []
    x = torch.randn(2, 5, 24)
    cos, sin = rotary_tables(5, 8, 10000.0, torch.device("cpu"))
    interface = models.ALL_ATTENTION_FUNCTIONS["sdpa"]

    def noted(module, query, key, value, **how):
        seen.extend((query.clone(), key.clone()))
        return interface(module, query, key, value, **how)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setitem(models.ALL_ATTENTION_FUNCTIONS, "sdpa", noted)
        attention(x, (torch.cat((cos, cos), -1)[None], torch.cat((sin, sin), -1)[None]))
        for project, turned in zip((attention.to_q, attention.to_k), seen, strict=True):
            plain = project(x).view(2, 5, 3, 8)
            ours = rotate_first_head(plain, cos, sin)
            assert torch.equal(turned[:, 1:].transpose(1, 2), plain[:, :, 1:]), transformers.__version__
            # The library puts the pairs' first members in front: no score can tell.
            theirs = turned[:, 0].unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
            assert torch.allclose(theirs, ours[:, :, 0], atol=1e-6), transformers.__version__
