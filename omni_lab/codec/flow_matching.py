"""Flow matching: learn a velocity that carries noise to mel frames along straight lines, then integrate it.

Sources: Lipman et al. 2023 (flow matching; the straight path is their optimal-transport one with sigma_min = 0), Ho and
Salimans 2022 (classifier-free guidance), Chen et al. 2024 (F5-TTS: sway sampling). The report uses all three to turn
codec tokens into mel frames (section 2.4). Nothing here knows the network: it is any function of (noisy mel, time).

Notable: time runs from 0 (noise) to 1 (data). Each idea is a function of its own, looked up when it is called.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InputError

Velocity = Callable[[Tensor, Tensor], Tensor]  # (time (), state) -> d state / d time
Step = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]  # (velocity, time, next_time, state) -> change of the state


def interpolant(noise: Tensor, mel: Tensor, time: Tensor) -> Tensor:
    """The point at `time` (batch,) in [0, 1] on the straight line from noise to mel, both (batch, frames, bands)."""
    time = time.reshape(-1, *[1] * (mel.ndim - 1))  # (batch, 1, 1)
    return (1 - time) * noise + time * mel


def velocity_target(noise: Tensor, mel: Tensor) -> Tensor:
    """The velocity along that line, which is the same at every time."""
    return mel - noise


def destination(noisy: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
    """The mel at which a velocity points from `time` (batch,) on: noisy + (1 - time) velocity."""
    return noisy + (1 - time.reshape(-1, *[1] * (noisy.ndim - 1))) * velocity


def flow_matching_loss(velocity: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity over the frames where `mask` (batch, frames) holds; a scalar.

    Every kept frame weighs the same, whichever clip it is in. Raises InputError if no frame is kept.
    """
    error = (velocity - target).square().mean(-1)  # (batch, frames)
    if mask is None:
        return error.mean()
    if not bool(mask.any()):
        raise InputError("flow matching: the mask keeps no frame, so there is nothing to learn from")
    return (error * mask).sum() / mask.sum()


def guidance_dropout(batch: int, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Which rows of a batch train without their conditions: (batch,) bool, on the CPU.

    What is learnt on these rows is the unconditional velocity that `guided_velocity` steers away from.
    """
    return torch.rand(batch, generator=generator) < probability


def training_loss(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    mel: Tensor,
    mask: Tensor | None = None,
    drop_probability: float = 0.2,
    generator: torch.Generator | None = None,
    beside: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """One draw of the flow-matching objective (Lipman et al. 2023, eq. 23), a scalar.

    `network(noisy, time, drop)` -> velocity, with noisy like mel (batch, frames, bands), time (batch,), drop (batch,)
    bool: the rows whose conditions are withheld. `mask` (batch, frames) marks real frames. `generator` lives on the
    CPU, so that a seed gives the same draw on every device. `beside(pointed, drop)` is a loss to be added: of the mel
    at which the velocity points, where the line would end if it were straight (`destination`).
    """
    batch = mel.shape[0]
    time = torch.rand(batch, generator=generator).to(mel)
    noise = torch.randn(mel.shape, generator=generator).to(mel)
    drop = guidance_dropout(batch, drop_probability, generator).to(mel.device)
    noisy = interpolant(noise, mel, time)
    velocity = network(noisy, time, drop)
    loss = flow_matching_loss(velocity, velocity_target(noise, mel), mask)
    return loss if beside is None else loss + beside(destination(noisy, velocity, time), drop)


def own_point(velocity: Velocity, noise: Tensor, time: Tensor, steps: int) -> Tensor:
    """Where a velocity itself has carried `noise` (batch, ...) by `time` (batch,), in `steps` equal Euler steps a row.

    Not the point on a line to real data that training shows: what was made wrong before is still wrong there.
    """
    state, length = noise, time / steps
    for number in range(steps):
        state = state + length.reshape(-1, *[1] * (noise.ndim - 1)) * velocity(number * length, state)
    return state


def guided_velocity(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: c + scale (c - u). Scale 0 is the conditional velocity itself."""
    return conditional + (conditional - unconditional) * scale


def sway_sampling(time: Tensor, coefficient: float | None = -1.0) -> Tensor:
    """Move evenly spaced times towards the noise, where more is decided (F5-TTS, section 3.3); ends stay in place.

    t + s (cos(pi t / 2) - 1 + t). The default s = -1 gives 1 - cos(pi t / 2); None or 0 leaves the times alone.
    """
    if coefficient is None:
        return time
    return time + coefficient * (torch.cos(math.pi / 2 * time) - 1 + time)


def euler_step(velocity: Velocity, time: Tensor, next_time: Tensor, state: Tensor) -> Tensor:
    """Change of the state over one step by its slope at the start: one network call, error of first order."""
    return (next_time - time) * velocity(time, state)


def runge_kutta_4_step(velocity: Velocity, time: Tensor, next_time: Tensor, state: Tensor) -> Tensor:
    """Change of the state over one step by Kutta's 3/8 rule: four network calls, error of fourth order."""
    step = next_time - time
    k1 = velocity(time, state)
    k2 = velocity(time + step / 3, state + step * k1 / 3)
    k3 = velocity(time + step * (2 / 3), state + step * (k2 - k1 / 3))
    k4 = velocity(next_time, state + step * (k1 - k2 + k3))
    return (k1 + 3 * (k2 + k3) + k4) * step / 8


def time_points(num_steps: int, sway_coefficient: float | None = -1.0) -> Tensor:
    """The solver's times from 0 to 1: (num_steps,) float32 on the CPU, hence num_steps - 1 steps. Raises InputError."""
    if num_steps < 2:
        raise InputError(f"num_steps is {num_steps}, expected at least 2: the points in time, ends included")
    return sway_sampling(torch.linspace(0, 1, num_steps), sway_coefficient)


def solver_step(solver: str) -> Step:
    """The step of a solver by name: "rk4" or "euler". Raises InputError for another."""
    if solver == "rk4":
        return runge_kutta_4_step
    if solver == "euler":
        return euler_step
    raise InputError(f"unknown solver {solver!r}: choose rk4 or euler")


def integrate(velocity: Velocity, state: Tensor, times: Tensor, step: Step) -> Tensor:
    """Carry `state` from times[0] to times[-1] by one `step` between neighbours; differentiable."""
    for time, next_time in zip(times[:-1], times[1:], strict=True):
        state = state + step(velocity, time, next_time, state)
    return state


def visited_times(times: Tensor, step: Step) -> Tensor:
    """Every time at which `integrate` will ask for a velocity, in order: (calls,).

    Found by a dry run on a zero, so that it holds for any `step`; a network can then prepare for all of them at once.
    """
    asked: list[Tensor] = []

    def watch(time: Tensor, state: Tensor) -> Tensor:
        asked.append(time)
        return torch.zeros_like(state)

    integrate(watch, torch.zeros(()), times, step)
    return torch.stack(asked)
