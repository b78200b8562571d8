from __future__ import annotations

import torch

from diffopd.flow import guide


def test_scale_one_is_the_conditional_model_exactly():
    generator = torch.Generator().manual_seed(0)
    unconditional, conditional = torch.randn(2, 3, 4, 4, generator=generator)
    assert torch.equal(guide(unconditional, conditional, 1.0), conditional)


def test_scale_per_row_by_hand():
    unconditional, conditional = torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[3.0], [3.0], [3.0]])
    guided = guide(unconditional, conditional, torch.tensor([0.0, 1.0, 4.5]))
    assert guided.flatten().tolist() == [1.0, 3.0, 10.0]  # 1 + scale * 2
    assert guide(unconditional, conditional, 4.5).flatten().tolist() == [10.0] * 3


def test_gradient_flows_through_both_branches():
    unconditional = torch.tensor([[1.0]], requires_grad=True)
    conditional = torch.tensor([[3.0]], requires_grad=True)
    guide(unconditional, conditional, 4.5).sum().backward()
    assert unconditional.grad is not None
    assert conditional.grad is not None
    assert (unconditional.grad.item(), conditional.grad.item()) == (-3.5, 4.5)
