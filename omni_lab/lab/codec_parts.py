"""Lab 07's small parts: a vocoder that needs no training, and a speech tokenizer and a DiT trained in the notebook.

They show that the recipe learns; the trained parts of the shipped checkpoint are `nano.nano_model`'s.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn

from ..codec import flow_matching
from ..codec import mel as mels
from ..codec.dit import DiT
from ..codec.speech_tokenizer import FRAMES_PER_CODE, MEL_MEAN, SpeechTokenizer, pairs
from ..config import BigVGANConfig, DiTConfig, SpeechTokenizerConfig, preset
from ..data import speech, spoken_sets
from ..errors import InputError
from ..train.loader import to_device
from ..train.optimise import AdamW
from ..train.speech_bank import pad

REFERENCE = 96  # mel frames by which a voice is shown


@dataclass(frozen=True)
class Clip:
    """One sentence."""

    text: str
    speaker: str
    wave: Tensor  # (samples,) at 24 kHz, a whole number of codes long

    @cached_property
    def mel(self) -> Tensor:
        """Natural-log mel: (frames, 80)."""
        return mels.mel_spectrogram(self.wave)


def clips(source: str = "", held_out: int = 12) -> tuple[list[Clip], list[Clip]]:
    """Sentences to train on, and the last `held_out`, which nothing here is trained on.

    source: "" for the shipped ones; a folder or hub name for 400 of another set (`data/spoken_sets.py`). Raises
    DataError, and InputError where none would be left to train on."""
    made = []
    for sound in spoken_sets.load(source, mels.SAMPLE_RATE, 400) if source else speech.shipped():
        samples = len(sound.wave) // (FRAMES_PER_CODE * mels.HOP) * FRAMES_PER_CODE * mels.HOP
        made.append(Clip(sound.about["text"], sound.about["speaker"], torch.from_numpy(sound.wave[:samples].copy())))
    trained_on = len(made) - held_out
    if not 0 < trained_on <= len(made):
        raise InputError(f"{source or 'the shipped set'}: of {len(made)} sentences {held_out} cannot be held out")
    return made[:trained_on], made[trained_on:]


class GriffinLim(nn.Module):
    """A vocoder without weights (Griffin and Lim 1984): guess the phases that a mel spectrogram has lost.

    Every window guesses anew, so that chunks do not fit each other: the seams of a vocoder, made audible. It guesses
    on the CPU, where a seed gives the same on every machine."""

    hop = mels.HOP
    config = BigVGANConfig()

    def __init__(self, iterations: int = 30, seed: int = 0) -> None:
        super().__init__()
        self.iterations, self.seed = iterations, seed

    def forward(self, mel: Tensor) -> Tensor:
        """Natural-log mel (batch, frames, bands) -> wave (batch, frames * 240)."""
        filters = mels.mel_filters(mel.shape[2], torch.float32, torch.device("cpu"))  # (bins, bands)
        magnitude = (mel.float().cpu().exp() @ torch.linalg.pinv(filters)).clamp(min=1e-8)  # (batch, frames, bins)
        magnitude = torch.cat((magnitude, magnitude[:, -1:]), dim=1).transpose(1, 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            wave = torchaudio.functional.griffinlim(
                magnitude, torch.hann_window(mels.WINDOW), mels.WINDOW, mels.HOP, mels.WINDOW, power=1.0,
                n_iter=self.iterations, momentum=0.99, length=mel.shape[1] * self.hop, rand_init=True,
            )  # fmt: skip
        return wave.clamp(-1, 1).to(mel.device)


def small_tokenizer(codebook_size: int = 256) -> SpeechTokenizer:
    """A speech tokenizer of the package's own kind, with fewer entries than nano's."""
    return SpeechTokenizer(SpeechTokenizerConfig(codebook_size=codebook_size))


def small_dit(hidden_size: int, layers: int, codebook_size: int = 256) -> DiT:
    """A DiT of the package's own kind: blocks of 24 frames, looking back first and last, ahead in the middle."""
    nano = preset("nano").token2wav_config.dit_config
    config: DiTConfig = replace(
        nano, hidden_size=hidden_size, num_hidden_layers=layers, num_attention_heads=hidden_size // 32, head_dim=32,
        emb_dim=64, look_backward_layers=(0, layers - 1), look_ahead_layers=(layers // 2,),
        num_embeds=codebook_size + 1, dropout=0.0,
    )  # fmt: skip
    network = DiT(config)
    nn.init.constant_(network.proj_out.bias, MEL_MEAN)
    return network


def teach(
    modules: Sequence[nn.Module],
    loss_of: Callable[[torch.Generator], Tensor],
    steps: int,
    rate: float,
    seed: int,
    decay: float = 0.01,
) -> list[float]:
    """Train `modules` on what `loss_of` draws; the loss of every step. One optimiser, one warm-up, one decay."""
    weights = [p for module in modules for p in module.train().parameters()]
    optimiser = AdamW(weights, lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = loss_of(generator)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
    for module in modules:
        module.eval()
    return losses


def teach_tokenizer(
    tokenizer: SpeechTokenizer, heard: Sequence[Clip], steps: int, batch: int = 16, seed: int = 0, device: Any = "cpu"
) -> list[float]:
    """Entries start as moments of `heard`, drawn at random, and move to the middle of the moments nearest to them.

    Returns the loss of every step, in nats^2. Raises InputError for fewer moments than entries."""
    found = [pairs(clip.mel) for clip in heard]
    if sum(map(len, found)) < len(tokenizer.codebook):
        raise InputError(f"{sum(map(len, found))} moments of speech cannot make {len(tokenizer.codebook)} codes")
    moments = torch.cat(found)
    chosen = torch.randperm(len(moments), generator=torch.Generator().manual_seed(seed))[: len(tokenizer.codebook)]
    with torch.no_grad():
        tokenizer.to(device).codebook.copy_(moments[chosen])

    def loss_of(generator: torch.Generator) -> Tensor:
        mels_of = [heard[i].mel for i in torch.randint(len(heard), (batch,), generator=generator).tolist()]
        return tokenizer(*to_device(pad(mels_of, multiple=FRAMES_PER_CODE), device))

    # Entries lie far from zero, where nothing shall draw them to.
    return teach([tokenizer], loss_of, steps, 1e-1, seed, decay=0.0)


def reference_of(clip: Clip, among: Sequence[Clip]) -> Tensor:
    """The voice of `clip` as another sentence shows it: (1, REFERENCE, 80)."""
    other = next((c for c in among if c.speaker == clip.speaker and c.text != clip.text), clip)
    middle = max(0, (len(other.mel) - REFERENCE) // 2)
    return other.mel[None, middle : middle + REFERENCE]


def teach_dit(
    dit: DiT,
    tokenizer: SpeechTokenizer,
    heard: Sequence[Clip],
    steps: int,
    batch: int = 4,
    frames: int = 96,
    seed: int = 0,
    device: Any = "cpu",
) -> list[float]:
    """Flow matching on crops of `frames` mel frames, with their codes and a reference. Returns the loss of every step.

    The speaker's fixed vector (`cond`) stays empty here: the voice comes from the reference mel alone."""
    dit.to(device)
    with torch.no_grad():
        codes = [tokenizer.codes(clip.mel[None].to(device))[0].cpu() for clip in heard]
    references = [reference_of(clip, heard) for clip in heard]

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(heard), (batch,), generator=generator).tolist()
        mel, code = [], []
        for row in rows:
            latest = max(1, (len(heard[row].mel) - frames) // 2)
            start = int(torch.randint(latest, (1,), generator=generator))
            mel.append(heard[row].mel[2 * start : 2 * start + frames])
            code.append(codes[row][start : start + frames // 2])
        (target, mask), (tokens, _) = to_device((pad(mel), pad(code)), device)
        reference = torch.cat([references[row] for row in rows]).to(device)
        cond = target.new_zeros(batch, dit.config.enc_emb_dim)

        def network(noisy: Tensor, time: Tensor, drop: Tensor) -> Tensor:
            return dit(noisy, time, tokens, cond, reference, drop, mask)

        return flow_matching.training_loss(network, target, mask, 0.15, generator)

    return teach([dit], loss_of, steps, 2e-3, seed)


class Toy(nn.Module):
    """A velocity in one dimension: (n,) places at (n,) times -> (n,) velocities."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )

    def forward(self, time: Tensor, state: Tensor) -> Tensor:
        time = time.expand_as(state) if time.ndim == 0 else time
        return self.layers(torch.stack((state, 2 * time - 1), dim=-1))[..., 0]
