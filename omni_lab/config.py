"""Configuration is data: frozen dataclasses with the reference's field names, and the presets as values.

`OmniConfig.from_dict` reads the `config.json` of a released checkpoint; `to_dict` writes one that `transformers` reads.
Unknown keys of the reference (dtype, version, initialiser, ...) are dropped on reading: no part of ours needs them.
Two defaults of the reference's classes are not the published values (vision and talker `hidden_size`); here every
default is the published 7B value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from .config_checks import check_attention, validate
from .errors import ConfigError


@dataclass(frozen=True)
class VisionConfig:
    """Vision encoder (report, section 2.2; the ViT of Qwen2.5-VL)."""

    depth: int = 32  # transformer blocks
    hidden_size: int = 1280
    intermediate_size: int = 3420  # SwiGLU
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 14  # pixels
    spatial_merge_size: int = 2  # 2x2 patches become one token
    temporal_patch_size: int = 2  # frames per patch; a still image is fed twice
    window_size: int = 112  # pixels: attention stays in windows of 4x4 merged units
    out_hidden_size: int = 3584  # = text hidden_size
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)  # blocks with full attention over a frame
    hidden_act: str = "silu"


@dataclass(frozen=True)
class AudioConfig:
    """Audio encoder (report, section 2.2; Whisper's with block-wise attention)."""

    num_mel_bins: int = 128
    encoder_layers: int = 32
    encoder_attention_heads: int = 20
    encoder_ffn_dim: int = 5120
    d_model: int = 1280
    max_source_positions: int = 1500  # sinusoids, at 20 ms
    n_window: int = 100  # attention blocks of 2 * n_window mel frames = 2 s
    output_dim: int = 3584  # = text hidden_size
    activation_function: str = "gelu"


@dataclass(frozen=True)
class TextConfig:
    """Decoder of the thinker (Qwen2.5 with TMRoPE)."""

    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944  # SwiGLU
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4  # grouped-query attention
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    mrope_section: tuple[int, ...] = (16, 24, 24)  # pairs for time, height, width; sums to head_dim / 2
    hidden_act: str = "silu"

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class ThinkerConfig:
    """Text, pictures, sound and video in; text out."""

    audio_config: AudioConfig = AudioConfig()
    vision_config: VisionConfig = VisionConfig()
    text_config: TextConfig = TextConfig()
    audio_token_index: int = 151646  # placeholder ids that features replace
    image_token_index: int = 151655
    video_token_index: int = 151656
    audio_start_token_id: int = 151647
    audio_end_token_id: int = 151648
    vision_start_token_id: int = 151652  # read by the reference's get_rope_index, declared nowhere there
    vision_end_token_id: int = 151653
    user_token_id: int = 872
    position_id_per_seconds: int = 25  # one temporal id per 40 ms
    seconds_per_chunk: int = 2  # audio and video are interleaved by 2 s
    tie_word_embeddings: bool = False


@dataclass(frozen=True)
class TalkerConfig:
    """Thinker's hidden states and text in; codec tokens out."""

    vocab_size: int = 8448
    embedding_size: int = 3584  # = thinker's hidden_size
    hidden_size: int = 896
    intermediate_size: int = 18944
    num_hidden_layers: int = 24
    num_attention_heads: int = 12
    num_key_value_heads: int = 4
    head_dim: int = 128
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    mrope_section: tuple[int, ...] = (16, 24, 24)
    hidden_act: str = "silu"
    tts_text_start_token_id: int = 151860  # ids in the thinker's vocabulary
    tts_text_end_token_id: int = 151861
    tts_text_pad_token_id: int = 151859
    tts_codec_start_token_id: int = 8293  # ids in the talker's own
    tts_codec_end_token_id: int = 8294
    tts_codec_pad_token_id: int = 8292
    tts_codec_mask_token_id: int = 8296
    audio_token_index: int = 151646
    image_token_index: int = 151655
    video_token_index: int = 151656
    audio_start_token_id: int = 151647
    audio_end_token_id: int = 151648
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    position_id_per_seconds: int = 25
    seconds_per_chunk: int = 2
    spatial_merge_size: int = 2
    tie_word_embeddings: bool = False


@dataclass(frozen=True)
class DiTConfig:
    """Codec tokens -> mel spectrogram by flow matching with a sliding-window block mask (report, section 2.4)."""

    hidden_size: int = 1024
    num_hidden_layers: int = 22
    num_attention_heads: int = 16
    head_dim: int = 64
    ff_mult: int = 2
    emb_dim: int = 512  # code embedding
    max_position_embeddings: int = 32768
    rope_theta: float = 10000.0
    block_size: int = 24  # mel frames a block (12 codes, 0.24 s)
    look_ahead_layers: tuple[int, ...] = (10,)  # layers that see one block ahead
    look_backward_layers: tuple[int, ...] = (0, 20)  # layers that see one block back
    repeats: int = 2  # mel frames a code
    num_embeds: int = 8193  # rows of the code table, less one
    mel_dim: int = 80
    dropout: float = 0.1
    enc_emb_dim: int = 192  # speaker condition
    enc_dim: int = 128  # ECAPA over the reference mel
    enc_channels: tuple[int, ...] = (256, 256, 256, 256, 768)
    enc_kernel_sizes: tuple[int, ...] = (5, 3, 3, 3, 1)
    enc_dilations: tuple[int, ...] = (1, 2, 3, 4, 1)
    enc_attention_channels: int = 64
    enc_res2net_scale: int = 2
    enc_se_channels: int = 64


@dataclass(frozen=True)
class BigVGANConfig:
    """Mel spectrogram -> 24 kHz wave."""

    mel_dim: int = 80
    upsample_initial_channel: int = 1536
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    upsample_rates: tuple[int, ...] = (5, 3, 2, 2, 2, 2)  # product = hop of 240 samples
    upsample_kernel_sizes: tuple[int, ...] = (11, 7, 4, 4, 4, 4)


@dataclass(frozen=True)
class Token2WavConfig:
    """Codec tokens -> wave."""

    dit_config: DiTConfig = DiTConfig()
    bigvgan_config: BigVGANConfig = BigVGANConfig()


@dataclass(frozen=True)
class SpeechTokenizerConfig:
    """Wave -> codes at 50 a second. Never published for the reference: this one is ours (codec/speech_tokenizer.py)."""

    codebook_size: int = 8192
    sample_rate: int = 24000  # Hz
    mel_dim: int = 80
    window: int = 2  # mel frames, the code's own the last of them, that choose it
    discriminants: int = 36  # numbers that a longer window is brought to


@dataclass(frozen=True)
class OmniConfig:
    """The whole model: `config.json` of the reference's layout."""

    thinker_config: ThinkerConfig = ThinkerConfig()
    talker_config: TalkerConfig = TalkerConfig()
    token2wav_config: Token2WavConfig = Token2WavConfig()
    speech_tokenizer_config: SpeechTokenizerConfig | None = None  # ours; the reference ignores it
    enable_audio_output: bool = True

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "OmniConfig":
        """Read the content of a `config.json` (either spelling of the rotary fields). Raises ConfigError."""
        config = read_dataclass(cls, raw, "config.json")
        validate(config)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `config.json`, in the spelling of the released files, which every reader knows."""
        raw = written(self)
        raw |= {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniForConditionalGeneration"]}
        raw["thinker_config"] |= {"model_type": "qwen2_5_omni_thinker"}
        raw["thinker_config"]["audio_config"] |= {"model_type": "qwen2_5_omni_audio_encoder"}
        raw["thinker_config"]["vision_config"] |= {"model_type": "qwen2_5_omni_vision_encoder"}
        text = raw["thinker_config"]["text_config"]
        text |= {"model_type": "qwen2_5_omni_text", "tie_word_embeddings": self.thinker_config.tie_word_embeddings}
        raw["talker_config"] |= {"model_type": "qwen2_5_omni_talker"}
        raw["token2wav_config"] |= {"model_type": "qwen2_5_omni_token2wav"}
        raw["token2wav_config"]["dit_config"] |= {"model_type": "qwen2_5_omni_dit"}
        raw["token2wav_config"]["bigvgan_config"] |= {"model_type": "qwen2_5_omni_bigvgan"}
        if self.speech_tokenizer_config is None:
            del raw["speech_tokenizer_config"]
        return raw


def read_dataclass(kind: type, raw: Any, where: str) -> Any:
    """Build the dataclass `kind` from nested plain data, ignoring keys that it does not have. Raises ConfigError.

    Keys that it does not have and that would change what is computed are refused (config_checks.py)."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: expected a table of settings, got {type(raw).__name__}")
    check_attention(raw, where, axial=kind is VisionConfig)
    raw = {**raw, **rotary_fields(raw)}
    values = {}
    for entry in fields(kind):
        if entry.name not in raw or (raw[entry.name] is None and not is_dataclass(entry.default)):
            continue
        value, default = raw[entry.name], entry.default
        if is_dataclass(default) or entry.name == "speech_tokenizer_config":
            part = SpeechTokenizerConfig if entry.name == "speech_tokenizer_config" else type(default)
            value = read_dataclass(part, value if value is not None else {}, f"{where}: {entry.name}")
        elif isinstance(default, tuple) and isinstance(value, (list, tuple)):
            value = tuple(tuple(v) if isinstance(v, (list, tuple)) else v for v in value)
            flat = [n for v in value for n in (v if isinstance(v, tuple) else (v,))]
            if any(type(v) is not type(default[0]) for v in value) or any(type(n) is not int or n < 0 for n in flat):
                raise ConfigError(f"{where}: {entry.name} is {value!r}, expected numbers as in {default}")
        elif isinstance(default, float) and type(value) is int:
            value = float(value)
        elif type(value) is not type(default):
            raise ConfigError(f"{where}: {entry.name} is {value!r}, expected {type(default).__name__}")
        elif type(value) is int and not entry.name.endswith(("_id", "_index")):
            most = 1000 if "layers" in entry.name or entry.name == "depth" else 10**7
            if not 0 < value <= most:
                raise ConfigError(f"{where}: {entry.name} is {value}, expected 1 to {most}")
        values[entry.name] = value
    return kind(**values)


