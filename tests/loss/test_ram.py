"""RAM and RVM: values by hand, what they are cases of, and what a call needs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffopd.flow import interpolate
from diffopd.loss import RAM, RVM, DiffusionNFT, NoisedLoss, ram_loss, rvm_loss, sample_velocity

SIGMA = torch.tensor([0.5])
LATENT, CLEAN = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 1.0]])  # noise - clean = (2, -4)
NEW, OLD, REFERENCE = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)
REWARD = torch.tensor([0.5])


def given(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(4, 2, 3, 3, generator=generator) for name in ("clean", "noise", "new", "old")}
    sigma = torch.tensor([0.2, 0.5, 0.8, 1.0])
    latent = interpolate(drawn["clean"], drawn["noise"], sigma)
    return {**drawn, "sigma": sigma, "latent": latent, "advantage": torch.tensor([-1.5, -0.2, 0.7, 1.5])}


def gradient(
    loss: NoisedLoss, at: dict[str, Tensor], new: Tensor, old: Tensor | None, reference: Tensor | None
):
    velocity = new.clone().requires_grad_()
    term = loss(velocity, old, reference, at["latent"], at["sigma"], at["clean"], at["advantage"])
    return torch.autograd.grad(term.value.sum(), velocity)[0]


@pytest.mark.parametrize(
    ("residual", "value", "slope"),
    [
        # Target: 0.5 ((2, -4) - (1, 0)) = (0.5, -2); half of 0.25 + 4.
        ("student", 2.125, [0.5, 2.0]),
        # 0.5 ((2, -4) - (0, 2)) = (1, -3); half of 0 + 9.
        ("old", 4.5, [0.0, 3.0]),
    ],
)
def test_ram_by_hand(residual, value, slope):
    velocity = NEW.clone().requires_grad_()
    term = ram_loss(velocity, OLD, REFERENCE, LATENT, SIGMA, CLEAN, REWARD, residual=residual)
    assert term.value.tolist() == [value]
    assert term.metrics["kl_reference"].tolist() == [0.5]
    assert torch.autograd.grad(term.value.sum(), velocity)[0].tolist() == [slope]


@pytest.mark.parametrize(
    ("residual", "policy", "slope"),
    [
        # 0.5 (1 + 16) / 2; its slope 0.5 (-1, 4), and the anchor's 0.25 (1, 0).
        ("student", 4.25, [-0.25, 2.0]),
        # 0.5 * 2 <(1, -2), (-2, 6)> / 2; its slope 0.5 (-2, 6).
        ("old", -7.0, [-0.75, 3.0]),
    ],
)
def test_rvm_by_hand(residual, policy, slope):
    velocity = NEW.clone().requires_grad_()
    term = rvm_loss(
        velocity, OLD, REFERENCE, LATENT, SIGMA, CLEAN, REWARD, residual=residual, anchor_weight=0.25
    )
    assert term.metrics["policy"].tolist() == [policy]
    assert term.metrics["kl_anchor"].tolist() == [0.5]
    assert term.value.tolist() == [policy + 0.125]
    assert torch.autograd.grad(term.value.sum(), velocity)[0].tolist() == [slope]


def test_ram_is_rvm_anchored_to_the_reference():
    at = given()
    reference = at["old"] + 0.3
    ram = gradient(
        RAM(reward_scale=0.7, residual="student", advantage_clip=1.0), at, at["new"], None, reference
    )
    rvm = RVM(reward_scale=0.7, residual="student", anchor="reference", anchor_weight=1, advantage_clip=1.0)
    torch.testing.assert_close(gradient(rvm, at, at["new"], None, reference), ram)
    assert ram.abs().max() > 0.1


def test_nft_without_its_adaptive_weights_is_rvm_anchored_to_the_old_policy():
    """``(clip / beta) (r |v+ - y|^2 + (1 - r) |v- - y|^2)``, wherever the student is."""
    at, beta, clip = given(), 0.3, 2.0
    velocity, old = at["new"].clone().requires_grad_(), at["old"]
    target = sample_velocity(at["latent"], at["sigma"], at["clean"]).float()
    r = at["advantage"] / (2 * clip) + 0.5
    distances = [
        (old + sign * beta * (velocity - old) - target).square().flatten(1).mean(1) for sign in (1, -1)
    ]
    nft = torch.autograd.grad((clip / beta * (r * distances[0] + (1 - r) * distances[1])).sum(), velocity)[0]
    rvm = RVM(reward_scale=1, residual="old", anchor="old", anchor_weight=beta * clip, advantage_clip=clip)
    torch.testing.assert_close(gradient(rvm, at, at["new"], old, None), nft, rtol=1e-4, atol=1e-6)
    other = RVM(
        reward_scale=1, residual="student", anchor="old", anchor_weight=beta * clip, advantage_clip=clip
    )
    assert not torch.allclose(gradient(other, at, at["new"], old, None), nft, rtol=1e-2)


def test_nft_and_ram_have_one_direction_before_the_first_update():
    """There student, old policy and reference are one; NFT weighs a row by sigma over its mean error."""
    at, old = given(), given()["old"]
    nft = gradient(DiffusionNFT(beta=0.4, kl_weight=0, advantage_clip=2), at, old, old, None)
    ram = gradient(RAM(reward_scale=1, residual="student", advantage_clip=2), at, old, None, old)
    target = sample_velocity(at["latent"], at["sigma"], at["clean"])
    error = at["sigma"] * (old - target).abs().flatten(1).mean(1)
    weight = (at["sigma"].square() / error)[:, None, None, None]
    torch.testing.assert_close(nft, (weight * ram).float(), rtol=1e-4, atol=1e-6)


def test_equal_rewards_leave_the_anchor_alone():
    at = given() | {"advantage": torch.zeros(4)}
    ram = RAM(reward_scale=1, residual="student", advantage_clip=5)
    assert gradient(ram, at, at["old"], None, at["old"]).abs().max() == 0
    free = RVM(reward_scale=1, residual="student", anchor="reference", anchor_weight=0, advantage_clip=5)
    assert gradient(free, at, at["new"], None, None).abs().max() == 0


@pytest.mark.parametrize(
    ("loss", "old", "reference"),
    [
        (RAM(reward_scale=1, residual="student", advantage_clip=5), False, True),
        (RAM(reward_scale=1, residual="old", advantage_clip=5), True, True),
        (
            RVM(reward_scale=1, residual="student", anchor="old", anchor_weight=0, advantage_clip=5),
            False,
            False,
        ),
        (
            RVM(reward_scale=1, residual="student", anchor="old", anchor_weight=1, advantage_clip=5),
            True,
            False,
        ),
        (
            RVM(reward_scale=1, residual="old", anchor="reference", anchor_weight=1, advantage_clip=5),
            True,
            True,
        ),
        (DiffusionNFT(beta=1, kl_weight=0, advantage_clip=5), True, False),
    ],
)
def test_what_a_call_needs_and_nothing_else(loss, old, reference):
    assert isinstance(loss, NoisedLoss)
    assert (loss.needs_old, loss.needs_reference) == (old, reference)
    at = given()
    found = gradient(loss, at, at["new"], at["old"] if old else None, at["old"] if reference else None)
    assert found.isfinite().all()
    if old and not isinstance(loss, DiffusionNFT):
        with pytest.raises(ValueError, match="velocity of the"):
            gradient(loss, at, at["new"], None, at["old"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward_scale": 0}, "loss.reward_scale must be a finite number above 0, got 0"),
        ({"residual": "teacher"}, "loss.residual must be one of student, old, got 'teacher'"),
        ({"anchor": "base"}, "loss.anchor must be one of reference, old, got 'base'"),
        ({"anchor_weight": -1}, "loss.anchor_weight must be a finite number of at least 0, got -1"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    settings = {
        "reward_scale": 1,
        "residual": "old",
        "anchor": "old",
        "anchor_weight": 1,
        "advantage_clip": 5,
    }
    with pytest.raises(ValueError, match=message):
        RVM(**{**settings, **change})
