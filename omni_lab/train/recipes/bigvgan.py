"""BigVGAN: mel -> wave, by reconstruction of the mel and by critics (Lee et al. 2023).

The vocoder also meets mels with noise on them (`roughness`) and, at the end, mels as the DiT makes them (`predicted`),
because that is what it will be given: on the first DiT's mels it lost three times the words that Griffin-Lim lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...codec.bigvgan import BigVGAN
from ...codec.dit import DiT
from ...codec.mel import HOP
from ...codec.speaker import REFERENCE_FRAMES, SpeakerEncoder, reference_window
from ...config import preset
from ...data.splits import generator
from .. import discriminators, speech_bank
from ..optimise import decay_groups
from ..parts import TEMPERATURE, frozen_tokenizer, need_part, save_part
from ..recipe import Batch, Recipe, Settings
from ..speech_bank import Clip


@dataclass(frozen=True)
class BigVGANSettings(Settings, speech_bank.Supply):
    frames: int = 32  # mel frames of a crop
    critic_width: int = 16  # channels of the narrowest layer
    critics_from: float = 0.0  # share of the run before which nobody judges: half the time of a step, on a CPU
    mel_weight: float = 15.0
    spectral_weight: float = 5.0
    matching_weight: float = 2.0
    roughness: float = 0.1  # largest deviation of the noise on the mel, in nats
    predicted: float = 0.0  # share of crops whose mel the trained DiT has made from the clip's codes
    temperature: float = TEMPERATURE  # of the noise that the DiT begins with: as the assembled model's
    source: float = 0.0  # share of batches by the source voice alone
    rounded: bool = False  # it runs with its weights rounded to bfloat16, as a checkpoint will hold them
    start: str = ""  # folder with a `bigvgan` to go on from, with a schedule of its own; "": fresh weights


CPU = BigVGANSettings(
    steps=4000,
    batch_size=4,
    learning_rate=8e-4,
    betas=(0.8, 0.99),
    clip=20.0,
    ema=0.995,
    critic_width=8,
    critics_from=0.5,
    evaluate_every=500,
    save_every=50,
)


class BigVGANRecipe(Recipe):
    """Mel -> 24 kHz wave."""

    name: ClassVar[str] = "bigvgan"
    optimisers: ClassVar[tuple[str, ...]] = ("critics", "vocoder")
    writes: ClassVar[tuple[str, ...]] = ("bigvgan",)
    scales: ClassVar[Mapping[str, Settings]] = {
        "smoke": replace(
            CPU,
            steps=2,
            batch_size=1,
            shards=1,
            sentences=4,
            frames=16,
            critic_width=2,
            evaluate_every=0,
            log_every=1,
            ema=0.5,
        ),
        "cpu": CPU,
        "t4": replace(
            CPU,
            batch_size=16,
            learning_rate=4e-4,
            shards=60,
            growth=0.05,
            workers=2,
            critic_width=16,
            critics_from=0.1,
        ),
        "gpu": replace(
            CPU,
            batch_size=32,
            learning_rate=4e-4,
            shards=60,
            growth=0.05,
            workers=3,
            save_every=500,
            critic_width=24,
            critics_from=0.0,
            frames=48,
            dtype="float32",
        ),
    }
    least = speech_bank.LEAST
    settings: BigVGANSettings

    def build(self) -> nn.Module:
        vocoder = BigVGAN(preset(self.settings.preset).token2wav_config.bigvgan_config)
        for module in vocoder.modules():
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                nn.init.normal_(module.weight, std=fan_deviation(module))
        if self.settings.start:
            need_part(Path(self.settings.start), "bigvgan", vocoder, self.name)
        return nn.ModuleDict({"vocoder": vocoder, "critics": discriminators.Critics(self.settings.critic_width)})

    def groups(self, model: Any) -> dict[str, list[dict[str, Any]]]:
        starts = {"critics": self.settings.critics_from, "vocoder": 0.0}
        return {
            name: decay_groups(model[name].named_parameters(), self.settings, starts=starts[name])
            for name in self.optimisers
        }

    def blocks(self, model: Any) -> list[nn.Module]:
        return [*model["vocoder"].resblocks, *model["critics"].critics]

    def compile(self, model: Any) -> None:
        model["vocoder"].compile()

    def batch(self, index: int) -> Batch:
        pairs, rng = speech_bank.drawn(self.settings, self.seed, index)
        clips = [clip for pair in pairs for clip in pair]
        if self.settings.source and rng.random() < self.settings.source:
            clips = [*speech_bank.drawn_solo(self.settings, rng, index)]
        frames = self.settings.frames
        waves, mels = [], []
        for choice in rng.integers(len(clips), size=self.settings.batch_size):
            wave = torch.from_numpy(clips[choice].wave).float() / 32767
            start = int(rng.integers(max(1, len(wave) // HOP - frames + 1)))
            piece = wave[start * HOP : (start + frames) * HOP]
            waves.append(torch.nn.functional.pad(piece, (0, frames * HOP - len(piece))))
            mel = discriminators.mel_spectrogram(waves[-1][None])[0]
            if rng.random() < self.settings.predicted and len(piece) == frames * HOP:
                mel = self.predicted_mel(clips[choice], clips)[start : start + frames]
            mels.append(mel)
        wave = torch.stack(waves)
        judged = index // self.settings.accumulate >= self.settings.critics_from * self.settings.steps  # a whole step
        return {"wave": wave, "mel": torch.stack(mels), "judged": judged, "samples": len(waves)}

    @torch.no_grad()
    def predicted_mel(self, clip: Clip, clips: list[Clip]) -> Tensor:
        """The clip's mel as the DiT makes it from its codes and another clip of its voice: (frames, 80), made once."""
        key = (clip.text, clip.speaker, len(clip.wave))
        if key not in self.made:
            rng = generator("predicted mel", clip.text, 0, len(clip.wave))
            other = speech_bank.another_by(clip.speaker, clips, clip.text, rng) or clip
            shown = reference_window(other.mel)
            tokenizer, dit, encoder = self.codec
            noise = torch.from_numpy(rng.standard_normal((1, len(clip.mel), clip.mel.shape[1]))).float()
            noise *= self.settings.temperature
            cond = encoder(shown[None, :REFERENCE_FRAMES])
            codes = tokenizer.codes(clip.mel[None])
            self.made[key] = dit.sample(codes, cond, shown[None, :REFERENCE_FRAMES], noise, 3, solver="rk4")[0]
        return self.made[key]

    @cached_property
    def made(self) -> dict[tuple[str, str, int], Tensor]:
        """Mels that this process has had the DiT make."""
        return {}

    @cached_property
    def codec(self) -> tuple[Any, Any, Any]:
        """The trained speech tokenizer, DiT and speaker encoder, frozen."""
        config = preset(self.settings.preset)
        dit_config = config.token2wav_config.dit_config
        parts = {"dit": DiT(dit_config), "speaker_encoder": SpeakerEncoder(dit_config)}
        for name, part in parts.items():
            need_part(self.parts, name, part.eval().requires_grad_(False), self.name)
        return frozen_tokenizer(config, self.parts, self.name), parts["dit"], parts["speaker_encoder"]

    def loss(self, model: Any, batch: Batch, optimiser: str) -> tuple[Tensor, dict[str, Tensor]]:
        critics, wave = model["critics"], batch["wave"]
        if optimiser == "critics":
            rough = torch.rand(len(wave), 1, 1) * torch.randn(batch["mel"].shape) * self.settings.roughness
            batch["made"] = self.vocode(model["vocoder"], batch["mel"] + rough.to(wave.device))
            if not batch["judged"]:
                # A loss of nothing; where critics are sharded and were not called, not even that.
                whole = [p.sum() for p in critics.parameters() if not hasattr(p, "to_local")]
                return sum(whole, wave.new_zeros(())) * 0.0, {}
            return discriminators.critic_loss(critics(wave), critics(batch["made"].detach())), {}
        made = batch["made"]  # from the pass before: the vocoder has not changed since
        mel, spectral = discriminators.mel_loss(made, wave), discriminators.spectral_loss(made, wave)
        loss = self.settings.mel_weight * mel + self.settings.spectral_weight * spectral
        if not batch["judged"]:
            return loss, {"mel": mel, "spectral": spectral}
        with torch.no_grad():
            real = critics(wave)
        fake = critics(made)
        deception = discriminators.deception_loss(fake)
        matching = discriminators.feature_matching_loss(real, fake)
        loss = loss + deception + self.settings.matching_weight * matching
        return loss, {"mel": mel, "spectral": spectral, "deception": deception, "matching": matching}

    def vocode(self, vocoder: nn.Module, mel: Tensor) -> Tensor:
        """Wave (batch, samples) of a mel (batch, frames, 80), with the weights rounded if the settings say so."""
        if not self.settings.rounded:
            return vocoder(mel)
        rounded = {name: straight_through(p) for name, p in vocoder.named_parameters()}
        return torch.func.functional_call(vocoder, rounded, (mel,))

    def evaluate(self, model: Any) -> dict[str, float]:
        """Mel error of held-out sentences' waves, by held-out speakers and, three of ten, the source voice; in nats."""
        pairs = speech_bank.shard("test", 0, self.settings.sentences)
        rng, errors = generator("bigvgan evaluation", "test", 0, 0), []
        device = model["vocoder"].conv_post.weight.device
        for choice in rng.integers(len(pairs), size=2 if self.settings.steps < 100 else 10):
            wave = torch.from_numpy(pairs[choice][0].wave[: 2 * 24000])[None].float().to(device) / 32767
            made = self.vocode(model["vocoder"], discriminators.mel_spectrogram(wave))
            errors.append(discriminators.mel_loss(made, wave))
        return {"mel": torch.stack(errors).mean().item()}

    def finish(self, model: Any) -> None:
        save_part(self.parts, "bigvgan", model["vocoder"])


def straight_through(weight: Tensor) -> Tensor:
    """The weight as bfloat16 holds it; its gradient is passed on as if nothing had been rounded (Bengio et al. 2013,
    section 4: the straight-through estimator)."""
    return weight + (weight.bfloat16().to(weight.dtype) - weight).detach()


def fan_deviation(conv: nn.Conv1d | nn.ConvTranspose1d) -> float:
    """Deviation of starting weights that keeps the size of what goes through: one over the root of the fan-in."""
    taps = conv.kernel_size[0] / conv.stride[0] if isinstance(conv, nn.ConvTranspose1d) else conv.kernel_size[0]
    return 0.7 * (conv.in_channels * taps) ** -0.5
