"""Is the figure that a prompt names in the picture, where, as large and in the colors that it asks for?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.types import KnownPair, Prompts, Scores
from diffopd.world.colours import COLOURS
from diffopd.world.draw import draw
from diffopd.world.figure_request import POSITIONS, SIZES, FigureRequest, figure_caption, figure_scene
from diffopd.world.figures import NUM_FIGURES
from diffopd.world.find_figure import AskedFigure, find_figure
from diffopd.world.scene import IMAGE_SIZE

SCALE = "[0, 1], 1 = the asked figure alone, at its place, in its size and colors"


class FigureMatchReward:
    """Overlap of a picture with the masks of the figure that its prompt's line describes.

    ``parts`` has the ``overlap`` itself, and ``anywhere``, the score without place and size.

    Args:
        max_residual: Largest distance of a pixel from any mixture of background and a color, in 8-bit units.
        background_chroma: Pixels below this difference of largest and smallest channel tell the background.
        certain_overlap: Overlap from which the score is 1.
        least_overlap: Overlap at which it is 0.
    """

    def __init__(
        self, *, max_residual: float, background_chroma: float, certain_overlap: float, least_overlap: float
    ) -> None:
        if not least_overlap < certain_overlap:
            raise ValueError(
                f"reward.least_overlap={least_overlap} must be below reward.certain_overlap={certain_overlap}"
            )
        self.max_residual = max_residual
        self.background_chroma = background_chroma
        self.certain_overlap = certain_overlap
        self.least_overlap = least_overlap

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against the figure of its prompt's metadata."""
        pixels = (images.detach().float().cpu().clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
        found = [
            find_figure(
                image,
                asked_figure(line),
                max_residual=self.max_residual,
                background_chroma=self.background_chroma,
            )
            for image, line in zip(pixels, prompts.metadata, strict=True)
        ]
        overlap = torch.tensor([one.asked for one in found], device=images.device)
        anywhere = torch.tensor([one.anywhere for one in found], device=images.device)
        return Scores(self._score(overlap), {"overlap": overlap, "anywhere": self._score(anywhere)}, SCALE)

    def check_prompt(self, prompt: Prompts) -> None:
        """Raise for a prompt whose line describes no figure.

        Raises:
            ValueError: If it does not.
        """
        asked_figure(prompt.metadata[0])

    def known_pair_of(self, side: int) -> KnownPair:
        """The asked figure, and another one in its place."""
        request = FigureRequest("figure", ("red", "blue"), "large", "in the middle", "snow")
        better, worse = (
            draw(
                figure_scene(request, np.random.default_rng(0), index=index),
                IMAGE_SIZE * (1 + (side > IMAGE_SIZE)),
            )
            for index in (8, 16)
        )
        line = {"figure": 8, "colours": ["red", "blue"], "size": "large", "position": "in the middle"}
        return KnownPair.of(_image(better), _image(worse), figure_caption(request), metadata=line)

    def known_pair(self) -> KnownPair:
        """The same, as small as drawings are."""
        return self.known_pair_of(IMAGE_SIZE)

    def _score(self, overlap: Tensor) -> Tensor:
        return ((overlap - self.least_overlap) / (self.certain_overlap - self.least_overlap)).clamp(0, 1)


def asked_figure(line: Mapping[str, Any]) -> AskedFigure:
    """The figure that a line of ``diffopd.world.learning_tasks`` describes.

    Raises:
        ValueError: If it describes none.
    """
    index, colours = line.get("figure"), line.get("colours")
    size, position = line.get("size"), line.get("position")
    pair = colours is None or (len(colours) == 2 and set(colours) <= set(COLOURS))
    if type(index) is not int or not 0 <= index < NUM_FIGURES or not pair:
        raise ValueError(
            "a prompt for a figure needs the keys 'figure', its number, and 'colours', two of "
            f"{', '.join(COLOURS)} or null; it has {dict(line)}. `python -m diffopd.world.learning_tasks "
            "figure <folder>` writes such prompts to test.jsonl"
        )
    if size not in (None, *SIZES) or position not in (None, *POSITIONS):
        raise ValueError(
            f"a figure's 'size' must be one of {', '.join(SIZES)} or null, and its 'position' one of "
            f"{', '.join(POSITIONS)} or null; got {size!r} and {position!r}"
        )
    return AskedFigure(index, None if colours is None else (colours[0], colours[1]), size, position)


def _image(pixels: np.ndarray) -> Float[Tensor, " 3 height width"]:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
