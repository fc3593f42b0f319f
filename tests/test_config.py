"""The numbers of the report and of the released checkpoints stand in the configuration; sizes that clash are named."""

from dataclasses import replace

import pytest

from omni_lab.cli import main
from omni_lab.codec import mel
from omni_lab.config import OmniConfig, preset, validate
from omni_lab.errors import ConfigError

LARGE, MIDDLE = preset("qwen2_5_omni_7b"), preset("qwen2_5_omni_3b")


def fields(config: object, *names: str) -> list:
    return [getattr(config, name) for name in names]


def test_thinkers_of_both_sizes():
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    names += ("vocab_size", "rope_theta", "mrope_section")
    assert fields(LARGE.thinker_config.text_config, *names) == [28, 3584, 18944, 28, 4, 152064, 1e6, (16, 24, 24)]
    assert fields(MIDDLE.thinker_config.text_config, *names) == [36, 2048, 11008, 16, 2, 151936, 1e6, (16, 24, 24)]
    assert not LARGE.thinker_config.tie_word_embeddings


@pytest.mark.parametrize("config", [LARGE, MIDDLE], ids=["7B", "3B"])
def test_both_sizes_have_the_same_towers(config: OmniConfig):
    thinker = config.thinker_config
    vision = ("depth", "hidden_size", "num_heads", "intermediate_size", "patch_size", "temporal_patch_size")
    vision += ("spatial_merge_size", "window_size", "fullatt_block_indexes")
    assert fields(thinker.vision_config, *vision) == [32, 1280, 16, 3420, 14, 2, 2, 112, (7, 15, 23, 31)]
    audio = ("encoder_layers", "d_model", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins", "n_window")
    assert fields(thinker.audio_config, *audio) == [32, 1280, 20, 5120, 128, 100]
    width = thinker.text_config.hidden_size
    assert thinker.vision_config.out_hidden_size == thinker.audio_config.output_dim == width
    assert (thinker.position_id_per_seconds, thinker.seconds_per_chunk) == (25, 2)


def test_talkers_and_their_tokens():
    names = ("hidden_size", "num_key_value_heads", "head_dim", "embedding_size", "vocab_size", "intermediate_size")
    assert fields(LARGE.talker_config, *names) == [896, 4, 128, 3584, 8448, 18944]
    names = ("embedding_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "head_dim", "mrope_section")
    assert fields(MIDDLE.talker_config, *names) == [2048, 896, 4864, 24, 14, 2, 64, (16, 16, 0)]
    for talker in (LARGE.talker_config, MIDDLE.talker_config):
        codec = [f"tts_codec_{name}_token_id" for name in ("pad", "start", "end", "mask")]
        assert fields(talker, *codec) == [8292, 8293, 8294, 8296]
        text = [f"tts_text_{name}_token_id" for name in ("start", "end", "pad")]
        assert fields(talker, *text) == [151860, 151861, 151859]


@pytest.mark.parametrize("config", [LARGE, MIDDLE], ids=["7B", "3B"])
def test_the_codec_and_its_rates(config: OmniConfig):
    dit, vocoder = config.token2wav_config.dit_config, config.token2wav_config.bigvgan_config
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "head_dim", "ff_mult", "block_size", "repeats")
    names += ("look_ahead_layers", "look_backward_layers", "num_embeds", "mel_dim", "enc_dim", "emb_dim", "enc_emb_dim")
    assert fields(dit, *names) == [22, 1024, 16, 64, 2, 24, 2, (10,), (0, 20), 8193, 80, 128, 512, 192]
    names = ("upsample_rates", "resblock_kernel_sizes", "mel_dim")
    assert fields(vocoder, *names) == [(5, 3, 2, 2, 2, 2), (3, 7, 11), 80]
    assert all(len(dilations) == 3 for dilations in vocoder.resblock_dilation_sizes)
    assert 24000 / mel.HOP == 100 == 50 * dit.repeats  # mel frames a second, two of them a code


def test_sections_that_do_not_fill_a_head_are_named():
    text = replace(LARGE.thinker_config.text_config, mrope_section=(16, 24, 23))
    with pytest.raises(ConfigError, match="mrope_section must sum to head_dim / 2 = 64"):
        validate(replace(LARGE, thinker_config=replace(LARGE.thinker_config, text_config=text)))


def test_a_command_prints_the_parts_and_their_sum(capsys):
    """Of the small preset; the published counts of the large one are asserted in test_omni.py."""
    assert main(["parts", "--preset", "nano"]) == 0
    table = {line[:46].strip(): float(line[46:].split()[0]) for line in capsys.readouterr().out.splitlines()}
    rooms = [name for name in table if "." not in name and name != "in all"]
    assert {"thinker", "talker", "token2wav", "speech_tokenizer"} <= set(rooms)
    assert {"thinker.visual", "token2wav.code2wav_dit_model", "token2wav.code2wav_bigvgan_model"} <= set(table)
    assert 12 < table["in all"] < 20 and table["in all"] == pytest.approx(sum(table[room] for room in rooms), abs=0.01)
