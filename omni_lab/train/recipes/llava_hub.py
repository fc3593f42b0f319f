"""Both stages of LLaVA on published parts and data: a CLIP, a Qwen2.5, and LLaVA-Instruct's JSON with its pictures."""

import copy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import Tokenizer
from torch import nn

from ... import llava, llava_hub
from ...data import readers
from ...data.dialogues import Turns
from ...data.instructions import Example
from ...data.sample import Sample
from ...data.scenes import Scene
from ...data.splits import generator, held_out
from ...errors import ConfigError, DataError
from ..loader import usable
from ..parts import need_part, save_part
from ..recipe import Batch
from .llava import Llava, LlavaSettings

FILE = "llava_instruct_150k.json"
TRIES = 20  # dialogues of which one at least must be whole


@dataclass(frozen=True)
class HubSettings(LlavaSettings):
    """`batch_size` counts dialogues."""

    vision: str = "openai/clip-vit-large-patch14"  # folder or hub name; the paper's tower
    language: str = "Qwen/Qwen2.5-0.5B-Instruct"  # folder or hub name
    instruct: str = ""  # the folder that holds FILE and the pictures
    stage: str = "align"  # or "instruct", which goes on from what "align" left


class HubRecipe(Llava):
    """One stage on the field's data. One dialogue in fifty, by its id, is held out."""

    name = "llava_hub"
    settings: HubSettings
    scales = {
        "smoke": HubSettings(2, 2, 2e-3, log_every=1),
        "cpu": HubSettings(20, 2, 2e-3),
        "t4": HubSettings(500, 4, 2e-3, accumulate=8, checkpoint_activations=True, workers=2),
        "gpu": HubSettings(2000, 32, 2e-3, accumulate=4, checkpoint_activations=True, workers=12),
    }

    @property
    def stage(self) -> str:  # type: ignore[override]
        return self.settings.stage

    @cached_property
    def untrained(self) -> llava.LLaVA:
        """Asked for its tokenizer and sizes as long as the recipe lasts; what trains is a copy."""
        return llava_hub.from_hub(self.settings.vision, self.settings.language)

    @property
    def config(self) -> llava.LlavaConfig:
        return self.untrained.config

    @property
    def tokenizer(self) -> Tokenizer:  # type: ignore[override]
        return self.untrained.tokenizer

    @property
    def side(self) -> int:  # type: ignore[override]
        return self.untrained.side

    @cached_property
    def samples(self) -> dict[str, list[Sample]]:
        """Split -> its dialogues, whose pictures stay in their files: those of the whole set take 140 GB of memory.

        Raises ConfigError without a folder, DataError where a split is empty."""
        if not self.settings.instruct:
            raise ConfigError(f"llava_hub needs the folder that holds {FILE} and its pictures: set `instruct`")
        folder = Path(self.settings.instruct)
        split: dict[str, list[Sample]] = {"train": [], "test": []}
        for sample in readers.llava(folder / FILE, folder, opened=False):
            split["test" if held_out("llava_hub", sample.meta["key"], 0.02) else "train"].append(sample)
        if not split["train"]:
            raise DataError(f"{folder / FILE}: no dialogue to train on")
        return split

    def batch(self, index: int) -> Batch:
        bad: list[str] = []
        batch = self.collate(self.examples("train", index, bad))
        return batch | {"samples": batch["samples"] + len(bad), "skipped": bad}

    def examples(self, split: str, index: int, bad: list[str] | None = None) -> list[Example]:
        """Dialogues drawn from the split (the training's, where none is held out), pictures made square.

        Those that cannot be read are left out, a line each in `bad`. Raises DataError when none of many can."""
        rng, size = generator("llava_hub", split, self.seed, index), self.config.image_size
        found, bad = self.samples[split] or self.samples["train"], [] if bad is None else bad
        drawn = rng.integers(len(found), size=self.settings.batch_size)
        made = usable([partial(example, found[int(number)], size) for number in drawn], bad)
        while not made:  # one bad dialogue can be all of a small batch
            if len(bad) >= TRIES:
                raise DataError(f"{self.settings.instruct}: {len(bad)} dialogues drawn, none can be read: {bad[-1]}")
            made = usable([partial(example, found[int(rng.integers(len(found)))], size)], bad)
        return made

    def build(self) -> nn.Module:
        _ = self.samples  # read before there are worker processes, which then share it
        model = copy.deepcopy(self.untrained)
        if start := self.settings.start or part_of("align") * (self.stage == "instruct"):
            need_part(self.parts, start, model, self.name)
        return model

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        """The paper's rates (section 5): 2e-3 for W alone, 2e-5 for both; here the settings', and a hundredth of it."""
        rate = self.settings.learning_rate / (100 if self.stage == "instruct" else 1)
        return {"main": [group | {"lr": rate} for group in super().groups(model)["main"]]}

    def finish(self, model: nn.Module) -> None:
        save_part(self.parts, part_of(self.stage), model)


def part_of(stage: str) -> str:
    """Name of the part that a stage leaves."""
    return f"llava_hub_{stage}"


def example(sample: Sample, size: int) -> Example:
    """A dialogue with its picture opened. Raises DataError."""
    seen = Scene(size, "photograph", (255, 255, 255), ())  # what it shows, nobody has written down
    return Example("dialogue", seen, picture_of(sample, size), turns_of(sample))


def turns_of(sample: Sample) -> Turns:
    """(question, answer) pairs of a dialogue. Raises DataError where they do not take turns."""
    roles = [message["role"] for message in sample.messages]
    if roles != [("user", "assistant")[i % 2] for i in range(len(roles))] or len(roles) % 2 == 0:
        raise DataError(f"dialogue {sample.meta['key']}: its two speakers do not take turns")
    said = [" ".join(p["text"] for p in m["content"] if p["type"] == "text") for m in sample.messages]
    return list(zip(said[::2], [*said[1::2], sample.answer], strict=True))


def picture_of(sample: Sample, size: int) -> Image.Image:
    """Its picture, read from its file, as a square of `size` pixels. Raises DataError for a dialogue without one."""
    file = next((part["image"] for part in sample.messages[0]["content"] if part["type"] == "image"), None)
    if file is None:
        raise DataError(f"dialogue {sample.meta['key']} has no picture")
    try:
        return readers.open_picture(file).resize((size, size), Image.Resampling.BICUBIC)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as a picture ({error})") from error
