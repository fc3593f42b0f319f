"""A nano model with random weights of a size at which every term matters: what holds for it holds for trained ones."""

from pathlib import Path

import pytest
import torch

from omni_lab import OmniModel, OmniProcessor
from omni_lab.codec.speaker import Speaker
from omni_lab.config import preset

NANO = Path(__file__).parents[2] / "data_samples" / "checkpoints" / "nano"
QUICK = {"num_steps": 2, "solver": "euler"}  # where the sound itself is not the matter


@pytest.fixture(scope="session")
def model() -> OmniModel:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = OmniModel(preset("nano"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.startswith(("token2wav.code2wav_dit", "talker", "thinker")) and parameter.dim() > 1:
                spread = 1.0 if "embed_tokens" in name else parameter[0].numel() ** -0.5
                parameter.normal_(0, spread, generator=generator)
    made.processor = OmniProcessor.from_pretrained(NANO)
    for i, name in enumerate(("Ada", "Ben")):
        token = made.processor.tokenizer.convert_tokens_to_ids(f"<spk_{i}>")
        mel = torch.randn(1, 80, 80, generator=generator)
        made.speakers[name] = Speaker(token, torch.randn(1, 192, generator=generator), mel)
    return made.eval()
