"""LLaVA of published parts: a CLIP and a Qwen2.5 in the layout of `transformers`, by folder or hub name.

The decoder of this package has the parameter names of Qwen2.5, so its weights load as they are; CLIP's tower stays the
library's own, since it is only looked through.
"""

from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import clip
from .config import TextConfig
from .errors import CheckpointError, ConfigError
from .llava import IMAGE, IMAGE_END, IMAGE_START, LLaVA, LlavaConfig


class HubTower(nn.Module):
    """A `transformers.CLIPVisionModel` with lab 01's way to be asked. Its grid features are those before the last
    layer, as in the paper's final model (section 4.1)."""

    def __init__(self, vision: Any, mean: list[float], std: list[float]):
        super().__init__()
        self.vision = vision
        self.mean, self.std = mean, std  # of the pictures that it was trained on, one for each colour

    def grid(self, pictures: Tensor) -> Tensor:
        """Pictures from `clip.to_input`, (batch, 3, size, size) -> (batch, width, side, side)."""
        mean, std = (pictures.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        pixels = (pictures * clip.STD + clip.MEAN - mean) / std  # from lab 01's scale to this tower's
        hidden = self.vision(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]  # no class token
        side = round(hidden.shape[1] ** 0.5)
        return hidden.transpose(1, 2).reshape(len(hidden), -1, side, side)


def from_hub(vision: str, language: str) -> LLaVA:
    """A LLaVA with fresh W behind CLIP `vision` and before Qwen2.5 `language`, each a folder or hub name.

    Raises CheckpointError where one cannot be had or read, ConfigError for a language model with a head of its own."""
    tower, size = load_tower(vision)
    config, weights = load_language(language)
    model = LLaVA(LlavaConfig(config, size), load_tokenizer(language), tower)
    try:
        model.language_model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{language} is no Qwen2.5: {str(error).splitlines()[-1].strip()}") from error
    return model


def load_tower(name: str) -> tuple[HubTower, int]:
    """The tower and its pictures' side in pixels. Raises CheckpointError."""
    from transformers import AutoImageProcessor, CLIPVisionModel

    try:
        vision, processor = CLIPVisionModel.from_pretrained(name), AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{name}: no CLIP here or on the hub ({str(error).splitlines()[0]})") from error
    side = vision.config.image_size
    if not isinstance(side, int):
        raise CheckpointError(f"{name}: pictures of {side} pixels, expected squares")
    return HubTower(vision, processor.image_mean, processor.image_std), side


def load_language(name: str) -> tuple[TextConfig, dict[str, Tensor]]:
    """Configuration and decoder weights of a Qwen2.5. Raises CheckpointError, and ConfigError for an untied head."""
    from transformers import AutoModelForCausalLM

    try:
        found = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{name}: no language model here or on the hub ({str(error).splitlines()[0]})") from error
    config = found.config
    if not config.tie_word_embeddings:
        raise ConfigError(f"{name} has a head of its own: choose a Qwen2.5 up to 3B, whose head is the embedding")
    pairs = config.hidden_size // config.num_attention_heads // 2
    text = TextConfig(
        config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers,
        config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings, config.rms_norm_eps,
        config.rope_parameters["rope_theta"], (pairs,),
    )  # fmt: skip
    return text, found.model.state_dict()


def load_tokenizer(name: str) -> Tokenizer:
    """Its tokenizer, with the picture's three tokens in the spare rows of the embedding. Raises CheckpointError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name).backend_tokenizer
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{name}: no tokenizer here or on the hub ({str(error).splitlines()[0]})") from error
    tokenizer.add_special_tokens([IMAGE, IMAGE_START, IMAGE_END])
    return tokenizer
