"""A known shift and a known zoom are found again; what has no common layout is told by its agreement."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from diffopd.metric.placement import placement

SIDE = 16


def field(seed, channels=8, batch=3):
    """A random field three times as large as what is seen of it, smooth over a cell."""
    noise = torch.randn(
        batch * channels, 1, 3 * SIDE, 3 * SIDE, generator=torch.Generator().manual_seed(seed)
    )
    taps = torch.exp(-(torch.arange(-4, 5) ** 2) / 4.0)
    smooth = F.conv2d(
        F.conv2d(noise, taps.view(1, 1, -1, 1), padding="same"), taps.view(1, 1, 1, -1), padding="same"
    )
    return (smooth / smooth.std()).view(batch, channels, 3 * SIDE, 3 * SIDE)


def seen(whole, zoom=1.0, down=0.0, right=0.0):
    """The middle of a field, its content ``zoom`` times as large and moved by so many cells."""
    view = torch.tensor(
        [
            [1 / (3 * zoom), 0, -2 * right / (3 * SIDE * zoom)],
            [0, 1 / (3 * zoom), -2 * down / (3 * SIDE * zoom)],
        ]
    )
    size = [len(whole), whole.shape[1], SIDE, SIDE]
    grid = F.affine_grid(view.expand(len(whole), 2, 3), size, align_corners=False)
    return F.grid_sample(whole, grid, mode="bicubic", align_corners=False)


@pytest.mark.parametrize(
    ("zoom", "down", "right"),
    [(1.0, 0, 0), (1.0, 1, -2), (1.15, 0, 0), (0.87, 0, 0), (1.2, 1, 0), (0.9, -1, 0)],
)
def test_a_known_zoom_and_shift_are_found_in_noise(zoom, down, right):
    whole = field(1)
    moved = seen(whole, zoom, down, right)
    moved = moved + 0.5 * torch.randn(moved.shape, generator=torch.Generator().manual_seed(2))
    found = placement(3 * moved + 1, seen(whole))  # scale and offset do not matter
    assert (found.zoom.log() - math.log(zoom)).abs().max() < 0.025
    assert (found.shift - torch.tensor([down / SIDE, right / SIDE])).abs().max() < 0.015
    assert found.agreement.min() > 0.75


def test_a_picture_lies_where_it_is():
    target = seen(field(1))
    found = placement(target, target)
    assert (found.zoom == 1).all()
    assert found.shift.abs().max() < 1e-4
    torch.testing.assert_close(found.agreement, torch.ones(3))


def test_what_has_nothing_in_common_agrees_little():
    assert placement(seen(field(1)), seen(field(5))).agreement.max() < 0.4


def test_too_few_rows_are_an_error():
    with pytest.raises(ValueError, match="needs at least 12 rows and columns, got 8 x 16"):
        placement(torch.zeros(1, 1, 8, 16), torch.zeros(1, 1, 8, 16))
