"""Trained parts of the model, each a safetensors file left by a recipe, and the whole model put together from them."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..codec.speaker import Speaker, SpeakerEncoder, enrol
from ..codec.speech_tokenizer import SpeechTokenizer
from ..config import OmniConfig, preset
from ..data import sentences, speech
from ..data.splits import generator
from ..errors import CheckpointError, ConfigError
from ..evaluate import dpo_change
from ..sampling import Sampling
from . import nano

TEMPERATURE = 0.5  # of the noise with which the assembled model's DiT begins (DiT.draw_noise)
DRAWN = 0.3  # temperature at which its talker draws codes


def part_path(folder: Path, name: str) -> Path:
    """Where part `name` lies."""
    return folder / f"{name}.safetensors"


def save_part(folder: Path | None, name: str, module: nn.Module) -> None:
    """Leave the weights of `module` as part `name`, atomically. Without a folder nothing is left."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = part_path(folder, name)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    # Clones: tied weights share memory, which the format does not allow.
    save_file({k: t.detach().cpu().contiguous().clone() for k, t in module.state_dict().items()}, part)
    os.replace(part, path)


def load_part(folder: Path | None, name: str, module: nn.Module) -> bool:
    """Load part `name` into `module` if it is there; says whether it was. Raises CheckpointError if it does not fit."""
    if folder is None or not part_path(folder, name).exists():
        return False
    path = part_path(folder, name)
    try:
        module.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{path}: not the weights of this model ({str(error).splitlines()[-1].strip()})"
        ) from error
    return True


def need_part(folder: Path | None, name: str, module: nn.Module, recipe: str) -> None:
    """Load part `name`. Raises ConfigError when it has not been trained yet."""
    if not load_part(folder, name, module):
        raise ConfigError(f"{recipe} needs the trained part {name!r} in {folder}: train it first, or `train all`")


def new_tokenizer(config: OmniConfig) -> SpeechTokenizer:
    """A speech tokenizer with random weights. Raises ConfigError for a configuration without one."""
    if config.speech_tokenizer_config is None:
        raise ConfigError("this configuration has no speech tokenizer: choose preset nano or small")
    return SpeechTokenizer(config.speech_tokenizer_config)


def frozen_tokenizer(config: OmniConfig, folder: Path | None, recipe: str) -> SpeechTokenizer:
    """The trained speech tokenizer, which others learn from and none changes. Raises ConfigError if it is not there."""
    tokenizer = new_tokenizer(config).eval().requires_grad_(False)
    need_part(folder, "speech_tokenizer", tokenizer, recipe)
    return tokenizer


def load_first(folder: Path, names: tuple[str, ...], module: nn.Module) -> str | None:
    """Load the first of these parts that is there; returns its name."""
    return next((name for name in names if load_part(folder, name, module)), None)


def need_first(folder: Path, names: tuple[str, ...], module: nn.Module, recipe: str) -> None:
    """Load the first of these parts that is there. Raises ConfigError when none of them has been trained yet."""
    if load_first(folder, names, module) is None:
        wanted = " or ".join(map(repr, names))
        raise ConfigError(f"{recipe} needs a trained part {wanted} in {folder}: train one first, or `train all`")


# Where each part of the model is looked for, the furthest trained first.
SOURCES = {
    "thinker": (
        "joint_thinker",
        "thinker_3",
        "thinker_2",
        "thinker_1",
        "audio_encoder",
        "seeing",
        "hearing",
        "language",
    ),  # fmt: skip
    "talker": ("joint_talker", "speakers", "talker_dpo", "talker"),
    "token2wav.code2wav_dit_model": ("dit",),
    "token2wav.code2wav_bigvgan_model": ("bigvgan",),
    "speech_tokenizer": ("speech_tokenizer",),
    "speaker_encoder": ("speaker_encoder",),
}


def missing(folder: Path) -> list[str]:
    """The parts of the model for which nothing has been trained in `folder`, by their names in the model."""
    return [place for place, names in SOURCES.items() if not any(part_path(folder, name).exists() for name in names)]


def assemble(folder: Path, out: Path, preset_name: str = "nano", base: Path | None = None) -> Path:
    """Join the trained parts in `folder` to one model in the reference's layout, 16-bit, with the course's speakers.

    base: a checkpoint that gives the parts which were not trained; without it they keep random weights. Whatever the
    preset, samples were read by nano's processor (nano.py), and so the model gets that one.
    """
    from ..omni import OmniModel

    model = OmniModel.from_pretrained(base, "cpu", torch.float32) if base else OmniModel(preset(preset_name))
    for place, names in SOURCES.items():
        load_first(folder, names, model.get_submodule(place))
    if model.processor is None:
        model.processor = nano.processor()
    model.eval()
    model.speakers.update(course_speakers(model))
    model.talker.default_sampling = of_replies(model.talker.default_sampling)
    model.token2wav.code2wav_dit_model.temperature = TEMPERATURE
    model.to(torch.bfloat16).save_pretrained(out, dtype=torch.bfloat16)
    if change := added_by_dpo(folder):
        dpo_change.write(out / dpo_change.FILE, change)
    return out


def of_replies(sampling: Sampling, temperature: float = DRAWN) -> Sampling:
    """How the assembled model's talker draws: not as hot as the release's, and without its penalty on repetition. A
    sound that lasts is the same code again and again, which a penalty makes another sound."""
    return replace(sampling, temperature=temperature, repetition_penalty=1.0)


def added_by_dpo(folder: Path) -> dict[str, torch.Tensor]:
    """What DPO added to the talker's weights in `folder`, by their names; nothing where it was not trained.

    The mini suite takes it back to hear what it was good for (`evaluate/dpo_change.py`)."""
    before, after = part_path(folder, "talker"), part_path(folder, "talker_dpo")
    if not before.is_file() or not after.is_file():
        return {}
    old, new = load_file(before), load_file(after)
    return {name: new[name] - old[name] for name in new if not torch.equal(new[name], old[name])}


def course_speakers(model: Any) -> dict[str, Speaker]:
    """The speakers whose replies the nano world holds, as `model` knows them."""
    tokenizer = model.processor.tokenizer
    tokens = [tokenizer.convert_tokens_to_ids(f"<spk_{i}>") for i in range(len(speech.REPLY_SPEAKERS))]
    speakers = {}
    for name, token in zip(speech.REPLY_SPEAKERS, tokens, strict=True):
        # Synthetic voices, nobody's: they need no mark.
        made = enrol(recording(name), speech.SPEAKING_RATE, model.speaker_encoder, token, disclose=False)
        # A copy: the reference is a window of a longer mel, all of which would be written along.
        speakers[name] = replace(made, cond=made.cond.clone(), ref_mel=made.ref_mel.clone())
    return speakers


def reference_speaker(config: OmniConfig, folder: Path, name: str) -> Speaker:
    """A speaker of the nano world, enrolled with the trained speaker encoder. Raises ConfigError if there is none."""
    encoder = SpeakerEncoder(config.token2wav_config.dit_config).eval()
    need_part(folder, "speaker_encoder", encoder, "a spoken reply")
    return enrol(recording(name), speech.SPEAKING_RATE, encoder, 0, disclose=False)


def recording(name: str) -> torch.Tensor:
    """Three sentences by a speaker, about 10 s: (samples,) at 24 kHz."""
    texts = [sentences.sentence(generator("enrolment", name, 0, k), "train") for k in range(3)]
    return torch.from_numpy(np.concatenate([speech.say(text, name, 0) for text in texts]))