def rotary_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Our two rotary fields from either of the reference's spellings (`rope_scaling` or `rope_parameters`)."""
    found: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        table = raw.get(name)
        if isinstance(table, Mapping):
            found |= {k: table[k] for k in ("mrope_section", "rope_theta") if table.get(k) is not None}
    return found


def written(config: Any) -> dict[str, Any]:
    """`config` as nested dicts and lists, with the rotary fields in the released spelling."""
    raw = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            value = written(value)
        elif isinstance(value, tuple):
            value = [list(v) if isinstance(v, tuple) else v for v in value]
        raw[entry.name] = value
    if "mrope_section" in raw:
        raw["rope_scaling"] = {"mrope_section": raw.pop("mrope_section"), "rope_type": "default", "type": "default"}
    return raw


# Presets read as tables.
# fmt: off
def nano() -> OmniConfig:
    """The shipped model: about 15 M parameters, under 32 MB in bf16, trained on the nano world."""
    ids = {name: NANO_FIRST_SPECIAL + i for i, name in enumerate(NANO_SPECIAL_TOKENS)}
    media: dict[str, Any] = dict(
        audio_token_index=ids["<|AUDIO|>"], image_token_index=ids["<|IMAGE|>"], video_token_index=ids["<|VIDEO|>"],
        audio_start_token_id=ids["<|audio_bos|>"], audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=ids["<|vision_bos|>"], vision_end_token_id=ids["<|vision_eos|>"])
    audio = AudioConfig(encoder_layers=4, encoder_attention_heads=3, encoder_ffn_dim=640, d_model=192, output_dim=256)
    vision = VisionConfig(
        depth=4, hidden_size=160, intermediate_size=448, num_heads=5, out_hidden_size=256, fullatt_block_indexes=(1, 3)
    )
    # (3, 3, 26): in the published proportions the width gets the slowest pairs, to which eight columns look the same.
    text = TextConfig(
        vocab_size=2048, hidden_size=256, intermediate_size=576, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192, mrope_section=(3, 3, 26))
    talker = TalkerConfig(
        vocab_size=1056, embedding_size=256, hidden_size=256, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=8192,
        mrope_section=(8, 12, 12), tts_text_start_token_id=ids["<tts_text_bos>"],
        tts_text_end_token_id=ids["<tts_text_eod>"], tts_text_pad_token_id=ids["<tts_pad>"],
        tts_codec_pad_token_id=1028, tts_codec_start_token_id=1029, tts_codec_end_token_id=1030,
        tts_codec_mask_token_id=1032, **media)
    dit = DiTConfig(
        hidden_size=160, num_hidden_layers=5, num_attention_heads=4, head_dim=40, emb_dim=128,
        look_ahead_layers=(2,), look_backward_layers=(0, 4), num_embeds=1025, enc_dim=64,
        enc_channels=(64, 64, 64, 64, 192), enc_attention_channels=32, enc_se_channels=32)
    # Channels halve with every stage. The release's six would leave 2 of these at the wave; four leave 8.
    vocoder = BigVGANConfig(
        upsample_initial_channel=128, upsample_rates=(5, 3, 4, 4), upsample_kernel_sizes=(11, 7, 8, 8))
    return OmniConfig(
        ThinkerConfig(audio, vision, text, user_token_id=ids["user"], tie_word_embeddings=True, **media), talker,
        Token2WavConfig(dit, vocoder), SpeechTokenizerConfig(codebook_size=1024, window=8))


