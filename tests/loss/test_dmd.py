"""Distribution matching: values by hand, and what receives a gradient."""

from __future__ import annotations

import pytest
import torch

from diffopd.loss import DMD, dmd_gradient, dmd_loss, flow_matching_loss

CLEAN, REAL, FAKE = (torch.tensor([values]) for values in ([1.0, 1.0], [0.0, -2.0], [1.0, 0.0]))


def test_gradient_by_hand():
    """p_real = (1, 3) has mean magnitude 2, p_fake = (0, 1): (1, 2) / 2."""
    found = dmd_gradient(CLEAN, REAL, FAKE)
    assert found.dtype == torch.float64
    assert found.tolist() == [[0.5, 1.0]]


def test_loss_by_hand_has_the_gradient_as_its_slope():
    clean = CLEAN.clone().requires_grad_()
    loss = dmd_loss(clean, REAL, FAKE)
    assert loss.tolist() == [0.5 * (0.25 + 1.0) / 2]
    loss.sum().backward()
    assert clean.grad is not None
    assert clean.grad.tolist() == [[0.25, 0.5]]  # over the two elements of the mean


def test_every_sample_has_its_own_scale():
    rows = [torch.cat([value, 10 * value]) for value in (CLEAN, REAL, FAKE)]
    gradient = dmd_gradient(*rows)
    torch.testing.assert_close(gradient[1], gradient[0])


def test_equal_scores_have_no_gradient():
    assert dmd_gradient(CLEAN, REAL, REAL).tolist() == [[0.0, 0.0]]
    assert dmd_loss(CLEAN, REAL, REAL).tolist() == [0.0]


def test_a_sample_the_teacher_predicts_exactly_has_none_either():
    assert dmd_gradient(CLEAN, CLEAN, FAKE).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("broken", ["clean", "real", "fake"])
def test_what_is_no_number_is_not_hidden(broken):
    values = {"clean": CLEAN, "real": REAL, "fake": FAKE}
    values[broken] = torch.full_like(CLEAN, torch.nan)
    assert dmd_loss(values["clean"], values["real"], values["fake"]).isnan().all()


def test_losses_reach_the_student_and_the_fake_score_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    clean, real, fake, velocity, latent, fresh = (
        torch.randn(2, 3, generator=generator).requires_grad_() for _ in range(6)
    )
    DMD()(clean, real, fake).value.sum().backward()
    assert clean.grad is not None
    assert (real.grad, fake.grad) == (None, None)
    clean.grad = None
    term = DMD().fake(velocity, latent, torch.full((2,), 0.5), clean, fresh)
    assert torch.equal(term.value, flow_matching_loss(velocity, clean, fresh, reduction="mean"))
    term.value.sum().backward()
    assert velocity.grad is not None
    assert (clean.grad, latent.grad) == (None, None)
