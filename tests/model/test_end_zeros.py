"""Rows without the zeros at their ends: the same bits again, in less room."""

from __future__ import annotations

import pytest
import torch

from diffopd.model.end_zeros import with_end_zeros, without_end_zeros


def there_and_back(matrix):
    kept, runs = without_end_zeros(matrix)
    return kept, runs, with_end_zeros(kept, runs, matrix.shape[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("columns", [7, 16, 40])  # 40: the last block is not full
def test_any_matrix_comes_back_to_the_bit(dtype, columns):
    matrix = torch.randn(9, columns, generator=torch.Generator().manual_seed(0)).to(dtype)
    matrix[2:5, columns // 2 :] = 0
    matrix[5] = 0
    matrix[6, :3] = 0  # zeros at the start, or within, are numbers like others
    matrix[7, 3:] = 0
    matrix[7, -1] = -0.0
    matrix[8, 0] = float("nan")
    kept, _, back = there_and_back(matrix)
    assert back.dtype == dtype
    assert torch.equal(back.view(torch.uint8), matrix.view(torch.uint8))
    assert kept.numel() <= matrix.numel()


def test_padding_is_left_out_by_the_block():
    """Like Stable Diffusion 3: 77 tokens of two encoders padded to the third's width, then the third's."""
    clip = torch.nn.functional.pad(torch.ones(77, 20), (0, 28))
    kept, runs, _ = there_and_back(torch.cat([clip, torch.ones(128, 48)]))
    assert runs == [[77, 32], [128, 48]]
    assert kept.numel() == 77 * 32 + 128 * 48
    kept, runs, back = there_and_back(torch.zeros(3, 48))
    assert (kept.numel(), runs, back.shape) == (0, [[3, 0]], (3, 48))


def test_a_matrix_without_padding_is_not_copied():
    matrix = torch.ones(3, 40)
    kept, _, back = there_and_back(matrix)
    assert kept.data_ptr() == back.data_ptr() == matrix.data_ptr()


def test_numbers_that_do_not_fill_the_runs_are_damage():
    with pytest.raises(ValueError, match="5 numbers do not fill"):
        with_end_zeros(torch.ones(5), [[2, 3]], 4)