def small() -> OmniConfig:
    """Between nano and the published sizes: about 170 M parameters, for one T4 from scratch."""
    base = nano()
    thinker, talker, token2wav = base.thinker_config, base.talker_config, base.token2wav_config
    text = replace(
        thinker.text_config, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=4)
    audio = replace(thinker.audio_config, encoder_layers=6, encoder_attention_heads=6, encoder_ffn_dim=1536,
        d_model=384, output_dim=768)
    vision = replace(
        thinker.vision_config, depth=8, hidden_size=384, intermediate_size=1024, num_heads=6, out_hidden_size=768,
        fullatt_block_indexes=(1, 3, 5, 7))
    talker = replace(talker, embedding_size=768, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4)
    dit = replace(
        token2wav.dit_config, hidden_size=384, num_hidden_layers=10, num_attention_heads=6, head_dim=64, emb_dim=256,
        look_ahead_layers=(4,), look_backward_layers=(0, 8), enc_dim=128, enc_channels=(128, 128, 128, 128, 384))
    return replace(
        base, thinker_config=replace(thinker, text_config=text, audio_config=audio, vision_config=vision),
        talker_config=talker, token2wav_config=Token2WavConfig(dit, BigVGANConfig(upsample_initial_channel=512)),
        speech_tokenizer_config=SpeechTokenizerConfig(codebook_size=1024, window=8))


