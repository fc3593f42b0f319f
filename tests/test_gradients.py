"""Every parameter of the joined model learns: each gets a finite, non-zero gradient from one of five losses."""

from dataclasses import replace

import torch

from omni_lab import OmniModel, OmniProcessor
from omni_lab.codec import flow_matching
from omni_lab.config import SpeechTokenizerConfig

from .talker_reference import context_of
from .test_omni import CONFIGS, FILM, NANO, PICTURE, SOUND

torch.set_num_threads(1)


def thinker_loss(model: OmniModel) -> torch.Tensor:
    """Next words of an answer about a picture, a sound, and a video with sound."""
    content = [SOUND, PICTURE, FILM, "compare"]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "They differ."}]
    how = dict(labels=True, use_audio_in_video=True, longest_audio=True)
    return model.thinker(**OmniProcessor.from_pretrained(NANO)(messages=messages, **how)).loss


def talker_loss(model: OmniModel) -> torch.Tensor:
    context = context_of(model.talker, [[3, 4, 5, 6], [7, 8]])
    reply = torch.randn(2, 3, model.config.talker_config.embedding_size)
    return model.talker(context, reply, torch.randint(0, 1024, (2, 7))).loss


def codec_losses(model: OmniModel) -> list[torch.Tensor]:
    """Flow matching, whose speaker condition comes of a clip; the vocoder's distance; the codebook's."""
    dit = model.token2wav.code2wav_dit_model
    mel, clip = torch.randn(4, 48, 80) - 5, torch.randn(4, 60, 80) - 5
    codes, cond = torch.randint(0, 1024, (4, 24)), model.speaker_encoder(clip)

    def network(noisy, time, drop):
        return dit(noisy, time, codes, cond, clip, drop)

    wave = model.token2wav.code2wav_bigvgan_model(mel[:1, :12])
    return [
        flow_matching.training_loss(network, mel),
        (wave - torch.randn_like(wave)).abs().mean(),
        model.speech_tokenizer(mel, torch.ones(4, 48, dtype=torch.bool)),
    ]


def test_every_parameter_of_every_part_learns_from_some_loss():
    torch.manual_seed(0)
    own = SpeechTokenizerConfig(codebook_size=16)
    model = OmniModel(replace(CONFIGS["3 heads to 1"], speech_tokenizer_config=own)).train()
    for loss in (thinker_loss(model), talker_loss(model), *codec_losses(model)):
        assert loss.ndim == 0 and loss.isfinite()
        loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
