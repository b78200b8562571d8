"""Encoded prompts of every kind: with and without a pooled vector, of one length and of several."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffopd.types import Conditioning, Picture, Prompts


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


def shown(*pictures: str) -> tuple[Picture, ...]:
    """Pictures by the digests of their files."""
    return tuple(Picture(f"{digest}.png", digest, 64, 48) for digest in pictures)


def two_prompts() -> Prompts:
    return Prompts(("a", "a"), ("t", "t"), ({}, {}), (0, 1), (0, 0))


def test_a_prompt_without_pictures_has_none():
    assert two_prompts().targets == (None, None)
    assert two_prompts().references == ((), ())
    assert two_prompts().key(0) == ("a",)


def test_what_a_network_is_shown_is_in_the_key_and_what_a_row_learns_is_not():
    given = two_prompts().with_references([shown("x", "y"), ()])
    assert given.key(0) == ("a", "x@64x48", "y@64x48")
    assert given.key(1) == ("a",)
    (target,) = shown("x")
    assert replace(given, targets=(target, None)).key(0) == given.key(0)


def test_pictures_stay_with_their_rows():
    given = two_prompts().with_references([shown("x"), shown("y", "z")])
    together = Prompts.concat([given.select([1]), given.select([0])])
    assert together.references == (shown("y", "z"), shown("x"))
    assert together.indices == (1, 0)


def test_references_stay_with_their_rows_through_select_concat_and_expand():
    latents = [torch.full((2, 3, width), float(width)) for width in (1, 2, 3)]
    first = Conditioning(torch.zeros(1, 1, 1), references=((latents[0],),))
    second = Conditioning(torch.zeros(1, 1, 1), references=((latents[1], latents[2]),))
    plain = Conditioning(torch.zeros(2, 1, 1))
    together = Conditioning.concat([first, plain, second])
    assert together.references == ((latents[0],), (), (), (latents[1], latents[2]))
    assert together.select(torch.tensor([3, 1])).references == ((latents[1], latents[2]), ())
    assert first.expand(2).references == ((latents[0],), (latents[0],))
    assert first.to(torch.device("cpu")).references is not None
    assert Conditioning.concat([plain, plain]).references is None
