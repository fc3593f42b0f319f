"""LLaVA of published parts: a CLIP and a Qwen2.5 in the layout of `transformers`, by folder or hub name.

The decoder of this package has the parameter names of Qwen2.5, so its weights load as they are; CLIP's tower stays the
library's own, since it is only looked through.
"""

from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from . import clip
from .checkpoints import one_line
from .config import TextConfig
from .config_checks import check_attention, check_decoder
from .errors import CheckpointError, ConfigError
from .llava import IMAGE, IMAGE_END, IMAGE_START, LLaVA, LlavaConfig, last_line


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
        raise CheckpointError(f"{language} is no Qwen2.5: {last_line(error)}") from error
    return model


def load_tower(name: str) -> tuple[HubTower, int]:
    """The tower and its pictures' side in pixels. Raises CheckpointError."""
    from transformers import AutoImageProcessor, CLIPVisionModel

    vision, processor = whole(CLIPVisionModel, name, "CLIP"), loaded(AutoImageProcessor, name, "processor of pictures")
    side = vision.config.image_size
    if not isinstance(side, int):
        raise CheckpointError(f"{name}: pictures of {side} pixels, expected squares")
    colours: list[Any] = [getattr(processor, key, None) for key in ("image_mean", "image_std")]
    if not all(isinstance(values, list | tuple) and len(values) == 3 for values in colours):
        raise CheckpointError(f"{name}: image_mean and image_std are {colours}, expected three numbers each")
    return HubTower(vision, *colours), side


def loaded(kind: Any, name: str, what: str, **how: Any) -> Any:
    """What the library's `kind` makes of a folder or hub name. Raises CheckpointError."""
    try:
        return kind.from_pretrained(name, **how)
    except Exception as error:  # noqa: BLE001 - whatever the library says of a folder that is none
        raise CheckpointError(f"{name}: no {what} here or on the hub ({one_line(error)})") from error


def whole(kind: Any, name: str, what: str, **how: Any) -> Any:
    """`loaded`, for a model; also raises CheckpointError where the library would fill in random weights."""
    model, told = loaded(kind, name, what, output_loading_info=True, **how)
    lacking = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if lacking:
        raise CheckpointError(f"{name} is no {what}: it lacks {len(lacking)} tensors, first {lacking[0]}")
    return model


def load_language(name: str) -> tuple[TextConfig, dict[str, Tensor]]:
    """Configuration and decoder weights of a Qwen2.5. Raises CheckpointError, and ConfigError for an untied head."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = loaded(AutoConfig, name, "language model")
    if config.model_type != "qwen2":
        raise CheckpointError(f"{name} is a {config.model_type}, expected a Qwen2.5")
    if not config.tie_word_embeddings:
        raise ConfigError(f"{name} has a head of its own: choose a Qwen2.5 up to 3B, whose head is the embedding")
    check_attention(config.to_dict(), name)
    found = whole(AutoModelForCausalLM, name, "Qwen2.5", dtype=torch.float32)
    pairs = config.hidden_size // config.num_attention_heads // 2
    text = TextConfig(
        config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers,
        config.num_attention_heads, config.num_key_value_heads, config.max_position_embeddings, config.rms_norm_eps,
        config.rope_parameters["rope_theta"], (pairs,), config.hidden_act,
    )  # fmt: skip
    check_decoder(text, "text", name)
    return text, found.model.state_dict()


def load_tokenizer(name: str) -> Tokenizer:
    """Its tokenizer, with the picture's three tokens in the spare rows of the embedding. Raises CheckpointError."""
    from transformers import AutoTokenizer

    tokenizer = getattr(loaded(AutoTokenizer, name, "tokenizer"), "backend_tokenizer", None)
    if tokenizer is None:
        raise CheckpointError(f"{name}: its tokenizer has no tokenizer.json")
    tokenizer.add_special_tokens([IMAGE, IMAGE_START, IMAGE_END])
    return tokenizer
