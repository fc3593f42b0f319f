"""What a configuration must hold, so that a model can be made of it and computes what the reference computes.

Sizes that clash are named. So are settings that change the computation and that no layer here has: a model that ignored
them would load every weight and answer wrongly.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:  # it imports this file
    from .config import OmniConfig, TalkerConfig, TextConfig, VisionConfig

# Ids in the talker's vocabulary, and in the thinker's.
CODEC_IDS = tuple(f"tts_codec_{name}_token_id" for name in ("start", "end", "pad", "mask"))
TEXT_IDS = tuple(f"tts_text_{name}_token_id" for name in ("start", "end", "pad"))
VISION_THETA = 1e4


def need(holds: bool, message: str, where: str = "config.json") -> None:
    """Raise ConfigError with `message` unless it holds."""
    if not holds:
        raise ConfigError(f"{where}: {message}")


def check_attention(raw: Mapping[str, Any], where: str, axial: bool = False) -> None:
    """Raise ConfigError for positions or windows of attention that are not built here.

    raw: the settings of one part, as they stand in the file; axial: it is the vision encoder."""
    built = ("default", "axial") if axial else ("default", "mrope")
    for name in ("rope_scaling", "rope_parameters"):
        table = raw.get(name)
        if table is None:
            continue
        if not isinstance(table, Mapping):
            raise ConfigError(f"{where}: {name} is {table!r}, expected a table of settings")
        for key in ("type", "rope_type"):
            found = table.get(key)
            need(found is None or found in built, f"{name} {key} is {found!r}, built are {' and '.join(built)}", where)
        theta = table.get("rope_theta")
        fits = not axial or theta is None or theta == VISION_THETA
        need(fits, f"{name} rope_theta is {theta!r}, built is {VISION_THETA:g}", where)
    sliding, layers = raw.get("use_sliding_window"), raw.get("layer_types")
    need(sliding in (None, False), f"use_sliding_window is {sliding!r}, built is full attention", where)
    whole = layers is None or isinstance(layers, list | tuple) and all(kind == "full_attention" for kind in layers)
    need(whole, f"layer_types are {layers!r}, built is full_attention", where)


def check_decoder(part: "TextConfig | TalkerConfig", name: str, where: str = "config.json") -> None:
    """Raise ConfigError for a decoder whose heads and sections do not fill its width, or with another activation."""
    heads, kv = part.num_attention_heads, part.num_key_value_heads
    own = any(entry.name == "head_dim" for entry in fields(part))  # the talker says how wide a head is
    fills = heads > 0 and (own or part.hidden_size % heads == 0)
    need(fills, f"{name} hidden_size must divide by num_attention_heads", where)
    pairs = part.head_dim / 2
    need(sum(part.mrope_section) == pairs, f"{name} mrope_section must sum to head_dim / 2 = {pairs:g}", where)
    need(kv > 0 and heads % kv == 0, f"{name} num_attention_heads must divide by num_key_value_heads", where)
    check_activation(part.hidden_act, "silu", f"{name} hidden_act", where)


def check_activation(found: str, built: str, name: str, where: str = "config.json") -> None:
    """Raise ConfigError for another activation than the one that is built."""
    need(found == built, f"{name} is {found!r}, built is {built!r}", where)


def check_vision(vision: "VisionConfig") -> None:
    """Raise ConfigError for a vision encoder that cannot be made."""
    need(vision.hidden_size % vision.num_heads == 0, "vision hidden_size must divide by num_heads")
    token = vision.spatial_merge_size * vision.patch_size
    fits = vision.window_size >= token
    need(fits, f"vision window_size is {vision.window_size}, expected a token at least: {token} pixels")
    check_activation(vision.hidden_act, "silu", "vision hidden_act")


def validate(config: "OmniConfig") -> None:
    """Raise ConfigError for the first setting that no model can have, or that none here has."""
    text, talker, vision = config.thinker_config.text_config, config.talker_config, config.thinker_config.vision_config
    audio, dit = config.thinker_config.audio_config, config.token2wav_config.dit_config
    check_decoder(text, "text")
    check_decoder(talker, "talker")
    need(talker.embedding_size == text.hidden_size, "talker embedding_size must equal the text hidden_size")
    need(vision.out_hidden_size == text.hidden_size, "vision out_hidden_size must equal the text hidden_size")
    need(audio.output_dim == text.hidden_size, "audio output_dim must equal the text hidden_size")
    check_vision(vision)
    need(audio.d_model % audio.encoder_attention_heads == 0, "audio d_model must divide by its heads")
    check_activation(audio.activation_function, "gelu", "audio activation_function")
    inner = dit.enc_channels
    need(len(inner) >= 3 and inner[-1] == sum(inner[1:-1]), "enc_channels[-1] must equal the sum of the inner ones")
    need(dit.mel_dim == config.token2wav_config.bigvgan_config.mel_dim, "DiT and BigVGAN must agree on mel_dim")
    if config.enable_audio_output:  # without it nobody looks them up
        for names, size in ((CODEC_IDS, talker.vocab_size), (TEXT_IDS, text.vocab_size)):
            for name in names:
                found = getattr(talker, name)
                need(0 <= found < size, f"talker {name} is {found}, expected an id from 0 to {size - 1}")
