"""Weights of mean 1 over the trained steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from diffopd.loss import ODEL2, OPD, CleanL2, ReverseKL, ReverseKLReleased, VelocityUniform
from diffopd.loss.velocity_matching import TransitionMatching
from diffopd.sampler import (
    CPSSampler,
    DanceSampler,
    DPM2Sampler,
    FlowSampler,
    NoiseWindow,
    TransitionSampler,
)
from diffopd.types import Transition

GRID = {"shift": 3.0, "guidance_scale": 1.0}
LOSSES = [CleanL2, ODEL2, OPD, ReverseKL, ReverseKLReleased, VelocityUniform]


def unit_gap_loss(loss: TransitionMatching, transition: Transition) -> float:
    """Loss for a velocity gap of 1 in every element: the weight."""
    return loss(transition, transition.velocity.detach() + 1).value[0].item()


def samplers() -> dict[str, TransitionSampler]:
    flow = FlowSampler(num_steps=10, noise_level=0.7, **GRID)
    return {
        "ode": FlowSampler(num_steps=10, noise_level=0, **GRID),
        "sde": flow,
        "forty": FlowSampler(num_steps=40, noise_level=0, **GRID),
        "cps": CPSSampler(num_steps=10, noise_level=0.5, **GRID),
        "dance": DanceSampler(num_steps=10, noise_level=0.3, **GRID),
        "dpm2": DPM2Sampler(num_steps=10, noise_level=0, loss_coefficient="taken", **GRID),
        "window": NoiseWindow(flow, [2, 3]),
    }


@pytest.mark.parametrize("name", sorted(samplers()))
@pytest.mark.parametrize("kind", [CleanL2, ODEL2, OPD, VelocityUniform])
def test_weights_have_mean_one_over_the_trained_steps(kind: type[TransitionMatching], name: str):
    trained = samplers()[name].grid_transitions()[:-1]
    plain = kind(reduction="mean", normalize=False)
    loss = kind(reduction="mean", normalize=True).over(trained)
    found = [unit_gap_loss(loss, transition) for transition in trained]
    assert sum(found) / len(found) == pytest.approx(1, rel=1e-6)
    # The steps keep their ratios.
    first, last = unit_gap_loss(plain, trained[0]), unit_gap_loss(plain, trained[-1])
    assert found[0] / found[-1] == pytest.approx(first / last, rel=1e-5)


@pytest.mark.parametrize("kind", [ReverseKL, ReverseKLReleased])
@pytest.mark.parametrize("name", ["sde", "dance"])
def test_weights_of_a_kl_have_mean_one(kind: type[TransitionMatching], name: str):
    trained = samplers()[name].grid_transitions()[2:5]
    loss = kind(reduction="mean", normalize=True).over(trained)
    assert sum(unit_gap_loss(loss, step) for step in trained) / 3 == pytest.approx(1, rel=1e-6)


def test_scale_by_hand():
    # Half the squared sigmas of two steps, 1 and 0.5: 1/2 and 1/8, of mean 5/16.
    step = samplers()["ode"].grid_transitions()[0]
    half = replace(step, sigma=torch.tensor([0.5]))
    loss = CleanL2(reduction="mean", normalize=True).over([step, half])
    assert unit_gap_loss(loss, step) == pytest.approx(8 / 5)
    assert unit_gap_loss(loss, half) == pytest.approx(2 / 5)


def test_sum_over_the_latent_is_scaled_alike(transitions: Callable[..., list[Transition]]):
    grid, student = samplers()["ode"].grid_transitions(), transitions(0.0)[3]
    mean, total = (
        OPD(reduction=reduction, normalize=True).over(grid)(student, torch.zeros_like(student.latent)).value
        for reduction in ("mean", "sum")
    )
    torch.testing.assert_close(total, 32 * mean)  # 2 x 4 x 4 elements


def test_metrics_are_not_scaled(transitions: Callable[..., list[Transition]]):
    grid, student = samplers()["sde"].grid_transitions(), transitions(0.7)[3]
    target = torch.zeros_like(student.latent)
    plain = OPD(reduction="mean", normalize=False)(student, target).metrics
    scaled = OPD(reduction="mean", normalize=True).over(grid)(student, target).metrics
    assert all(torch.equal(plain[name], scaled[name]) for name in ("velocity_gap", "kl_nats"))


@pytest.mark.parametrize("kind", LOSSES)
def test_without_it_the_loss_stays_what_it_is(kind: type[TransitionMatching]):
    loss = kind(reduction="mean", normalize=False)
    assert loss.over(samplers()["sde"].grid_transitions()) is loss
    assert loss.over([]) is loss


def test_copy_leaves_the_loss_alone_and_can_be_made_again():
    grid = samplers()["ode"].grid_transitions()
    loss = ODEL2(reduction="mean", normalize=True)
    early = loss.over(grid[:3])
    assert early is not loss
    late, again = loss.over(grid[6:9]), early.over(grid[6:9])
    # Mean half squared steps of the two stretches: 1.15e-3 and 2.10e-2.
    assert unit_gap_loss(early, grid[2]) == pytest.approx(18.35 * unit_gap_loss(late, grid[2]), rel=1e-3)
    assert unit_gap_loss(again, grid[2]) == unit_gap_loss(late, grid[2])


def test_loss_must_be_told_its_steps():
    with pytest.raises(AssertionError, match=r"must first be told its steps: loss.over"):
        unit_gap_loss(OPD(reduction="mean", normalize=True), samplers()["ode"].grid_transitions()[0])


def test_mean_weight_must_be_finite_and_above_zero():
    grid = samplers()["ode"].grid_transitions()
    with pytest.raises(ValueError, match=r"loss.normalize=true .* got inf; a step without noise .* loss=opd"):
        ReverseKL(reduction="mean", normalize=True).over(grid)
    still = [replace(grid[0], coefficient=torch.zeros(1))]
    with pytest.raises(ValueError, match=r"finite number above 0, got 0.0.*loss.normalize=false"):
        ODEL2(reduction="mean", normalize=True).over(still)
    with pytest.raises(ValueError, match=r"loss.normalize=true .* no step is trained"):
        ODEL2(reduction="mean", normalize=True).over([])
