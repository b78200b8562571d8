"""Attention as two matrix products is torch's own."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from diffopd.model.matrix_attention import MatrixAttention


def rows(*shape):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).requires_grad_() for _ in range(3)]


def test_outputs_and_gradients_are_torchs():
    given = rows(2, 4, 9, 8)
    theirs = scaled_dot_product_attention(*given)
    expected = torch.autograd.grad(theirs.square().sum(), given)
    with MatrixAttention():
        ours = scaled_dot_product_attention(*given)
        assert not torch.equal(ours, theirs)  # it took its own way
    torch.testing.assert_close(ours, theirs)
    for gradient, wanted in zip(torch.autograd.grad(ours.square().sum(), given), expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": torch.zeros(9, 9)}, {"scale": 0.3}])
def test_what_it_does_not_know_is_left_to_torch(options):
    given = rows(2, 4, 9, 8)
    with MatrixAttention():
        ours = scaled_dot_product_attention(*given, **options)
    assert torch.equal(ours, scaled_dot_product_attention(*given, **options))


def test_bf16_stays_bf16():
    query, key, value = (x.detach().bfloat16() for x in rows(1, 2, 5, 8))
    with MatrixAttention():
        ours = scaled_dot_product_attention(query, key, value)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, scaled_dot_product_attention(query, key, value), atol=0.02, rtol=0.02)
