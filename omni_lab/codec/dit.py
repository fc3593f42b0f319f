"""The DiT: codec tokens -> mel frames, by flow matching under a sliding-window block mask (report, section 2.4).

Notable:
- time is cut into blocks of `block_size` frames; most layers attend within a block, a few one block back or ahead, so
  attention runs on the neighbourhood of each block and never builds a (frames, frames) matrix;
- what stays the same over all network calls of a solve is computed once: the speaker, the code embeddings, the
  modulations of all times (`voice`, `modulations`);
- rotary positions turn head 0 alone, in neighbouring pairs, because the released weights were trained so;
- the unconditional half of guidance is code 0 (a real code) and ECAPA of a zero mel, not zeros behind the encoder.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import cpu_kernels
from ..config import DiTConfig
from ..errors import ConfigError, InputError
from . import flow_matching, packed_dit
from .dit_layers import (
    AdaLayerNorm,
    CodeEmbedding,
    DiTLayer,
    Geometry,
    InputEmbedding,
    TimeEmbedding,
    modulate,
    rotary_tables,
    windows,
)


def sliding_window_block_mask(length: int, block_size: int, look_backward: int = 0, look_ahead: int = 0) -> Tensor:
    """Which frame (row) may attend to which (column): (length, length) bool (report, section 2.4).

    A frame sees its own block of `block_size` frames, `look_backward` blocks before it and `look_ahead` after it.
    """
    block = torch.arange(length) // block_size
    distance = block[None, :] - block[:, None]
    return (distance >= -look_backward) & (distance <= look_ahead)


def receptive_field(config: DiTConfig) -> tuple[int, int]:
    """(blocks back, blocks ahead) that the frames of a block depend on in one pass: every looking layer adds one."""
    layers = range(config.num_hidden_layers)
    back = sum(layer in layers for layer in set(config.look_backward_layers))
    ahead = sum(layer in layers for layer in set(config.look_ahead_layers))
    return back, ahead


def neighbourhood_mask(
    blocks: int, block_size: int, look_backward: int, look_ahead: int, real: Tensor | None, device: torch.device
) -> Tensor | None:
    """The mask of `sliding_window_block_mask` for each block and its window of neighbours.

    real: (batch, blocks * block_size) bool, which frames exist. Returns (batch or 1, blocks, 1, block_size, window)
    with window = (look_backward + 1 + look_ahead) * block_size, or None when every frame sees its whole window.
    """
    window = look_backward + 1 + look_ahead
    inside = sliding_window_block_mask(window * block_size, block_size, look_backward, look_ahead)
    own = slice(look_backward * block_size, (look_backward + 1) * block_size)
    inside = inside[own]  # (block_size, window * block_size): the same for every block
    if real is None and window == 1 and bool(inside.all()):
        return None
    if real is None:
        real = torch.ones(1, blocks * block_size, dtype=torch.bool, device=device)
    keys = windows(real.unflatten(1, (blocks, block_size)), look_backward, look_ahead)  # (batch, blocks, window)
    mask = inside.to(device) & keys[:, :, None, :]
    # A frame of padding sees itself, so that no row of the softmax is empty.
    itself = torch.eye(window * block_size, dtype=torch.bool, device=device)[own]
    return (mask | (itself & ~keys[:, :, None, :]))[:, :, None]


class Solving(TypedDict, total=False):
    """How to integrate: the last arguments of `DiT.solve`."""

    num_steps: int
    guidance_scale: float
    sway_coefficient: float | None
    solver: str


class DiT(nn.Module):
    """Velocity of the mel frames, given codes, a speaker, and the time (`token2wav.code2wav_dit_model`)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        if config.head_dim % 2:
            raise ConfigError(f"DiT head_dim is {config.head_dim}, expected an even number: positions turn pairs")
        self.config = config
        # Of the noise from which mels are made. The release's; a checkpoint's generation_config.json may say otherwise.
        self.temperature = 1.0
        self.time_embed = TimeEmbedding(config.hidden_size)
        self.text_embed = CodeEmbedding(config)
        self.input_embed = InputEmbedding(config)
        reach = [(int(i in config.look_backward_layers), int(i in config.look_ahead_layers)) for i in self.layers]
        self.transformer_blocks = nn.ModuleList([DiTLayer(config, *r) for r in reach])
        self.norm_out = AdaLayerNorm(config.hidden_size, 2)
        self.proj_out = nn.Linear(config.hidden_size, config.mel_dim)
        # Nearly adaLN-Zero: layers start almost as the identity, yet every weight has a gradient from the first step.
        norms = [layer.attn_norm for layer in self.modulated] + [self.norm_out]
        for linear in [norm.linear for norm in norms] + [self.proj_out]:
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    @property
    def layers(self) -> range:
        """The layers' numbers."""
        return range(self.config.num_hidden_layers)

    @property
    def modulated(self) -> Iterable[DiTLayer]:
        """`transformer_blocks`, of whose members torch's list forgets the type."""
        return cast(Iterable[DiTLayer], self.transformer_blocks)

    def forward(
        self,
        noisy_mel: Tensor,
        time: Tensor,
        codes: Tensor,
        conditioning: Tensor,
        reference_mel: Tensor,
        drop: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """One network call: the velocity, like noisy_mel (batch, codes * repeats, mel_dim).

        time: () or (batch,) in [0, 1]; codes: (batch, codes); conditioning: (batch, enc_emb_dim); reference_mel:
        (batch, frames, mel_dim). drop: (batch,) bool, rows whose conditions are withheld. mask: (batch, frames) bool,
        False for padding, which no frame sees. Raises InputError for wrong shapes and unknown codes.
        """
        self.check(codes, conditioning, reference_mel, noisy_mel)
        if drop is not None:
            codes = codes.masked_fill(drop[:, None], 0)
            conditioning = conditioning.masked_fill(drop[:, None], 0)
            reference_mel = reference_mel.masked_fill(drop[:, None, None], 0)
        fixed = self.input_embed.speaker(conditioning, reference_mel) + self.input_embed.code(self.text_embed(codes))
        geometry = self.geometry(noisy_mel.shape[1], noisy_mel.device, noisy_mel.dtype, mask)
        return self.velocity(noisy_mel, fixed, self.modulations(time.reshape(-1).to(noisy_mel)), geometry)

    def check(self, codes: Tensor, conditioning: Tensor, reference_mel: Tensor, mel: Tensor | None = None) -> None:
        """Raise InputError for shapes that do not fit and for codes outside the table."""
        config, batch = self.config, codes.shape[0] if codes.ndim else 0
        if codes.ndim != 2 or codes.is_floating_point() or codes.dtype == torch.bool:
            raise InputError(f"codes are {tuple(codes.shape)} {codes.dtype}, expected whole numbers (batch, codes)")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) <= config.num_embeds:
            worst = int(codes.max()) if int(codes.max()) > config.num_embeds else int(codes.min())
            raise InputError(f"code {worst} is not in the table, whose codes are 0 to {config.num_embeds}")
        if codes.shape[1] * config.repeats > config.max_position_embeddings:
            raise InputError(
                f"{codes.shape[1]} codes make {codes.shape[1] * config.repeats} mel frames, expected at most "
                f"{config.max_position_embeddings} (max_position_embeddings): cut the codes"
            )
        if conditioning.shape != (batch, config.enc_emb_dim):
            raise InputError(f"conditioning is {tuple(conditioning.shape)}, expected ({batch}, {config.enc_emb_dim})")
        if reference_mel.ndim != 3 or reference_mel.shape[0] != batch:
            raise InputError(f"reference mel is {tuple(reference_mel.shape)}, expected batch {batch} as the codes")
        shape = (batch, codes.shape[1] * config.repeats, config.mel_dim)
        if mel is not None and mel.shape != shape:
            raise InputError(f"mel or noise is {tuple(mel.shape)}, expected {shape} for these codes")

    def geometry(self, frames: int, device: torch.device, dtype: torch.dtype, mask: Tensor | None = None) -> Geometry:
        """Blocks, positions and masks for `frames` frames; `mask` (batch, frames) bool marks padding by False."""
        size = self.config.block_size
        blocks = -(-frames // size)
        extra = blocks * size - frames
        if mask is not None:
            mask = F.pad(mask.to(device=device, dtype=torch.bool), (0, extra))
        elif extra:
            mask = (torch.arange(blocks * size, device=device) < frames)[None]
        reaches = {layer.attn.reach for layer in self.modulated}
        masks = {reach: neighbourhood_mask(blocks, size, *reach, mask, device) for reach in reaches}
        tables = rotary_tables(blocks * size, self.config.head_dim, self.config.rope_theta, device)
        return Geometry(blocks, size, (tables[0].to(dtype), tables[1].to(dtype)), masks)

    def modulations(self, times: Tensor) -> list[Tensor]:
        """Shifts, scales and gates of every layer and of the output, at times (n,): each (parts, n, 1, dim)."""
        activated = F.silu(self.time_embed(times))
        return [layer.attn_norm(activated) for layer in self.modulated] + [self.norm_out(activated)]

    def velocity(self, noisy: Tensor, fixed: Tensor, modulations: Sequence[Tensor], geometry: Geometry) -> Tensor:
        """The network behind its fixed inputs: noisy (batch, frames, mel_dim), fixed (n * batch, frames, dim).

        With n = 2 (guidance) both halves see the same noisy mel. Returns (n * batch, frames, mel_dim).
        """
        cpu_kernels.forget(self)
        x = self.input_embed.mel(noisy)
        x = x.repeat(fixed.shape[0] // x.shape[0], 1, 1) + fixed
        frames = x.shape[1]
        x = F.pad(x, (0, 0, 0, geometry.blocks * geometry.block_size - frames))
        *of_layers, of_output = modulations
        for layer, modulation in zip(self.transformer_blocks, of_layers, strict=True):
            x = layer(x, modulation, geometry)
        scale, shift = of_output.unbind(0)
        return self.proj_out(modulate(x, shift, scale))[:, :frames]

    def voice(self, conditioning: Tensor, reference_mel: Tensor) -> Tensor:
        """What the network sees of a speaker, and of none: (2, batch, 1, hidden_size). Once per speaker is enough."""
        conditioning = torch.cat((conditioning, torch.zeros_like(conditioning)))
        reference_mel = torch.cat((reference_mel, torch.zeros_like(reference_mel)))
        return self.input_embed.speaker(conditioning, reference_mel).unflatten(0, (2, -1))

    def sample(
        self,
        codes: Tensor,
        conditioning: Tensor,
        reference_mel: Tensor,
        noise: Tensor | None = None,
        num_steps: int = 10,
        guidance_scale: float = 0.5,
        sway_coefficient: float | None = -1.0,
        solver: str = "rk4",
    ) -> Tensor:
        """Mel frames for codes: (batch, codes) -> (batch, codes * repeats, mel_dim), differentiable throughout.

        conditioning (batch, enc_emb_dim), reference_mel (batch, frames, mel_dim), noise like the result (drawn if not
        given). num_steps counts the points in time: 10 are 9 steps, which are 36 network calls with solver "rk4" and 9
        with "euler". Raises InputError.
        """
        self.check(codes, conditioning, reference_mel, noise)
        voice = self.voice(conditioning, reference_mel)
        if noise is None:
            noise = self.draw_noise(codes.shape[0], codes.shape[1], voice.device).to(voice)
        return self.solve(codes, voice, noise, num_steps, guidance_scale, sway_coefficient, solver)

    def draw_noise(
        self, batch: int, codes: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Noise to begin with: (batch, codes * repeats, mel_dim), normal times `temperature`.

        Below 1 mels come nearer to their mean, and words clearer (Grad-TTS, Popov et al. 2021, section 5.1; Matcha-TTS,
        Mehta et al. 2024, takes 0.667)."""
        shape = (batch, codes * self.config.repeats, self.config.mel_dim)
        return torch.randn(shape, device=device, generator=generator) * self.temperature

    def solve(
        self,
        codes: Tensor,
        voice: Tensor,
        noise: Tensor,
        num_steps: int = 10,
        guidance_scale: float = 0.5,
        sway_coefficient: float | None = -1.0,
        solver: str = "rk4",
    ) -> Tensor:
        """`sample` for a `voice` already prepared: integrate the guided velocity from `noise` on."""
        step, times = flow_matching.solver_step(solver), flow_matching.time_points(num_steps, sway_coefficient)
        if codes.shape[1] == 0:
            return noise
        guided = guidance_scale >= 1e-5
        rows = torch.stack((codes, torch.zeros_like(codes))) if guided else codes[None]
        code = self.input_embed.code(self.text_embed(rows.flatten(0, 1)))
        fixed = voice[: len(rows)].flatten(0, 1) + code
        geometry = self.geometry(noise.shape[1], noise.device, noise.dtype)
        asked = flow_matching.visited_times(times, step)
        place = {time: i for i, time in enumerate(asked.tolist())}
        network = self.network(asked, fixed, geometry, noise.shape[1])

        def velocity(time: Tensor, state: Tensor) -> Tensor:
            out = network(place[time.item()], state)
            if not guided:
                return out
            conditional, unconditional = out.chunk(2)
            return flow_matching.guided_velocity(conditional, unconditional, guidance_scale)

        return flow_matching.integrate(velocity, noise, times, step)

    def network(self, asked: Tensor, fixed: Tensor, geometry: Geometry, frames: int) -> Callable[[int, Tensor], Tensor]:
        """`velocity` at prepared times: (place in `asked`, noisy mel) -> velocity; by a packed copy if possible."""
        if packed_dit.packable(self, fixed):
            masks = {reach: None if mask is None else mask[0] for reach, mask in geometry.masks.items()}
            return packed_dit.velocity(self, fixed, tuple(asked.tolist()), masks, frames)
        prepared = self.modulations(asked.to(fixed))
        return lambda i, noisy: self.velocity(noisy, fixed, [m[:, i : i + 1] for m in prepared], geometry)

    def sample_blocks(
        self,
        codes: Tensor,
        voice: Tensor,
        noise: Tensor,
        first: int,
        count: int = 1,
        past: int | None = None,
        future: int | None = None,
        **how: Unpack[Solving],
    ) -> Tensor:
        """Mel of blocks first ... first + count - 1 alone, for streaming: (batch, up to count * block_size, mel_dim).

        codes: (batch, all codes that are known); voice from `voice`; noise: (batch, frames of those codes or more,
        mel_dim), of the whole reply, so that a block gets the same noise in every window. `past` and `future` blocks
        of context are integrated along and dropped (default: the receptive field of one pass); the more, the closer to
        `sample` of the whole. `how` goes to `solve`. Raises InputError.
        """
        size, repeats = self.config.block_size, self.config.repeats
        if size % repeats:
            raise InputError(f"blocks of {size} frames do not hold a whole number of codes of {repeats} frames")
        if first < 0 or count < 1 or first * size >= codes.shape[1] * repeats:
            raise InputError(f"blocks {first} to {first + count - 1} asked for, {codes.shape[1]} codes are known")
        back, ahead = receptive_field(self.config)
        start = max(0, first - (back if past is None else past)) * size
        end = min(codes.shape[1] * repeats, (first + count + (ahead if future is None else future)) * size)
        mel = self.solve(codes[:, start // repeats : end // repeats], voice, noise[:, start:end], **how)
        return mel[:, first * size - start : (first + count) * size - start]
