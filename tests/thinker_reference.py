"""The reference's thinker with our configuration and weights, to compare with: built once, small, on the CPU."""

from dataclasses import replace

import torch
from torch import Tensor
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerForConditionalGeneration

from omni_lab.config import AudioConfig, OmniConfig, TextConfig, ThinkerConfig, VisionConfig

AUDIO, IMAGE, VIDEO, AUDIO_BOS, AUDIO_EOS, VISION_BOS, VISION_EOS = range(90, 97)  # ids of the tiny vocabularies


def tiny(
    text: dict | None = None, audio: dict | None = None, vision: dict | None = None, tied: bool = False
) -> ThinkerConfig:
    """A thinker of a few thousand parameters; the arguments override fields of its parts."""
    width = (text or {}).get("hidden_size", 48)
    base_text = TextConfig(100, width, 64, 2, 3, 1, 512, mrope_section=(2, 3, 3))
    base_audio = AudioConfig(16, 2, 3, 40, 24, 60, 8, width)
    base_vision = VisionConfig(3, 24, 40, 3, 3, 4, 2, 2, 16, width, (1,))
    return ThinkerConfig(
        replace(base_audio, **audio or {}),
        replace(base_vision, **vision or {}),
        replace(base_text, **text or {}),
        AUDIO,
        IMAGE,
        VIDEO,
        AUDIO_BOS,
        AUDIO_EOS,
        VISION_BOS,
        VISION_EOS,
        tie_word_embeddings=tied,
    )


CONFIGS = {
    "odd heads, 3:1, untied": tiny(),
    "two full layers, wide window, tied": tiny(
        dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3),
        dict(n_window=4, encoder_attention_heads=2, num_mel_bins=20),
        dict(depth=4, window_size=24, fullatt_block_indexes=(0, 3), hidden_size=16, num_heads=2),
        tied=True,
    ),
    "6:2, no full layer, merge 3": tiny(
        dict(hidden_size=72, num_attention_heads=6, num_key_value_heads=2, mrope_section=(3, 2, 1), rope_theta=1e4),
        dict(n_window=10, encoder_layers=1),
        dict(spatial_merge_size=3, window_size=24, fullatt_block_indexes=(), num_heads=1, hidden_size=20),
    ),
}


def reference(config: ThinkerConfig, seed: int = 0) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The reference's model of `config` with random weights of a size at which every term matters."""
    raw = OmniConfig(thinker_config=config).to_dict()["thinker_config"]
    torch.manual_seed(seed)
    model = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**raw)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.dim() == 1 else 1.2 * parameter[0].numel() ** -0.5
            parameter.normal_(0, 1.0 if "embed_tokens" in name else spread)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model


def released_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference nests its modules otherwise in memory than on disk; this renames as its `save_pretrained` does."""
    named = {}
    for name, tensor in state.items():
        for ours, theirs in (("visual.", "model.visual."), ("audio_tower.", "model.audio_tower.")):
            name = ours + name.removeprefix(theirs) if name.startswith(theirs) else name
        named[name.replace("model.language_model.", "model.", 1)] = tensor
    return named
