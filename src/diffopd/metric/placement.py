"""How a layout lies against another one: moved by how much, enlarged by how much."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

LEAST_SIDE = 12
"""Fewest rows and columns in which a placement can be found."""
STEP, NUM_STEPS = 1.03, 10
"""Zooms that are tried: ``STEP`` to every whole power up to ``NUM_STEPS`` either way, .74 to 1.34."""
MOST_SHIFT = 0.25
"""Largest shift that is looked for, as a share of a side."""
LOW_PASS = 0.12
"""Standard deviation, in cycles per cell, of the frequencies that count in a phase correlation."""


@dataclass(frozen=True)
class Placement:
    """Where each found layout lies against its target.

    Attributes:
        zoom: How much larger what is found is drawn; 1 = as large as in the target.
        shift: How far it lies lower and further right, as shares of height and width.
        agreement: Correlation with the target placed so, in [-1, 1]. Where it is low the two have no layout
            in common, and zoom and shift mean nothing.
    """

    zoom: Float[Tensor, " batch"]
    shift: Float[Tensor, " batch 2"]
    agreement: Float[Tensor, " batch"]


def placement(
    found: Float[Tensor, " batch channel height width"], target: Float[Tensor, " batch channel height width"]
) -> Placement:
    """Find zoom and shift between pictures, or latents, of the same content.

    Each zoom of a small set is tried: the smaller content of the two is enlarged around the center, so that
    neither has a border of nothing. The largest normalized cross-correlation over all shifts chooses the
    zoom, refined by a parabola through its neighbors; the phase correlation at that zoom gives the shift,
    which is refined on what overlaps. Both are blurred by a cell before, as enlarging blurs, too, and noise
    would otherwise favor a zoom. Shifts up to a quarter of a side are found, zooms from 0.74 to 1.34.

    Args:
        found: Of any scale and offset per channel.
        target: The same, at least ``LEAST_SIDE`` rows and columns.

    Raises:
        ValueError: If there are too few rows or columns.

    References:
        Kuglin and Hines, "The phase correlation image alignment method", 1975; the search over zooms in place
        of the log-polar transform of Reddy and Chatterji, 1996, which needs more rows than latents have.
    """
    height, width = target.shape[-2:]
    if min(height, width) < LEAST_SIDE:
        raise ValueError(f"a placement needs at least {LEAST_SIDE} rows and columns, got {height} x {width}")
    a, b = _blurred(found.float()), _blurred(target.float())
    powers = range(-NUM_STEPS, NUM_STEPS + 1)
    heights = torch.stack([_peak(_correlation(*_enlarged(a, b, STEP**power)))[1] for power in powers], 1)
    best = heights.argmax(1)
    zooms = STEP ** (best - NUM_STEPS + _between(heights, best)).double()
    shifts = [
        _shift(*_enlarged(a[row : row + 1], b[row : row + 1], STEP ** int(place - NUM_STEPS)))
        * min(1.0, STEP ** int(place - NUM_STEPS))  # where the found one was enlarged, its cells are smaller
        for row, place in enumerate(best.tolist())
    ]
    sides = torch.tensor([height, width])
    return Placement(zooms.float(), torch.stack(shifts).float() / sides, heights.amax(1))


def _enlarged(a: Tensor, b: Tensor, zoom: float) -> tuple[Tensor, Tensor]:
    """Both with their content of one size, if ``a`` shows it ``zoom`` times as large as ``b``."""
    return (a, _magnified(b, zoom)) if zoom >= 1 else (_magnified(a, 1 / zoom), b)


def _magnified(x: Tensor, zoom: float) -> Tensor:
    """The middle of each, ``zoom`` times as large."""
    if zoom == 1:
        return x
    view = torch.tensor([[1 / zoom, 0.0, 0.0], [0.0, 1 / zoom, 0.0]]).expand(len(x), 2, 3)
    grid = F.affine_grid(view, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _blurred(x: Tensor) -> Tensor:
    """A binomial blur with a standard deviation of one cell."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    rows = F.pad(x.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="reflect")
    return F.conv2d(F.conv2d(rows, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1)).view_as(x)


