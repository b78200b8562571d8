"""The preference loss against numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from diffopd.loss import DPO, Side

PLAIN = {"beta": 2.0, "form": "sigmoid", "reference": "base", "push": 1, "keep": 0}


def side(velocity, reference=None):
    """A picture whose target is (0, 0), so that an error is the mean square of the velocity."""
    velocity = torch.tensor([velocity], requires_grad=True)
    return Side(velocity, torch.zeros(1, 2), None if reference is None else torch.tensor([reference]))


def test_by_hand():
    """Errors 0.5 against the reference's 2 on the preferred picture, 4.5 against 2 on the rejected one."""
    preferred, rejected = side([1.0, 0.0], [2.0, 0.0]), side([3.0, 0.0], [0.0, 2.0])
    term = DPO(**PLAIN)(preferred, rejected)
    assert term.metrics["margin"].tolist() == [1.5 + 2.5]
    assert term.metrics["preferred_gap"].tolist() == [0.5]
    assert term.metrics["rejected_gap"].tolist() == [4.5]
    assert term.value.item() == pytest.approx(math.log(1 + math.exp(-2 * 4)), rel=1e-4)
    pushed = DPO(**PLAIN | {"push": 0.1})(preferred, rejected)
    assert pushed.metrics["margin"].item() == pytest.approx(1.5 + 0.25)
    assert DPO(**PLAIN | {"form": "hinge", "beta": 0.1})(preferred, rejected).value.item() == pytest.approx(
        0.6
    )


def test_a_student_that_is_the_reference_has_log_2_and_the_gradient_of_half_of_beta():
    """``d/dv -log sigmoid(beta m)`` at ``m = 0`` is ``-beta/2 dm/dv``; ``dm/dv = -v`` of two elements."""
    preferred, rejected = side([1.0, 2.0], [1.0, 2.0]), side([3.0, 0.5], [3.0, 0.5])
    value = DPO(**PLAIN)(preferred, rejected).value
    assert value.item() == pytest.approx(math.log(2))
    value.backward()
    torch.testing.assert_close(preferred.velocity.grad, torch.tensor([[1.0, 2.0]]))
    torch.testing.assert_close(rejected.velocity.grad, torch.tensor([[-3.0, -0.5]]))


def test_without_a_reference_errors_are_compared():
    """PSO's released form for subjects: ``max(0, 1 - 5 (0.1 * 4.5 - 0.5)) + 0.5 * 4.5``."""
    loss = DPO(beta=5.0, form="hinge", reference="none", push=0.1, keep=0.5)
    assert not loss.needs_reference
    term = loss(side([1.0, 0.0]), side([3.0, 0.0]))
    assert term.value.item() == pytest.approx(1 + 5 * 0.05 + 2.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0}, r"loss\.beta must be a finite number above 0, got 0"),
        ({"push": -1}, r"loss\.push must be a finite number of at least 0, got -1"),
        ({"keep": math.inf}, r"loss\.keep must be a finite number of at least 0, got inf"),
        ({"form": "ipo"}, r"loss\.form=ipo must be one of sigmoid, hinge"),
        ({"reference": "ema"}, r"loss\.reference=ema must be one of base, none"),
    ],
)
def test_settings_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        DPO(**PLAIN | change)
