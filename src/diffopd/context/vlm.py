"""The target as a vision-language model sees it, beside the row's own text."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, final

from diffopd.context.base import Context, targets_of
from diffopd.types import Picture, Prompts


@final
class Vlm(Context):
    """The teacher's prompt is encoded by a vision-language model that sees the target.

    The picture keeps its shape, and its number of pixels is brought between two limits.

    References:
        "D-OPSD", 2026, arXiv:2605.05204, and its released trainer for Z-Image-Turbo.
    """

    shows_target: ClassVar[bool] = True

    def __init__(self, *, least_pixels: int, most_pixels: int, multiple: int) -> None:
        """Keep the limits.

        Args:
            least_pixels: Fewest pixels of a picture that is shown.
            most_pixels: Most.
            multiple: What its height and width are multiples of, in pixels: the side of what becomes a token.

        Raises:
            ValueError: If no size lies between the limits.
        """
        if not multiple**2 <= least_pixels <= most_pixels:
            raise ValueError(
                f"context.least_pixels={least_pixels} must be at least context.multiple squared, "
                f"{multiple**2}, and at most context.most_pixels={most_pixels}"
            )
        self.least_pixels, self.most_pixels, self.multiple = least_pixels, most_pixels, multiple

    def __call__(self, prompts: Prompts) -> Prompts:
        """The row's own text, and the target as the only picture.

        Raises:
            ValueError: If a row has no target.
        """
        shown = [(self._sized(target),) for target in targets_of(prompts, "vlm")]
        return prompts.with_references(shown)

    def _sized(self, picture: Picture) -> Picture:
        """The picture within the limits, in multiples."""
        pixels = picture.height * picture.width
        scale = math.sqrt(min(max(pixels, self.least_pixels), self.most_pixels) / pixels)
        # Up where there are too few pixels, else down, so that rounding does not leave the limits.
        round_side = math.ceil if pixels < self.least_pixels else math.floor
        height, width = (
            max(1, round_side(round(side * scale / self.multiple, 6))) * self.multiple
            for side in (picture.height, picture.width)
        )
        return replace(picture, height=height, width=width)