def _windowed(x: Tensor) -> Tensor:
    """Without its mean and faded out towards the border, whose two sides a Fourier transform joins."""
    fade = _fade(x.shape[-2])[:, None] * _fade(x.shape[-1])
    mean = (x * fade).sum((-2, -1), keepdim=True) / fade.sum()
    return (x - mean) * fade


def _fade(size: int) -> Tensor:
    """A Tukey window over half of the cells."""
    edge = (torch.arange(size) + 0.5) / size
    edge = torch.minimum(edge, 1 - edge) * 4
    return torch.where(edge < 1, 0.5 - 0.5 * torch.cos(math.pi * edge), torch.ones(size))


def _spectrum(a: Tensor, b: Tensor) -> Tensor:
    """Cross-power spectrum, summed over channels."""
    return (torch.fft.fft2(a) * torch.fft.fft2(b).conj()).sum(1)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Normalized cross-correlation at every shift of ``a`` against ``b``."""
    a, b = _windowed(a), _windowed(b)
    norms = a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1)
    return torch.fft.ifft2(_spectrum(a, b)).real / norms.clamp_min(1e-12)[:, None, None]


def _phase_correlation(a: Tensor, b: Tensor) -> Tensor:
    """The same with all frequencies of one weight, of which the low ones are kept."""
    cross = _spectrum(_windowed(a), _windowed(b))
    down, right = (torch.fft.fftfreq(side) for side in a.shape[-2:])
    low = torch.exp(-(down[:, None].square() + right.square()) / (2 * LOW_PASS**2))
    return torch.fft.ifft2(cross / cross.abs().clamp_min(1e-12) * low).real


def _shift(a: Tensor, b: Tensor) -> Tensor:
    """How many cells the single ``a`` lies lower and further right than ``b``."""
    shift = _peak(_phase_correlation(a, b))[0][0]
    for _ in range(2):
        whole = shift.round()
        cut = _overlap(a, b, *(int(cells) for cells in whole))
        shift = whole + _peak(_phase_correlation(*cut), most=0.1)[0][0]
    return shift


def _overlap(a: Tensor, b: Tensor, down: int, right: int) -> tuple[Tensor, Tensor]:
    """What both show if ``a`` lies so much lower and further right."""
    height, width = a.shape[-2:]
    cut_a = a[..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
    cut_b = b[..., max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)]
    return cut_a, cut_b


def _peak(surface: Tensor, most: float = MOST_SHIFT) -> tuple[Tensor, Tensor]:
    """Place (batch, 2) of the largest value near each surface's corner, between cells; and that value."""
    height, width = surface.shape[-2:]
    down, right = int(height * most), int(width * most)
    near = torch.roll(surface, (down, right), (-2, -1))[:, : 2 * down + 1, : 2 * right + 1]
    value, index = near.flatten(1).max(1)
    y, x = index // (2 * right + 1) - down, index % (2 * right + 1) - right
    row = torch.arange(len(surface))

    def at(i: Tensor, j: Tensor) -> Tensor:
        return surface[row, i % height, j % width]

    place = [
        y + _vertex(at(y - 1, x), value, at(y + 1, x)),
        x + _vertex(at(y, x - 1), value, at(y, x + 1)),
    ]
    return torch.stack(place, 1), value


def _between(heights: Tensor, best: Tensor) -> Tensor:
    """How far the top lies from the best column, between -1/2 and 1/2; 0 at the ends."""
    row, inner = torch.arange(len(heights)), best.clamp(1, heights.shape[1] - 2)
    vertex = _vertex(heights[row, inner - 1], heights[row, inner], heights[row, inner + 1])
    return torch.where(inner == best, vertex, torch.zeros_like(vertex))


def _vertex(before: Tensor, top: Tensor, after: Tensor) -> Tensor:
    """Top of the parabola through three neighbors, seen from the middle one."""
    bend = before - 2 * top + after
    place = 0.5 * (before - after) / torch.where(bend < -1e-12, bend, torch.ones_like(bend))
    return torch.where(bend < -1e-12, place, torch.zeros_like(place)).clamp(-0.5, 0.5)
