"""Finds the drawn world's shapes in images: color segmentation, then matching against the drawer's masks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from diffopd.types import Detection, KnownPair
from diffopd.world.colours import COLOURS
from diffopd.world.known_pairs import right_and_wrong_shapes
from diffopd.world.shapes import SHAPES, shape_mask

_PALETTE = np.array(list(COLOURS.values()), np.float32)
_NAMES = tuple(COLOURS)
_SHIFTS = (-1, 0, 1)


class ShapeDetector:
    """Shapes of the palette's colors on muted backgrounds, tolerant of slightly blurred images.

    A pixel is seen as a mixture of its row's background with one palette color; connected pixels of which
    that color makes up the larger part are an object. Its shape, size and place are those of the best of the
    drawer's own masks, by soft Dice overlap.

    Args:
        max_residual: Largest distance of a pixel from any mixture, in 8-bit units; larger forgives more
            color error.
        background_chroma: Pixels below this difference of largest and smallest channel, in 8-bit units, tell
            the background.
        min_pixels: Components with fewer pixels are specks.
        certain_overlap: Overlap with the best mask from which confidence is 1.
        least_overlap: Overlap at which confidence is 0.

    Attributes:
        classes: What it finds.
        colour_names: What it calls the colors.
    """

    classes: ClassVar[frozenset[str]] = frozenset(SHAPES)
    colour_names: ClassVar[frozenset[str]] = frozenset(COLOURS)

    def __init__(
        self,
        *,
        max_residual: float,
        background_chroma: float,
        min_pixels: int,
        certain_overlap: float,
        least_overlap: float,
    ) -> None:
        self.max_residual = max_residual
        self.background_chroma = background_chroma
        self.min_pixels = min_pixels
        self.certain_overlap = certain_overlap
        self.least_overlap = least_overlap

    def __call__(self, images: Float[Tensor, " batch 3 height width"]) -> list[list[Detection]]:
        """The shapes in each image in [0, 1]."""
        pixels = (images.detach().float().cpu().clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
        return [self.detect(image) for image in pixels]

    def known_pair(self) -> KnownPair:
        """The asked shapes, and others."""
        return right_and_wrong_shapes()

    def detect(self, image: NDArray[np.number]) -> list[Detection]:
        """The shapes in one image of shape (height, width, 3), 8-bit units."""
        coverage, colour = colour_shares(
            image, max_residual=self.max_residual, background_chroma=self.background_chroma
        )
        found = []
        for c in np.unique(colour[colour >= 0]):
            labels = np.empty(colour.shape, np.int32)
            ndimage.label(colour == c, output=labels)
            for number, corner in enumerate(ndimage.find_objects(labels), start=1):
                component = labels[corner] == number
                if component.sum() >= self.min_pixels:
                    found.append(self._classify(coverage[c], labels == number, corner, colour, int(c)))
        return found

    def _classify(
        self,
        coverage: NDArray[np.float32],
        component: NDArray[np.bool_],
        corner: Sequence[slice],
        colour: NDArray[np.intp],
        c: int,
    ) -> Detection:
        rows, columns = corner
        side = max(rows.stop - rows.start, columns.stop - columns.start)
        # The antialiased rim belongs to the object, other objects do not.
        near = ndimage.binary_dilation(component).astype(bool) & (component | (colour < 0))
        soft = np.where(near, coverage, 0)
        best = (-1.0, "", 0.0, 0.0, 0)
        for size in range(max(side - 1, 3), side + 3):
            top = round((rows.start + rows.stop - size) / 2)
            left = round((columns.start + columns.stop - size) / 2)
            overlap = _overlap(soft, top, left, size)
            shape, shift = np.unravel_index(overlap.argmax(), overlap.shape)
            if overlap.max() > best[0]:
                down, right = divmod(int(shift), len(_SHIFTS))
                best = (float(overlap.max()), SHAPES[shape], left + _SHIFTS[right], top + _SHIFTS[down], size)
        overlap, name, left, top, size = best
        confidence = (overlap - self.least_overlap) / (self.certain_overlap - self.least_overlap)
        box = (float(left), float(top), float(left + size), float(top + size))
        return Detection(name, box, min(max(confidence, 0.0), 1.0), _NAMES[c])


def colour_shares(
    image: NDArray[np.number], *, max_residual: float, background_chroma: float
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Share of each palette color in each pixel, and the leading color.

    A pixel is seen as a mixture of its row's background with one color.

    Args:
        image: Shape (height, width, 3), 8-bit units.
        max_residual: Largest distance of a pixel from any mixture, in 8-bit units.
        background_chroma: Pixels below this difference of largest and smallest channel tell the background.

    Returns:
        Shares in [0, 1] of shape (color, height, width), and the number of the color that is more than
        half of a pixel, or -1.
    """
    pixels = image.astype(np.float32)
    background = _row_background(pixels, background_chroma)[:, None, None]
    towards = _PALETTE - background  # height, 1, color, 3
    offset = pixels[:, :, None] - background
    share = ((offset * towards).sum(-1) / (towards**2).sum(-1)).clip(0, 1)
    residual = np.linalg.norm(offset - share[..., None] * towards, axis=-1)
    share[residual > max_residual] = 0
    candidate = np.where(share > 0.5, residual, np.inf)
    leading = np.where(np.isfinite(candidate.min(-1)), candidate.argmin(-1), -1)
    return share.transpose(2, 0, 1), leading


def _row_background(image: NDArray[np.float32], max_chroma: float) -> NDArray[np.float32]:
    """Median muted color of each row, of shape (height, 3); of the whole image where a row has too few."""
    muted = np.ptp(image, axis=-1) < max_chroma
    whole = np.median(image[muted] if muted.any() else image.reshape(-1, 3), axis=0)
    masked = np.where(muted[..., None], image, np.nan)
    enough = muted.sum(1) >= 4
    background = np.repeat(whole[None], image.shape[0], axis=0)
    if enough.any():
        background[enough] = np.nanmedian(masked[enough], axis=1)
    return background.astype(np.float32)


@cache
def _masks(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """All shapes' masks of one size, (shape, size * size), and their sums of squares."""
    masks = np.stack([shape_mask(name, size).ravel() for name in SHAPES])
    return masks, (masks**2).sum(1)


def _overlap(soft: NDArray[np.float32], top: int, left: int, size: int) -> NDArray[np.float32]:
    """Soft Dice overlap of a component with each shape (rows) at each of the nine shifts (columns)."""
    pad = size + 2
    padded = np.pad(soft, pad)
    patches = np.stack(
        [
            padded[
                pad + top + down : pad + top + down + size, pad + left + right : pad + left + right + size
            ].ravel()
            for down in _SHIFTS
            for right in _SHIFTS
        ]
    )
    masks, squares = _masks(size)
    return 2 * masks @ patches.T / (squares[:, None] + (soft**2).sum())
