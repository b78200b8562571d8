from __future__ import annotations

import torch

from diffopd.loss import FlowMatching, flow_matching_loss


def test_by_hand():
    velocity, clean, noise = (
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[2.0, 1.0]]),
        torch.tensor([[3.0, 3.0]]),
    )
    # noise - clean = (1, 2): squared distances 0 and 4.
    assert flow_matching_loss(velocity, clean, noise, reduction="mean").tolist() == [2.0]
    assert FlowMatching(reduction="sum")(velocity, clean, noise).value.tolist() == [4.0]


def test_gradient_reaches_the_velocity_alone():
    velocity, clean, noise = (torch.randn(2, 3, requires_grad=True) for _ in range(3))
    FlowMatching(reduction="mean")(velocity, clean, noise).value.sum().backward()
    assert velocity.grad is not None
    assert clean.grad is None
    assert noise.grad is None
