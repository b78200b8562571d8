from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffopd.sampler import FlowSampler, TransitionSampler, sample, transition_at

MakeSampler = Callable[..., TransitionSampler]
STOCHASTIC = [("flow", 0.7), ("ddim", 1.0), ("cps", 0.6), ("dance", 0.3)]
ALL = [("flow", 0.0), ("ddim", 0.0), ("cps", 0.0), ("dance", 0.0), ("dpm1", 0.0), ("dpm2", 0.0), *STOCHASTIC]


class Bend(torch.nn.Module):
    """A small nonlinear velocity field with two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.7, -0.3]))

    def forward(self, latent: Tensor, sigma: Tensor) -> Tensor:
        scaled = latent * self.weight[0] + sigma.view(-1, *(1 for _ in latent.shape[1:])) * self.weight[1]
        return torch.tanh(scaled)


def start(batch: int = 3) -> Tensor:
    return torch.randn(batch, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def fresh(step: int) -> Tensor:
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(100 + step))


@pytest.mark.parametrize(("name", "noise_level"), ALL)
def test_transitions_chain_and_describe_their_step(name: str, noise_level: float, make_sampler: MakeSampler):
    sampler, asked = make_sampler(name, noise_level=noise_level), []

    def counted(step: int) -> Tensor:
        asked.append(step)
        return fresh(step)

    transitions = list(sampler.rollout(Bend(), start(), counted))
    grid = sampler.sigmas()
    assert [t.step for t in transitions] == list(range(10))
    assert asked == [t.step for t in transitions if t.stochastic]
    assert sampler.deterministic == (noise_level == 0)
    assert torch.equal(transitions[0].latent, start())
    for transition in transitions:
        step = transition.step
        assert torch.equal(transition.sigma, grid[step].expand(3))
        assert torch.equal(transition.sigma_next, grid[step + 1].expand(3))
        assert transition.stochastic == sampler.stochastic(step) == bool((transition.std > 0).all())
        deviation = transition.std.view(-1, 1, 1, 1) * fresh(step)
        assert torch.equal(transition.next_latent, transition.mean.detach() + deviation)
        assert transition.mean.requires_grad
        assert not transition.latent.requires_grad
        assert not transition.next_latent.requires_grad
        if step < 9:
            assert torch.equal(transition.next_latent, transitions[step + 1].latent)


@pytest.mark.parametrize(("name", "noise_level"), ALL)
def test_coefficient_is_the_slope_of_the_mean(name: str, noise_level: float, make_sampler: MakeSampler):
    for transition in make_sampler(name, noise_level=noise_level).rollout(Bend(), start(), fresh):
        (slope,) = torch.autograd.grad(transition.mean.sum(), transition.velocity)
        torch.testing.assert_close(slope, transition.coefficient.view(-1, 1, 1, 1).expand_as(slope))


@pytest.mark.parametrize(("name", "noise_level"), ALL)
def test_mean_gap_is_the_coefficient_times_the_velocity_gap(
    name: str, noise_level: float, make_sampler: MakeSampler
):
    sampler, student, previous_clean = make_sampler(name, noise_level=noise_level), Bend().double(), None
    for transition in sampler.rollout(student, start().double(), lambda step: fresh(step).double()):
        other = transition_at(
            sampler,
            transition.step,
            transition.latent,
            transition.velocity + 1,
            previous_clean=previous_clean,
        )
        expected = transition.coefficient.view(-1, 1, 1, 1).expand_as(other.mean)
        torch.testing.assert_close(other.mean - transition.mean, expected, rtol=0, atol=1e-12)
        previous_clean = sampler.clean_history(transition)


@pytest.mark.parametrize("name", ["flow", "ddim", "cps", "dance", "dpm1"])
def test_one_step_solvers_coincide_without_noise(
    name: str, make_sampler: MakeSampler, refuse_noise: Callable[[int], Tensor]
):
    euler = sample(make_sampler("flow"), Bend(), start(), refuse_noise)
    other = sample(make_sampler(name), Bend(), start(), refuse_noise)
    torch.testing.assert_close(other.latents, euler.latents, rtol=0, atol=2e-6)


def test_second_order_solver_is_another_path(
    make_sampler: MakeSampler, refuse_noise: Callable[[int], Tensor]
):
    euler = sample(make_sampler("flow"), Bend(), start(), refuse_noise).latents
    second = sample(make_sampler("dpm2"), Bend(), start(), refuse_noise).latents
    torch.testing.assert_close(second[1], euler[1], rtol=0, atol=2e-6)  # no history yet
    # The history of step 1 was predicted at pure noise and has no weight; step 2 is the first that differs.
    torch.testing.assert_close(second[2], euler[2], rtol=0, atol=2e-6)
    assert (second[3] - euler[3]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["flow", "ddim", "cps", "dance"])
def test_sde_tends_to_the_ode_as_noise_vanishes(name: str, make_sampler: MakeSampler):
    ode = sample(make_sampler(name), Bend(), start(), fresh).clean
    gaps = [
        (sample(make_sampler(name, noise_level=level), Bend(), start(), fresh).clean - ode).abs().max().item()
        for level in (1e-2, 1e-3)
    ]
    assert gaps[1] < 0.02  # proportional to the noise level, with a factor of order 10
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.1)


@pytest.mark.parametrize(("name", "noise_level"), ALL)
def test_fused_and_two_pass_rounds_give_equal_gradients(
    name: str, noise_level: float, make_sampler: MakeSampler
):
    sampler, fused, two_pass = make_sampler(name, noise_level=noise_level), Bend(), Bend()
    fused_losses, two_pass_losses = [], []
    for transition in sampler.rollout(fused, start(), fresh):
        loss = transition.mean.square().mean()
        loss.backward()
        fused_losses.append(loss.item())
    trajectory = sample(sampler, two_pass, start(), fresh)
    previous_clean = None
    for step, latent in enumerate(trajectory.latents[:-1]):
        transition = transition_at(
            sampler,
            step,
            latent,
            two_pass(latent, sampler.sigma_at(step, latent)),
            next_latent=trajectory.latents[step + 1],
            previous_clean=previous_clean,
        )
        previous_clean = sampler.clean_history(transition)
        assert torch.equal(transition.next_latent, trajectory.latents[transition.step + 1])
        loss = transition.mean.square().mean()
        loss.backward()
        two_pass_losses.append(loss.item())
    assert fused_losses == two_pass_losses
    assert torch.equal(fused.weight.grad, two_pass.weight.grad)
    assert fused.weight.grad.abs().min() > 0


@pytest.mark.parametrize("name", ["flow", "dpm2"])
def test_generator_lets_go_of_a_step_before_the_next(name: str, make_sampler: MakeSampler):
    alive: list[weakref.ref] = []

    def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
        gc.collect(1)  # what is young, as a step is: all else is a library's
        assert all(reference() is None for reference in alive), "an earlier step's velocity is still held"
        prediction = field(latent, sigma)
        alive.append(weakref.ref(prediction))
        return prediction

    field = Bend()
    rollout = make_sampler(name).rollout(velocity, start(), fresh)
    for _ in range(10):
        next(rollout)
    assert len(alive) == 10


def test_gradients_can_be_switched_between_steps(make_sampler: MakeSampler):
    rollout = make_sampler("flow").rollout(Bend(), start(), fresh)
    with torch.no_grad():
        assert not next(rollout).mean.requires_grad
    assert next(rollout).mean.requires_grad


def test_sample_keeps_no_graph(make_sampler: MakeSampler):
    trajectory = sample(make_sampler("flow", noise_level=0.7), Bend(), start(), fresh)
    assert trajectory.latents.shape == (11, 3, 2, 4, 4)
    assert not trajectory.latents.requires_grad
    assert torch.equal(trajectory.clean, trajectory.latents[10])


def test_history_must_come_along(make_sampler: MakeSampler):
    with pytest.raises(
        ValueError,
        match=r"DPM2Sampler needs previous_clean .* at step 3; use rollout, which carries it along",
    ):
        transition_at(make_sampler("dpm2"), 3, start(), start())


@pytest.mark.usefixtures("unchecked_shapes")
def test_fresh_noise_must_have_the_latents_shape(make_sampler: MakeSampler):
    rollout = make_sampler("flow", noise_level=0.7).rollout(
        Bend(), start(), lambda step: torch.zeros(1, 2, 4, 4)
    )
    with pytest.raises(ValueError, match=r"latent's shape \(3, 2, 4, 4\), got \(1, 2, 4, 4\)"):
        next(rollout)


SETTINGS = {"num_steps": 10, "noise_level": 0.0, "shift": 3.0, "guidance_scale": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "sampler.num_steps must be a whole number of at least 1, got 0"),
        ({"noise_level": -0.1}, "sampler.noise_level must be a finite number of at least 0 for FlowSampler"),
        ({"noise_level": float("nan")}, "sampler.noise_level must be .* got nan"),
        ({"noise_level": float("inf")}, "sampler.noise_level must be .* got inf"),
        ({"shift": 0.0}, "sampler.shift must be a finite number above 0, got 0"),
        ({"guidance_scale": -1.0}, "sampler.guidance_scale must be .* got -1.0; 1 = no guidance"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        FlowSampler(**{**SETTINGS, **change})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ddim", "at most 1 for DDIMSampler, got 1.5"),
        ("cps", "at most 1 for CPSSampler, got 1.5"),
        ("dpm1", "must be 0 for DPM1Sampler, which has no stochastic form, got 1.5; choose sampler=flow"),
        ("dpm2", "must be 0 for DPM2Sampler, which has no stochastic form, got 1.5; choose sampler=flow"),
    ],
)
def test_noise_level_beyond_the_solver_is_refused(name: str, message: str, make_sampler: MakeSampler):
    with pytest.raises(ValueError, match=message):
        make_sampler(name, noise_level=1.5)
