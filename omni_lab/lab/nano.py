"""The nano model for labs, chat and benchmarks: the shipped checkpoint, or, where it has no weights, random ones."""

from typing import Any

import torch

from ..codec.speaker import Speaker
from ..config import preset
from ..data.folders import samples_folder
from ..omni import OmniModel
from ..processing.processor import OmniProcessor


def nano_model(device: Any = None) -> tuple[OmniModel, bool]:
    """(model, whether it is trained). An untrained one babbles in two voices, but at the true speed.

    Raises CheckpointError for a checkpoint that is broken."""
    folder = samples_folder() / "checkpoints" / "nano"
    if (folder / "config.json").is_file():
        return OmniModel.from_pretrained(folder, device=device), True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OmniModel(preset("nano")).eval()
        model.processor = OmniProcessor.from_pretrained(folder)
        for i, name in enumerate(("nobody", "no one")):
            token = model.processor.tokenizer.convert_tokens_to_ids(f"<spk_{i}>")
            model.speakers[name] = Speaker(token, torch.randn(1, 192), torch.randn(1, 400, 80) - 5)
    return model.to(device or "cpu"), False
