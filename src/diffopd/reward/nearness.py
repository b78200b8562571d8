"""How near a picture is to the one that its caption was written for."""

from __future__ import annotations

import dataclasses
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from diffopd.files.picture import read_picture
from diffopd.types import Prompts, Scores


@runtime_checkable
class PictureDistance(Protocol):
    """A distance of pictures, 0 for equal ones.

    Attributes:
        description: What it is, in a few words.
    """

    description: str

    def __call__(
        self, images: Float[Tensor, " batch 3 height width"], pictures: Float[Tensor, " batch 3 height width"]
    ) -> Float[Tensor, " batch"]:
        """The distance of each image from the picture in its row, both in [0, 1]."""
        ...


class NearnessReward:
    """1 minus the distance of each image from its prompt's own picture; the part ``distance`` has that.

    Prompts need pictures: those of a folder of captioned pictures have them, in training (``data=pairs``) and
    as a benchmark's prompts. A picture is scaled to cover the image's size and cut around its center.

    Args:
        distance: How distances are measured.
    """

    why_no_pair = "its pictures are your own"

    def __init__(self, *, distance: PictureDistance) -> None:
        self.distance = distance

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image; no gradient."""
        height, width = images.shape[-2:]
        pictures = []
        for row, picture in enumerate(prompts.targets):
            if picture is None:
                self.check_prompt(prompts.select([row]))
                continue
            pictures.append(read_picture(dataclasses.replace(picture, height=height, width=width)))
        found = self.distance(images.float(), torch.stack(pictures).to(images.device))
        scale = f"1 minus the distance from the prompt's picture, {self.distance.description}"
        return Scores(1 - found, {"distance": found}, scale)

    def check_prompt(self, prompt: Prompts) -> None:
        """Raise for a prompt without a picture.

        Raises:
            ValueError: If it has none.
        """
        if prompt.targets[0] is None:
            raise ValueError(
                f"the prompt {prompt.texts[0]!r} has no picture to compare with; take the prompts from a "
                "folder of captioned pictures, as in benchmark.tasks.<task>.path=my_pictures or data=pairs"
            )


class ConcordanceDistance:
    """1 minus Lin's concordance correlation of two pictures in RGB, both averaged to a few pixels.

    ``mean (x - y)^2 / (s_x^2 + s_y^2 + (mean_x - mean_y)^2)``, with the variances and means of each channel,
    each term summed over channels (Lin, Biometrics 45, 1989, Eq. 2): the squared difference over what it
    would be if nothing in one picture had to do with the other. So 0 is the same picture, 1 an empty one, or
    one whose objects are elsewhere, 2 the negative; the same with half the contrast is at 0.2. A squared
    difference alone calls an empty ground near wherever a picture is mostly ground.

    Args:
        side: Pixels of each side after averaging.
    """

    def __init__(self, *, side: int) -> None:
        self.side = side
        self.description = f"1 minus the concordance of RGB at {side} by {side} pixels"

    def __call__(
        self, images: Float[Tensor, " batch 3 height width"], pictures: Float[Tensor, " batch 3 height width"]
    ) -> Float[Tensor, " batch"]:
        """The distance in [0, 2] of each image from the picture in its row."""
        x, y = (adaptive_avg_pool2d(batch, self.side).flatten(2) for batch in (images, pictures))
        difference = (x - y).square().mean(2).sum(1)
        unrelated = x.var(2, unbiased=False) + y.var(2, unbiased=False) + (x.mean(2) - y.mean(2)).square()
        return torch.where(difference == 0, 0.0, difference / unrelated.sum(1))
