"""Samples of pretraining: which is shown what, and what its caption says."""

import pytest
import torch

from diffopd.phase.pretrain_rows import Shown, encode_drawings, shown
from diffopd.world.figure_request import THE_SAME_PICTURE

THIRDS = {Shown.ITSELF: 1 / 3, Shown.SAME_FIGURE: 1 / 3}


@pytest.fixture(scope="module")
def drawings():
    return encode_drawings(
        lambda pictures: pictures.mean(1, keepdim=True),
        seed=0,
        number=20,
        sign_share=0.2,
        figure_share=0.5,
        side=32,
    )


@pytest.mark.parametrize("number", [6, 32, 48])
def test_each_kind_has_its_share_of_a_step(number):
    kinds = [shown(position, THIRDS) for position in range(number)]
    for kind in Shown:
        assert abs(kinds.count(kind) - number / 3) <= 1.5


def test_without_shares_nothing_is_shown():
    assert {shown(position, {Shown.ITSELF: 0.0, Shown.SAME_FIGURE: 0.0}) for position in range(50)} == {
        Shown.NOTHING
    }


def test_a_sample_with_itself_as_reference(drawings):
    alone, copied = (drawings.row(3, kind) for kind in (Shown.NOTHING, Shown.ITSELF))
    assert alone.reference is None
    assert torch.equal(copied.clean, alone.clean)
    assert torch.equal(copied.reference, copied.clean)
    assert copied.text == alone.text + THE_SAME_PICTURE


def test_a_sample_with_its_figure_elsewhere(drawings):
    number = len(drawings.figures)
    assert 4 <= number <= 16
    for index in (0, number + 1):
        row = drawings.row(index, Shown.SAME_FIGURE)
        assert torch.equal(row.reference, drawings.latents[drawings.figures[index % number]].float())
        assert not torch.equal(row.clean, row.reference)
        assert "the same" in row.text


def test_figures_that_no_drawing_shows_are_an_error():
    with pytest.raises(ValueError, match="none of so few drawings shows a figure"):
        encode_drawings(lambda x: x, seed=0, number=1, sign_share=0.0, figure_share=0.001, side=32)
