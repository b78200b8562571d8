"""Encoded prompts of every kind: with and without a pooled vector, of one length and of several."""

from __future__ import annotations

import pytest
import torch

from diffopd.types import Conditioning


def encoded(*lengths: int) -> Conditioning:
    """Prompts of so many tokens; token ``t`` of prompt ``p`` is ``10 p + t + 1``, padding is 0."""
    rows = torch.zeros(len(lengths), max(lengths), 1)
    for row, length in enumerate(lengths):
        rows[row, :length, 0] = 10 * row + torch.arange(1, length + 1)
    return Conditioning(rows, lengths=lengths)


def test_chosen_rows_are_as_long_as_the_longest_of_them():
    chosen = encoded(1, 4, 2).select([2, 0])
    assert chosen.lengths == (2, 1)
    assert chosen.embeds[:, :, 0].tolist() == [[21, 22], [1, 0]]


@pytest.mark.parametrize("rows", [[1, 0], torch.tensor([1, 0])])
def test_without_lengths_every_token_is_kept(rows):
    given = Conditioning(torch.arange(6.0).view(2, 3, 1), torch.tensor([[1.0], [2.0]]))
    chosen = given.select(rows)
    assert chosen.embeds.flatten().tolist() == [3, 4, 5, 0, 1, 2]
    assert chosen.pooled is not None
    assert chosen.pooled.flatten().tolist() == [2, 1]
    assert chosen.lengths is None


def test_rows_put_together_are_filled_up():
    both = Conditioning.concat([encoded(1), encoded(3, 2)])
    assert both.lengths == (1, 3, 2)
    assert both.embeds[:, :, 0].tolist() == [[1, 0, 0], [1, 2, 3], [11, 12, 0]]
    assert both.pooled is None


def test_select_undoes_concat():
    parts = [encoded(2), encoded(5), encoded(3)]
    together = Conditioning.concat(parts)
    for row, part in enumerate(parts):
        again = together.select([row])
        assert torch.equal(again.embeds, part.embeds)
        assert again.lengths == part.lengths


def test_one_row_is_repeated_and_no_other():
    three = encoded(2).expand(3)
    assert len(three) == 3
    assert three.lengths == (2, 2, 2)
    with pytest.raises(ValueError, match="only a single row can be repeated, this has 2"):
        encoded(1, 2).expand(3)
