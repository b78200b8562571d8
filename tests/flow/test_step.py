from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffopd.flow import (
    Step,
    cps,
    dance,
    ddim,
    dpm1,
    euler,
    flow_sde,
    log_prob,
    log_prob_cps_released,
    per_row,
    sigma_grid,
    velocity_to_clean,
)

REFERENCE_TOLERANCE = 1e-6  # relative to the largest reference value: a few float32 roundings


def relative_error(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
def test_flow_sde_equals_the_reference(noise_level: float, one_step: dict[str, Tensor]):
    step = flow_sde(*inputs(one_step), noise_level=noise_level)
    key = f"sde_a{noise_level}"
    assert relative_error(step.mean, one_step[f"{key}_mean"]) < REFERENCE_TOLERANCE
    assert relative_error(step.std_released, one_step[f"{key}_std_dev_t"]) < REFERENCE_TOLERANCE
    exact_std = one_step[f"{key}_std_dev_t"] * one_step["sqrt_minus_dt"]
    assert relative_error(step.std, exact_std) < REFERENCE_TOLERANCE
    density = log_prob(one_step["next_latent"], step.mean, step.std, reduction="mean")
    # Row by row: the last step's density is ten thousand times the others.
    torch.testing.assert_close(density, one_step[f"{key}_log_prob"], rtol=REFERENCE_TOLERANCE, atol=0)


@pytest.mark.parametrize("noise_level", [0.3, 0.7, 1.0])
def test_cps_equals_the_reference(noise_level: float, one_step: dict[str, Tensor]):
    step = cps(*inputs(one_step), noise_level=noise_level)
    key = f"cps_a{noise_level}"
    assert relative_error(step.mean, one_step[f"{key}_mean"]) < REFERENCE_TOLERANCE
    assert relative_error(step.std, one_step[f"{key}_std_dev_t"]) < REFERENCE_TOLERANCE
    assert torch.equal(step.std_released, step.std)
    density = log_prob_cps_released(one_step["next_latent"], step.mean)
    torch.testing.assert_close(density, one_step[f"{key}_log_prob"], rtol=REFERENCE_TOLERANCE, atol=0)


def inputs(values: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return values["latent"], values["velocity"], values["sigma"], values["sigma_next"]


def test_euler_by_hand():
    step = euler(torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([0.75]), torch.tensor([0.25]))
    assert step.mean.item() == 0.0  # 1 - 0.5 * 2
    assert (step.coefficient.item(), step.std.item(), step.std_released.item()) == (-0.5, 0.0, 0.0)


def test_flow_sde_by_hand():
    # s = 0.5, t = 0.25, a = 1: g^2 = 1, dt = -1/4; latent factor 1 - 1/4, slope (1 + 1/2) dt = -3/8.
    args = torch.tensor([[4.0]]), torch.tensor([[8.0]]), torch.tensor([0.5]), torch.tensor([0.25])
    step = flow_sde(*args, noise_level=1)
    assert step.mean.item() == 0.0  # 4 * 3/4 - 8 * 3/8
    assert step.coefficient.item() == -0.375
    assert (step.std.item(), step.std_released.item()) == (0.5, 1.0)


def test_flow_sde_first_step_is_capped_by_the_second_level():
    sigma, sigma_next = sigma_grid(10, 3.0)[0:1], sigma_grid(10, 3.0)[1:2]
    latent, velocity = torch.tensor([[0.3]]), torch.tensor([[-1.2]])
    step = flow_sde(latent, velocity, sigma, sigma_next, noise_level=0.7)
    assert step.std.item() == pytest.approx(0.7, rel=1e-6)
    assert step.coefficient.item() == (sigma_next - sigma).item()
    assert flow_sde(latent, velocity, sigma, sigma_next, noise_level=0).std.item() == 0.0


def test_flow_sde_slope_is_a_constant_multiple_of_the_step(one_step: dict[str, Tensor]):
    step = flow_sde(*inputs(one_step), noise_level=0.7)
    dt = one_step["sigma_next"] - one_step["sigma"]
    torch.testing.assert_close(step.coefficient[1:], (1 + 0.7**2 / 2) * dt[1:], rtol=1e-6, atol=0)


def test_dance_by_hand():
    # s = 0.5, t = 0.25, eta = 2: share of the drift eta^2 / (2 s) = 4, dt = -1/4;
    # latent factor 1 - 1 = 0, slope (1 + 4 / 2) dt = -3/4, std 2 sqrt(1/4) = 1.
    args = torch.tensor([[4.0]]), torch.tensor([[8.0]]), torch.tensor([0.5]), torch.tensor([0.25])
    step = dance(*args, noise_level=2)
    assert (step.mean.item(), step.coefficient.item()) == (-6.0, -0.75)
    assert (step.std.item(), step.std_released.item()) == (1.0, 1.0)


@pytest.mark.parametrize("noise_level", [0.3, 1.0])
def test_dance_equals_the_form_with_the_score(noise_level: float, one_step: dict[str, Tensor]):
    latent, velocity, sigma, sigma_next = (value.double() for value in inputs(one_step))
    assert (sigma[0].item(), sigma_next[-1].item()) == (1.0, 0.0)  # both ends of the grid are among the rows
    step = dance(latent, velocity, sigma, sigma_next, noise_level=noise_level)
    s, dt = per_row(sigma, latent), per_row(sigma_next - sigma, latent)
    score = -(latent - (1 - s) * velocity_to_clean(latent, velocity, sigma)) / s**2
    torch.testing.assert_close(step.mean, latent + dt * velocity - dt * 0.5 * noise_level**2 * score)
    torch.testing.assert_close(step.std, noise_level * (sigma - sigma_next).sqrt())


def test_dance_is_finite_at_both_ends_of_the_grid():
    grid = sigma_grid(10, 3.0)
    latent, velocity = torch.tensor([[0.3], [0.3]]), torch.tensor([[-1.2], [-1.2]])
    sigma, sigma_next = grid[[0, 9]], grid[[1, 10]]
    step = dance(latent, velocity, sigma, sigma_next, noise_level=0.3)
    # At sigma 1 the slope is dt; from s to 0 it is -(s + eta^2 (1 - s) / 2), the latent's 1 - eta^2 / 2.
    last = sigma[1].item()
    assert step.coefficient[0].item() == (grid[1] - grid[0]).item()
    assert step.coefficient[1].item() == pytest.approx(-(last + 0.045 * (1 - last)), rel=1e-6)
    expected = 0.3 * (1 - 0.045) + 1.2 * (last + 0.045 * (1 - last))
    assert step.mean[1].item() == pytest.approx(expected, rel=1e-6)
    assert step.std[1].item() == pytest.approx(0.3 * math.sqrt(last), rel=1e-6)


def test_ddim_by_hand():
    # s = 1/2, t = 1/4, eta = 1: odds ratio 1/3, std^2 = (1/16)(8/9) = 1/18,
    # kept noise sqrt(1/16 - 1/18) = 1/12.
    args = torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([0.5]), torch.tensor([0.25])
    step = ddim(*args, noise_level=1)
    assert step.std.item() == pytest.approx(math.sqrt(1 / 18), rel=1e-6)
    # clean = 1 - 0.5 * 2 = 0, noise = 1 + 0.5 * 2 = 2: mean = 2 / 12.
    assert step.mean.item() == pytest.approx(1 / 6, rel=1e-6)
    assert step.coefficient.item() == pytest.approx(1 / 24 - 3 / 8, rel=1e-6)


def test_cps_by_hand():
    # eta = 1/3: std = t / 2, kept noise t sqrt(3) / 2, with t = 1/4, clean 0 and noise 2.
    args = torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([0.5]), torch.tensor([0.25])
    step = cps(*args, noise_level=1 / 3)
    assert step.std.item() == pytest.approx(1 / 8, rel=1e-6)
    assert step.mean.item() == pytest.approx(math.sqrt(3) / 4, rel=1e-6)


STOCHASTIC = {"flow_sde": flow_sde, "ddim": ddim, "cps": cps, "dance": dance}


@pytest.mark.parametrize("name", ["flow_sde", "ddim", "cps", "dance", "dpm1"])
def test_without_noise_every_solver_is_the_euler_step(name: str, one_step: dict[str, Tensor]):
    expected = euler(*inputs(one_step))
    step = dpm1(*inputs(one_step)) if name == "dpm1" else STOCHASTIC[name](*inputs(one_step), noise_level=0)
    assert relative_error(step.mean, expected.mean) < REFERENCE_TOLERANCE
    torch.testing.assert_close(step.coefficient, expected.coefficient, rtol=REFERENCE_TOLERANCE, atol=0)
    assert torch.equal(step.std, torch.zeros(10))


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_coefficient_is_the_slope_of_the_mean(name: str, one_step: dict[str, Tensor]):
    latent, velocity, sigma, sigma_next = inputs(one_step)
    velocity = velocity.double().requires_grad_()
    step: Step = STOCHASTIC[name](latent.double(), velocity, sigma, sigma_next, noise_level=0.7)
    (slope,) = torch.autograd.grad(step.mean.sum(), velocity)
    torch.testing.assert_close(slope, step.coefficient.view(-1, 1, 1, 1).expand_as(slope), rtol=1e-12, atol=0)


def test_half_precision_is_stepped_in_float32():
    latent, velocity = (
        torch.full((1, 2), 1.0, dtype=torch.bfloat16),
        torch.full((1, 2), 1.0, dtype=torch.bfloat16),
    )
    step = euler(latent, velocity, torch.tensor([1.0]), torch.tensor([0.999]))
    assert step.mean.dtype == torch.float32
    assert step.mean[0, 0].item() == pytest.approx(0.999, rel=1e-6)  # bfloat16 would round this to 1