def qwen2_5_omni_7b() -> OmniConfig:
    """The released 7B (10.73 B parameters in all): every default above."""
    return OmniConfig()


def qwen2_5_omni_3b() -> OmniConfig:
    """The released 3B (5.5 B parameters in all)."""
    text = TextConfig(
        vocab_size=151936, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        num_key_value_heads=2)
    talker = TalkerConfig(
        embedding_size=2048, hidden_size=896, intermediate_size=4864, num_attention_heads=14, num_key_value_heads=2,
        head_dim=64, mrope_section=(16, 16, 0))
    return OmniConfig(ThinkerConfig(AudioConfig(output_dim=2048), VisionConfig(out_hidden_size=2048), text), talker)


# The nano tokenizer: byte-level BPE below NANO_FIRST_SPECIAL, these above it. "user" is a word that the talker must
# find by its id, so it has one; speaker tokens open a reply in that speaker's voice.
NANO_FIRST_SPECIAL = 2016
NANO_SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|box_start|>",
    "<|box_end|>", "<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>", "<tts_pad>",
    "<tts_text_bos>", "<tts_text_eod>", "user", "<spk_0>", "<spk_1>", "<spk_2>", "<spk_3>", "<spk_4>", "<spk_5>",
    "<spk_6>", "<spk_7>", "<think>", "</think>",
)

PRESETS = {
    "nano": nano, "small": small, "qwen2_5_omni_3b": qwen2_5_omni_3b, "qwen2_5_omni_7b": qwen2_5_omni_7b,
}
# fmt: on


def preset(name: str) -> OmniConfig:
    """The configuration of that name. Raises ConfigError for an unknown one."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    config = PRESETS[name]()
    validate(config)
    return config
