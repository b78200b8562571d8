from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from diffopd.flow import interpolate
from diffopd.loss import DiffusionNFT, diffusion_nft_loss, reward_weight_from_advantage
from diffopd.types import LossTerm


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, Tensor]:
    with np.load(golden_dir / "diffusion_nft_loss.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def loss_of(golden: dict[str, Tensor], beta: float, velocity: Tensor, **changes: Tensor | None) -> LossTerm:
    values = {**golden, **changes}
    return DiffusionNFT(beta=beta, kl_weight=1e-4, advantage_clip=5)(
        velocity,
        values["velocity_old"],
        values["velocity_reference"],
        interpolate(golden["clean"], golden["noise"], golden["sigma"]),
        golden["sigma"],
        golden["clean"],
        values["advantage"],
    )


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_loss_and_gradient_equal_the_reference(beta: float, golden: dict[str, Tensor]):
    velocity = golden["velocity"].clone().requires_grad_()
    term = loss_of(golden, beta, velocity)
    term.value.mean().backward()
    key = f"beta{beta}"
    assert term.metrics["policy"].mean().item() == pytest.approx(
        golden[f"policy_loss_{key}"].item(), rel=1e-6
    )
    assert term.metrics["kl_reference"].mean().item() == pytest.approx(golden[f"kl_{key}"].item(), rel=1e-6)
    assert term.value.mean().item() == pytest.approx(golden[f"loss_{key}"].item(), rel=1e-6)
    expected = golden[f"grad_velocity_{key}"]
    assert velocity.grad is not None
    assert (velocity.grad - expected).abs().max() < 1e-6 * expected.abs().max()


def test_gradient_vanishes_for_average_reward_at_the_old_policy(golden: dict[str, Tensor]):
    velocity = golden["velocity_old"].clone().requires_grad_()
    loss_of(golden, 1.0, velocity, advantage=torch.zeros(6)).metrics["policy"]
    term = diffusion_nft_loss(
        velocity,
        golden["velocity_old"],
        None,
        interpolate(golden["clean"], golden["noise"], golden["sigma"]),
        golden["sigma"],
        golden["clean"],
        torch.full((6,), 0.5),
        beta=1.0,
        kl_weight=0,
        advantage_clip=5,
    )
    (gradient,) = torch.autograd.grad(term.value.sum(), velocity)
    assert gradient.abs().max() < 1e-7
    assert term.value.min() > 0


def test_gradient_at_the_old_policy_is_proportional_to_the_advantage(golden: dict[str, Tensor]):
    velocity = golden["velocity_old"].clone().requires_grad_()
    gradients = []
    for advantage in (1.0, 3.0, -2.0):
        term = loss_of(
            golden, 0.5, velocity, advantage=torch.full((6,), advantage), velocity_reference=velocity.detach()
        )
        gradients.append(torch.autograd.grad(term.value.sum(), velocity)[0])
    # Cancelling halves of size 5 leave rounding of 1e-6 at most.
    torch.testing.assert_close(gradients[1], 3 * gradients[0], rtol=0, atol=2e-6)
    torch.testing.assert_close(gradients[2], -2 * gradients[0], rtol=0, atol=2e-6)
    assert gradients[0].abs().max() > 1e-2


def test_gradient_reaches_the_trained_model_alone(golden: dict[str, Tensor]):
    frozen = {name: golden[name].clone().requires_grad_() for name in ("velocity_old", "velocity_reference")}
    velocity = golden["velocity"].clone().requires_grad_()
    loss_of(golden, 1.0, velocity, **frozen).value.sum().backward()
    assert velocity.grad is not None
    assert all(tensor.grad is None for tensor in frozen.values())


def test_reward_weight_by_hand():
    weights = reward_weight_from_advantage(torch.tensor([-9.0, -5.0, 0.0, 2.5, 7.0]), clip=5)
    assert weights.tolist() == [0.0, 0.0, 0.5, 0.75, 1.0]


def test_a_missing_reference_needs_kl_weight_zero(golden: dict[str, Tensor]):
    with pytest.raises(ValueError, match=r"loss.kl_weight is 0.0001 but no reference .* loss.kl_weight=0"):
        loss_of(golden, 1.0, golden["velocity"], velocity_reference=None)
    assert DiffusionNFT(beta=1, kl_weight=1e-4, advantage_clip=5).needs_reference
    assert not DiffusionNFT(beta=1, kl_weight=0, advantage_clip=5).needs_reference


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.0}, "loss.beta must be a finite number above 0, got 0.0"),
        ({"advantage_clip": -1.0}, "loss.advantage_clip must be a finite number above 0, got -1.0"),
        ({"kl_weight": -1.0}, "loss.kl_weight must be a finite number of at least 0, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        DiffusionNFT(**{"beta": 1.0, "kl_weight": 1e-4, "advantage_clip": 5.0, **change})
