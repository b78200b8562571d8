"""Self-OPD: advantages, gate and loss by hand, and the paper's form in velocities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from diffopd.loss import SelfOPD, branch_advantages, branch_loss, direction_gate
from diffopd.sampler import FlowSampler

REWARDS, BASELINE = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([2.0])  # deviation 1: -1, 1, 0
BRANCHES = torch.tensor([[[0.0, 2.0], [2.0, 0.0], [2.0, 2.0]]])
OLD, STD = torch.zeros(1, 2), torch.tensor([0.5])


def test_advantages_by_hand():
    assert branch_advantages(REWARDS, BASELINE).tolist() == [[-1.0, 1.0, 0.0]]
    equal = branch_advantages(torch.full((1, 3), 0.5), torch.tensor([0.5]))
    assert equal.tolist() == [[0.0, 0.0, 0.0]]


def test_the_gate_by_hand():
    """The first branch is at a right angle to the best one; a branch opposite to it is pushed away fully."""
    advantages = branch_advantages(REWARDS, BASELINE)
    assert direction_gate(BRANCHES, advantages).tolist() == [[0.5, 1.0, 1.0]]
    opposite, same = BRANCHES.clone(), BRANCHES.clone()
    opposite[0, 0], same[0, 0] = torch.tensor([-3.0, 0.0]), torch.tensor([3.0, 0.0])
    assert direction_gate(opposite, advantages)[0, 0] == 1
    assert direction_gate(same, advantages)[0, 0] == 0


def student(mean):
    """A transition with this mean and ``STD``."""
    sampler = FlowSampler(num_steps=4, noise_level=0.7, shift=1.0, guidance_scale=1.0)
    zero = torch.zeros(1, 2)
    return replace(sampler.transition(1, zero, zero), mean=mean, std=STD)


@pytest.mark.parametrize(
    ("gate", "clip", "value", "slope"),
    [
        # Weights -0.5, 1, 0; squared distances of (1, 0) are 2.5, 0.5, 2.5; a third of the sum over 2 * 0.25.
        (True, 1.0, -0.5, [-1.0, 2 / 3]),
        # Weights -1, 1, 0.
        (False, 1.0, -4 / 3, [-4 / 3, 4 / 3]),
        # Weights -0.5, 0.5, 0: the gate has halved the first already.
        (True, 0.5, -2 / 3, [-2 / 3, 2 / 3]),
    ],
)
def test_loss_by_hand(gate, clip, value, slope):
    mean = torch.tensor([[1.0, 0.0]], requires_grad=True)
    term = SelfOPD(weight_clip=clip, gate=gate)(student(mean), OLD, BRANCHES, REWARDS, BASELINE)
    assert term.value.tolist() == pytest.approx([value])
    (found,) = torch.autograd.grad(term.value.sum(), mean)
    assert found[0].tolist() == pytest.approx(slope)
    assert term.metrics["better"].tolist() == pytest.approx([1 / 3])
    assert term.metrics["best_gain"].tolist() == [1.0]


def test_it_is_the_papers_velocity_form():
    """``(1 + eta^2 / 2)^2 |dt| / (2 s^2) |v - v_k|^2`` with ``s = eta sqrt(sigma / (1 - sigma))``."""
    eta, step = 0.7, 4
    sampler = FlowSampler(num_steps=10, noise_level=eta, shift=3.0, guidance_scale=1.0)
    generator = torch.Generator().manual_seed(0)
    latent, velocity, noise = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3))
    old = sampler.transition(step, latent, velocity, noise=noise)
    new = sampler.transition(step, latent, velocity + 0.1)
    found = branch_loss(new.mean, new.std, old.next_latent[:, None], torch.ones(2, 1))
    sigma, dt = sampler.sigmas()[step].item(), (sampler.sigmas()[step + 1] - sampler.sigmas()[step]).item()
    target = velocity + (old.next_latent - old.mean) / (dt * (1 + eta**2 / 2))
    distance = (velocity + 0.1 - target).square().flatten(1).mean(1)
    s = eta * math.sqrt(sigma / (1 - sigma))
    torch.testing.assert_close(
        found, (1 + eta**2 / 2) ** 2 * abs(dt) / (2 * s**2) * distance, rtol=1e-4, atol=0
    )


def test_without_noise_there_are_no_branches():
    still = FlowSampler(num_steps=4, noise_level=0.0, shift=1.0, guidance_scale=1.0)
    zero = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"loss=self_opd needs a transition with noise"):
        SelfOPD(weight_clip=1, gate=True)(still.transition(1, zero, zero), OLD, BRANCHES, REWARDS, BASELINE)
