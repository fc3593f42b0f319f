"""Codes -> mel, block by block, each block integrated once (report, section 2.4: the sliding-window DiT).

A layer that looks back needs the block before, at the same moment of the ODE. Instead of integrating that block again
in every window, its keys and values of each network call are kept: like the KV cache of a language model, with the
ODE's clock as a second axis. What a block hears of the past is thus the very past that was spoken. The one
approximation is ahead: the block behind the last one is integrated without what would follow it, used, and thrown
away; it is integrated again when its own turn comes.

State: keys and values of one block per call and looking-back layer, and the codes still to be spoken.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codec import flow_matching, packed_dit
from ..codec.dit import DiT, neighbourhood_mask
from ..codec.dit_layers import Attention, modulate, rotary_tables, rotate_first_head, windows
from ..errors import ConfigError, InputError

# 8 network calls. On unheard speech the trained nano DiT's mel is then 0.05 nats off what 36 calls give (Euler: 0.12
# after 8 calls, 0.07 after 12), beside 0.73 between that and the recording: the solver is not what is left to gain.
NUM_STEPS, SOLVER = 3, "rk4"


class MelStream:
    """Mel frames of one reply, in order. `voice` is from `DiT.voice`; noise as `seed` gives it to the whole."""

    def __init__(
        self,
        dit: DiT,
        voice: Tensor,
        seed: int = 0,
        noise: Tensor | None = None,
        num_steps: int = NUM_STEPS,
        guidance_scale: float = 0.5,
        sway_coefficient: float | None = -1.0,
        solver: str = SOLVER,
        ahead: int = 1,
        first_ahead: int | None = None,
    ) -> None:
        """noise: (1, frames, mel_dim) for tests and comparisons; ahead: blocks integrated as look-ahead.

        first_ahead: codes of it for which the first chunk waits, because someone waits for that
        (default: half; of the trained nano DiT's first block this moves up to 1 % of the spread).

        The other arguments are those of `DiT.sample`. Raises ConfigError for a DiT that cannot be streamed."""
        config = dit.config
        if config.block_size % config.repeats or ahead < 0:
            raise ConfigError(f"a block of {config.block_size} frames holds no whole number of codes, or ahead {ahead}")
        self.dit, self.voice, self.ahead = dit, voice, ahead
        whole = ahead * self.codes_a_block
        self.first_ahead = whole // 2 if first_ahead is None else min(first_ahead, whole)
        self.scale = guidance_scale
        self.step, self.times = (
            flow_matching.solver_step(solver),
            flow_matching.time_points(num_steps, sway_coefficient),
        )
        self.asked = flow_matching.visited_times(self.times, self.step)
        self.drawn, self.noise = torch.Generator().manual_seed(seed), noise
        self.codes: list[int] = []  # not yet spoken
        self.pending = voice.new_empty(1, 0, config.mel_dim)  # their noise
        self.blocks = 0  # spoken
        self.packed: bool | None = None  # whether a packed copy runs: known from the first chunk on
        self.modulations: list[list[Tensor]] | None = None  # by network call, for a DiT that is not packed
        self.past: dict[tuple[int, int], Any] = {}  # keys and values by (network call, layer)

    @property
    def codes_a_block(self) -> int:
        """Codes in a block (12 of the released model: 0.24 s)."""
        return self.dit.config.block_size // self.dit.config.repeats

    @property
    def calls(self) -> int:
        """Network calls that a chunk takes."""
        return len(self.asked)

    def add(self, codes: Sequence[int]) -> None:
        """Append codes. Raises InputError for one that is not in the table."""
        limit = self.dit.config.num_embeds
        for code in codes:
            if not 0 <= code <= limit:
                raise InputError(f"code {code} is not in the table, whose codes are 0 to {limit}")
        self.codes.extend(codes)

    def needed(self, blocks: int) -> int:
        """Codes of `blocks` blocks and their look-ahead."""
        ahead = self.ahead * self.codes_a_block if self.blocks else self.first_ahead
        return blocks * self.codes_a_block + ahead

    def ready(self, blocks: int) -> bool:
        """Whether `blocks` blocks and their look-ahead are known."""
        return len(self.codes) >= self.needed(blocks)

    def sketchable(self) -> bool:
        """Whether the first block is known, and not yet the look-ahead for which it waits."""
        return not self.blocks and self.codes_a_block <= len(self.codes) < self.needed(1)

    def sketch(self) -> Tensor:
        """The first block as it sounds without its look-ahead: mel (1, block_size, mel_dim). Nothing is spoken by it.

        Raises InputError where the block is not known."""
        if self.blocks or len(self.codes) < self.codes_a_block:
            raise InputError(f"a first block of {self.codes_a_block} codes: {len(self.codes)} are known")
        codes = torch.tensor([self.codes[: self.codes_a_block]], device=self.voice.device)
        return self.solve(codes, self.noise_of(self.codes_a_block), final=2)  # no block of it is the next chunk's past

    def advance(self, blocks: int, ended: bool = False) -> tuple[Tensor, Tensor]:
        """Speak the next `blocks` blocks: their mel (1, frames, mel_dim), and that of the look-ahead behind them.

        ended: no codes will follow; then all that are left may be taken, and the last block may be short."""
        known = min(len(self.codes), self.needed(blocks))
        if not known or (known < self.needed(blocks) and not ended):
            raise InputError(f"{blocks} blocks asked for, but only {len(self.codes)} codes are known")
        codes = torch.tensor([self.codes[:known]], device=self.voice.device)
        mel = self.solve(codes, self.noise_of(known), blocks)
        spoken = min(blocks * self.codes_a_block, known)
        del self.codes[:spoken]
        frames = spoken * self.dit.config.repeats
        self.pending = self.pending[:, frames:]
        self.blocks += blocks
        return mel[:, :frames], mel[:, frames:]

    def noise_of(self, codes: int) -> Tensor:
        """Noise of the coming codes, as one draw for the whole reply would have given it."""
        config = self.dit.config
        need = codes * config.repeats - self.pending.shape[1]
        if need > 0 and self.noise is not None:
            if need > self.noise.shape[1]:
                raise InputError(f"the noise given ends {need - self.noise.shape[1]} frames before the codes do")
            new, self.noise = self.noise[:, :need], self.noise[:, need:]
            self.pending = torch.cat((self.pending, new.to(self.voice)), dim=1)
        elif need > 0:
            new = self.dit.draw_noise(1, need // config.repeats, generator=self.drawn)
            self.pending = torch.cat((self.pending, new.to(self.voice)), dim=1)
        return self.pending[:, : codes * config.repeats]

    def solve(self, codes: Tensor, noise: Tensor, final: int) -> Tensor:
        """Integrate (1, codes) from (1, frames, mel_dim); of the `final` first blocks the last one is kept as past."""
        dit = self.dit
        guided = self.scale >= 1e-5
        rows = torch.cat((codes, torch.zeros_like(codes))) if guided else codes
        fixed = self.voice[: len(rows)].flatten(0, 1) + dit.input_embed.code(dit.text_embed(rows))
        frames, size = noise.shape[1], dit.config.block_size
        blocks = -(-frames // size)
        real = torch.arange(-size, blocks * size, device=noise.device)[None] < frames
        real[:, :size] = self.blocks > 0
        layers: Any = dit.transformer_blocks  # ModuleList hides what they are
        reaches = {layer.attn.reach for layer in layers}
        masks = {reach: self.mask(blocks, reach, real) for reach in reaches}
        keep = final - 1 if final <= blocks else None
        network = self.network(fixed, frames, masks, keep)
        call = 0

        def velocity(time: Tensor, state: Tensor) -> Tensor:
            nonlocal call
            out = network(call, state)
            call += 1
            if not guided:
                return out
            conditional, unconditional = out.chunk(2)
            return flow_matching.guided_velocity(conditional, unconditional, self.scale)

        return flow_matching.integrate(velocity, noise, self.times, self.step)

    def network(
        self, fixed: Tensor, frames: int, masks: dict[tuple[int, int], Tensor | None], keep: int | None
    ) -> Callable[[int, Tensor], Tensor]:
        """The DiT over one chunk: (number of the call, state) -> velocity, (rows, frames, mel_dim)."""
        dit = self.dit
        if self.packed is None:
            self.packed = packed_dit.packable(dit, fixed)
        if self.packed:
            return packed_dit.velocity(dit, fixed, tuple(self.asked.tolist()), masks, frames, self.past, keep)
        if self.modulations is None:
            prepared = dit.modulations(self.asked.to(fixed))
            self.modulations = [[m[:, i : i + 1] for m in prepared] for i in range(len(self.asked))]
        length = (1 - -frames // dit.config.block_size) * dit.config.block_size
        exact = rotary_tables(length, dit.config.head_dim, dit.config.rope_theta, fixed.device)
        tables = tuple(table.to(fixed.dtype) for table in exact)
        return lambda call, state: self.velocity(call, state, fixed, masks, tables, keep)

    def mask(self, blocks: int, reach: tuple[int, int], real: Tensor) -> Tensor | None:
        """Masks of the blocks, (blocks, 1, block_size, window), when the block before them stands in front."""
        size = self.dit.config.block_size
        if reach == (0, 0) and bool(real[:, size:].all()):
            return None
        made = neighbourhood_mask(1 + blocks, size, *reach, real, real.device)
        return None if made is None else made[0, 1:]

    def velocity(
        self,
        call: int,
        state: Tensor,
        fixed: Tensor,
        masks: dict[tuple[int, int], Tensor | None],
        tables: tuple[Tensor, ...],
        keep: int | None,
    ) -> Tensor:
        """Network call number `call`: (1, frames, mel_dim) -> (rows, frames, mel_dim)."""
        dit, frames, size = self.dit, state.shape[1], self.dit.config.block_size
        x = dit.input_embed.mel(state) + fixed
        x = F.pad(x, (0, 0, 0, -frames % size))
        assert self.modulations is not None
        *of_layers, of_output = self.modulations[call]
        layers: Any = dit.transformer_blocks
        for i, (layer, modulation) in enumerate(zip(layers, of_layers, strict=True)):
            shift, scale, gate, shift_ff, scale_ff, gate_ff = modulation.unbind(0)
            attended = self.attend(layer.attn, modulate(x, shift, scale), masks, tables, (call, i), keep)
            x = torch.addcmul(x, gate, attended)
            x = torch.addcmul(x, gate_ff, layer.ff(modulate(x, shift_ff, scale_ff)))
        scale, shift = of_output.unbind(0)
        return dit.proj_out(modulate(x, shift, scale))[:, :frames]

    def attend(
        self,
        attention: Attention,
        x: Tensor,
        masks: dict[tuple[int, int], Tensor | None],
        tables: tuple[Tensor, ...],
        place: tuple[int, int],
        keep: int | None,
    ) -> Tensor:
        """Attention over the blocks and what is kept of the one before: (rows, frames, hidden_size) -> the same."""
        back, ahead = attention.reach
        if back > 1:
            raise ConfigError("a layer that looks back by more than one block cannot be streamed")
        size, (rows, frames, _) = self.dit.config.block_size, x.shape
        heads, blocks = (rows, frames, -1, attention.head_dim), frames // size
        # Positions count from the block before; that attention depends on their differences alone makes this the whole.
        cos, sin = (table[size : size + frames] for table in tables)
        query = rotate_first_head(attention.to_q(x).view(heads), cos, sin)
        unturned = attention.to_k(x).view(heads)
        key, value = rotate_first_head(unturned, cos, sin), attention.to_v(x).view(heads)
        if back:
            before = self.past.get(place) or (torch.zeros_like(key[:, :size]), torch.zeros_like(value[:, :size]))
            turned = rotate_first_head(before[0], *(table[:size] for table in tables))
            if keep is not None:  # clones: a view would hold on to the whole chunk
                own = slice(keep * size, (keep + 1) * size)
                self.past[place] = unturned[:, own].clone(), value[:, own].clone()
            key, value = torch.cat((turned, key), dim=1), torch.cat((before[1], value), dim=1)
        shape = (blocks + back, size)
        # (rows, blocks, window, heads, head_dim) -> (rows * blocks, heads, window, head_dim)
        key, value = (
            windows(t.unflatten(1, shape), back, ahead)[:, back:].flatten(0, 1).transpose(1, 2) for t in (key, value)
        )
        query = query.unflatten(1, (blocks, size)).flatten(0, 1).transpose(1, 2)
        mask = masks[attention.reach]
        if mask is not None:
            mask = mask.repeat(rows, 1, 1, 1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out = out.transpose(1, 2).reshape(rows, frames, -1)
        for layer in attention.to_out:
            out = layer(out)
        return out
