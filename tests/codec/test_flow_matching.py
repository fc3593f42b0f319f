"""Flow matching: the straight path, its loss, guidance, sway, and solvers of the order that they claim."""

import math

import pytest
import torch

from omni_lab.codec import flow_matching
from omni_lab.errors import InputError


def test_the_path_is_straight_and_its_slope_is_the_target():
    noise, mel, time = torch.randn(3, 5, 4), torch.randn(3, 5, 4), torch.tensor([0.0, 0.25, 1.0])
    path = flow_matching.interpolant(noise, mel, time)
    assert torch.equal(path[0], noise[0]) and torch.equal(path[2], mel[2])
    later = flow_matching.interpolant(noise, mel, time + 0.5)
    assert torch.allclose((later - path) / 0.5, flow_matching.velocity_target(noise, mel), atol=1e-5)


def test_the_loss_counts_kept_frames_alike():
    velocity, target = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    target[1, 2] = 100
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    assert flow_matching.flow_matching_loss(velocity, target, mask).item() == 1
    assert flow_matching.flow_matching_loss(velocity, target).item() > 1000
    with pytest.raises(InputError, match="keeps no frame"):
        flow_matching.flow_matching_loss(velocity, target, ~mask & mask)


def test_training_draws_are_repeatable_and_drop_the_share_asked_for():
    mel, calls = torch.randn(4000, 1, 2), []

    def network(noisy, time, drop):
        calls.append((noisy, time, drop))
        return torch.zeros_like(noisy)

    losses = [flow_matching.training_loss(network, mel, None, 0.2, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert calls[0][2].float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert calls[0][1].min() >= 0 and calls[0][1].max() <= 1
    assert losses[0].item() == pytest.approx((mel.square().mean() + 1).item(), rel=0.1)  # a zero guess: mel - noise


def test_a_perfect_network_has_no_loss_and_its_solution_is_the_mel():
    mel = torch.randn(2, 3, 4, dtype=torch.float64)

    def velocity(time, state):
        return (mel - state) / (1 - time)

    noise = torch.randn_like(mel)
    times = torch.linspace(0, 0.9, 4, dtype=torch.float64)
    for step in (flow_matching.euler_step, flow_matching.runge_kutta_4_step):
        reached = flow_matching.integrate(velocity, noise, times, step)
        assert torch.allclose(reached, 0.1 * noise + 0.9 * mel)  # straight lines are exact for any solver

    def network(noisy, time, drop):
        return (mel - noisy) / (1 - time.reshape(-1, 1, 1))

    assert flow_matching.training_loss(network, mel).item() < 1e-12


@pytest.mark.parametrize("solver, order, calls", [("euler", 1, 1), ("rk4", 4, 4)])
def test_solvers_have_their_order(solver, order, calls):
    step, errors, count = flow_matching.solver_step(solver), [], []

    def velocity(time, state):  # y' = y cos t, whose solution is exp(sin t)
        count.append(time)
        return state * torch.cos(time)

    for steps in (16, 32):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        reached = flow_matching.integrate(velocity, torch.ones((), dtype=torch.float64), times, step)
        errors.append(abs(reached.item() - math.exp(math.sin(1))))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)
    assert len(count) == 48 * calls
    visited = flow_matching.visited_times(times, step)
    assert torch.equal(visited, torch.stack(count[16 * calls :]))


def test_the_published_schedule_makes_36_calls():
    times = flow_matching.time_points(10)
    assert torch.allclose(times, 1 - torch.cos(math.pi / 2 * torch.linspace(0, 1, 10)), atol=1e-6)
    assert len(flow_matching.visited_times(times, flow_matching.runge_kutta_4_step)) == 36


def test_sway_keeps_the_ends_and_leans_towards_the_noise():
    even = torch.linspace(0, 1, 11)
    swayed = flow_matching.sway_sampling(even, -1.0)
    assert swayed[0] == 0 and swayed[-1].item() == pytest.approx(1) and (swayed[1:-1] < even[1:-1]).all()
    assert (swayed.diff() > 0).all()
    assert torch.equal(flow_matching.sway_sampling(even, None), even)
    assert torch.equal(flow_matching.sway_sampling(even, 0.0), even)


def test_guidance_goes_beyond_the_condition():
    c, u = torch.tensor([2.0]), torch.tensor([1.0])
    assert flow_matching.guided_velocity(c, u, 0.5).item() == 2.5
    assert flow_matching.guided_velocity(c, u, 0.0).item() == 2.0


def test_bad_schedules():
    with pytest.raises(InputError, match="num_steps is 1"):
        flow_matching.time_points(1)
    with pytest.raises(InputError, match="unknown solver 'heun'"):
        flow_matching.solver_step("heun")


def test_a_velocity_points_at_the_mel_and_a_second_loss_sees_it() -> None:
    mel, seen = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0)), []

    def exact(noisy: torch.Tensor, time: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
        return (mel - noisy) / (1 - time[:, None, None])  # mel - noise, as the line has it

    def beside(pointed: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
        seen.append((pointed, drop))
        return torch.tensor(7.0)

    draw = torch.Generator().manual_seed(1)
    loss = flow_matching.training_loss(exact, mel, None, 1.0, draw, beside)
    ((pointed, drop),) = seen
    assert torch.allclose(pointed, mel, atol=1e-5) and drop.all() and abs(loss.item() - 7.0) < 1e-5


def test_the_point_reached_by_oneself_is_that_of_euler_at_each_rows_time() -> None:
    torch.manual_seed(0)
    noise, time = torch.randn(3, 5, 2), torch.tensor([0.0, 0.4, 1.0])
    found = flow_matching.own_point(lambda now, state: now[:, None, None] - state, noise, time, 4)
    assert torch.equal(found[0], noise[0])
    for row in (1, 2):
        times = torch.linspace(0, time[row].item(), 5)
        alone = flow_matching.integrate(lambda now, state: now - state, noise[row], times, flow_matching.euler_step)
        assert torch.allclose(found[row], alone, atol=1e-6)
