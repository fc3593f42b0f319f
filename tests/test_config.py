"""The numbers of the report and of the released checkpoints stand in the configuration; sizes that clash are named."""

import copy
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


RAW = preset("nano").to_dict()
ROPE = {"mrope_section": [3, 3, 26], "type": "default", "rope_type": "default"}
TEXT, TALKER = ("thinker_config", "text_config"), ("talker_config",)
VISION, AUDIO = ("thinker_config", "vision_config"), ("thinker_config", "audio_config")


def read_with(place: tuple[str, ...], **settings) -> OmniConfig:
    """Nano's own configuration with settings of one part changed, as if read from a file."""
    raw = copy.deepcopy(RAW)
    table = raw
    for name in place:
        table = table[name]
    table.update(settings)
    return OmniConfig.from_dict(raw)


@pytest.mark.parametrize(
    ("place", "settings", "says"),
    [
        (TEXT, dict(hidden_act="gelu"), "text hidden_act is 'gelu', built is 'silu'"),
        (TALKER, dict(hidden_act="relu"), "talker hidden_act is 'relu'"),
        (VISION, dict(hidden_act="gelu"), "vision hidden_act is 'gelu'"),
        (AUDIO, dict(activation_function="relu"), "audio activation_function is 'relu', built is 'gelu'"),
        (TEXT, dict(rope_scaling=ROPE | {"rope_type": "yarn"}), "text_config: rope_scaling rope_type is 'yarn'"),
        (TALKER, dict(rope_scaling=ROPE | {"type": "linear"}), "talker_config: rope_scaling type is 'linear'"),
        (TEXT, dict(rope_parameters=ROPE | {"rope_type": "dynamic"}), "rope_parameters rope_type is 'dynamic'"),
        (TEXT, dict(rope_scaling="yarn"), "rope_scaling is 'yarn', expected a table"),
        (VISION, dict(rope_parameters={"rope_type": "yarn"}), "vision_config: rope_parameters rope_type is 'yarn'"),
        (VISION, dict(rope_parameters={"rope_theta": 5e5}), "rope_theta is 500000.0, built is 10000"),
        (TEXT, dict(use_sliding_window=True), "text_config: use_sliding_window is True"),
        (TALKER, dict(use_sliding_window=True), "talker_config: use_sliding_window is True"),
        (TEXT, dict(layer_types=["full_attention", "sliding_attention"]), "layer_types are"),
    ],
)
def test_settings_that_change_the_computation_are_not_ignored(place, settings, says):
    with pytest.raises(ConfigError, match=says) as caught:
        read_with(place, **settings)
    assert "\n" not in str(caught.value)


def test_settings_of_the_released_files_and_of_what_the_reference_saves_are_read():
    window = dict(use_sliding_window=False, sliding_window=32768, max_window_layers=28)
    for kind in ("default", "mrope", None):
        rope = ROPE | {"type": kind, "rope_type": kind}
        assert read_with(TEXT, rope_scaling=rope, hidden_act="silu", **window) == preset("nano")
    full = ["full_attention"] * 6
    assert read_with(TEXT, rope_parameters=ROPE | {"rope_theta": 1e6}, layer_types=full) == preset("nano")
    axial = {"rope_theta": 10000.0, "rope_type": "axial"}
    assert read_with(VISION, rope_parameters=axial, hidden_act="silu") == preset("nano")
    assert read_with(AUDIO, activation_function="gelu", activation_dropout=0.0) == preset("nano")


@pytest.mark.parametrize(
    ("place", "settings", "says"),
    [
        (TALKER, dict(tts_codec_start_token_id=1056), "start_token_id is 1056, expected an id from 0 to 1055"),
        (TALKER, dict(tts_codec_mask_token_id=-1), "tts_codec_mask_token_id is -1"),
        (TALKER, dict(tts_codec_end_token_id=8294), "tts_codec_end_token_id is 8294"),
        (TALKER, dict(tts_codec_pad_token_id=8292), "tts_codec_pad_token_id is 8292"),
        (TALKER, dict(tts_text_end_token_id=2048), "tts_text_end_token_id is 2048, expected an id from 0 to 2047"),
        (TALKER, dict(tts_text_pad_token_id=-5), "tts_text_pad_token_id is -5"),
        (VISION, dict(window_size=27), "window_size is 27, expected a token at least: 28 pixels"),
    ],
)
def test_ids_and_windows_that_nothing_can_be_looked_up_with_are_named(place, settings, says):
    with pytest.raises(ConfigError, match=says):
        read_with(place, **settings)


def test_a_model_that_does_not_speak_needs_no_ids_of_speech():
    mute = copy.deepcopy(RAW) | {"enable_audio_output": False}
    mute["talker_config"]["tts_text_start_token_id"] = 151860
    assert OmniConfig.from_dict(mute).talker_config.tts_text_start_token_id == 151860


def test_a_command_prints_the_parts_and_their_sum(capsys):
    """Of the small preset; the published counts of the large one are asserted in test_omni.py."""
    assert main(["parts", "--preset", "nano"]) == 0
    table = {line[:46].strip(): float(line[46:].split()[0]) for line in capsys.readouterr().out.splitlines()}
    rooms = [name for name in table if "." not in name and name != "in all"]
    assert {"thinker", "talker", "token2wav", "speech_tokenizer"} <= set(rooms)
    assert {"thinker.visual", "token2wav.code2wav_dit_model", "token2wav.code2wav_bigvgan_model"} <= set(table)
    assert 12 < table["in all"] < 20 and table["in all"] == pytest.approx(sum(table[room] for room in rooms), abs=0.01)
