"""One file per recipe; `find` gets a recipe's class by its name, importing no other recipe."""

from importlib import import_module

from ...errors import ConfigError
from ..recipe import Recipe

# Name -> (module, class).
RECIPES: dict[str, tuple[str, str]] = {
    "clip": ("clip", "ClipRecipe"),
    "language": ("thinker", "Language"),
    "hearing": ("hearing", "Hearing"),
    "seeing": ("seeing", "Seeing"),
    "audio_encoder": ("thinker", "AudioEncoder"),
    "llava_1": ("thinker", "Llava1"),
    "llava_2": ("thinker", "Llava2"),
    "llava_language": ("llava", "LlavaLanguage"),
    "llava_align": ("llava", "LlavaAlign"),
    "llava_instruct": ("llava", "LlavaInstruct"),
    "llava_hub": ("llava_hub", "HubRecipe"),
    "thinker_1": ("thinker", "Thinker1"),
    "thinker_2": ("thinker", "Thinker2"),
    "thinker_3": ("thinker", "Thinker3"),
    "speech_tokenizer": ("speech_tokenizer", "SpeechTokenizerRecipe"),
    "mel_reader": ("mel_reader", "MelReaderRecipe"),
    "dit": ("dit", "DiTRecipe"),
    "bigvgan": ("bigvgan", "BigVGANRecipe"),
    "talker": ("talker", "TalkerRecipe"),
    "talker_dpo": ("talker_dpo", "TalkerDPO"),
    "speakers": ("talker", "Speakers"),
    "joint": ("talker", "Joint"),
}


# What `omni-lab train all` runs, in this order: the parts of the omni model. CLIP and LLaVA are labs of their own.
ALL = (
    "language", "hearing", "seeing", "audio_encoder", "thinker_1", "thinker_2", "thinker_3", "speech_tokenizer",
    "mel_reader", "dit", "bigvgan", "talker", "talker_dpo", "speakers", "joint",
)  # fmt: skip
GROUPS = {
    "all": ALL,
    "thinker": ALL[:7],
    "codec": ALL[7:11],
    "speech": ALL[11:],
}


def find(name: str) -> type[Recipe]:
    """The class of the recipe called `name`. Raises ConfigError for an unknown one."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    module, kind = RECIPES[name]
    return getattr(import_module(f"{__name__}.{module}"), kind)
