"""Do samples of other prompts have the layout of the training pictures?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffopd.metric.interval import Interval, paired_difference_interval

SIDE = 16
"""Rows and columns of a layout: what is where, no details."""


def layouts(
    images: Float[Tensor, " batch 3 height width"],
) -> Float[Tensor, " batch entry"]:
    """What is where in pictures: their colors on a coarse grid, without each channel's mean, of norm 1.

    The dot product of two layouts is a correlation. A picture of one color has none: its entries are 0.
    """
    coarse = F.adaptive_avg_pool2d(images.float(), SIDE)
    centered = (coarse - coarse.mean((2, 3), keepdim=True)).flatten(1)
    norms = centered.norm(dim=1, keepdim=True)
    return torch.where(norms > 1e-4, centered / norms.clamp_min(1e-4), torch.zeros_like(centered))


def nearest_layout(
    images: Float[Tensor, " batch 3 height width"], pictures: Float[Tensor, " picture 3 high wide"]
) -> Float[Tensor, " batch"]:
    """Correlation of each image's layout with the most similar one of some pictures, in [-1, 1]."""
    return (layouts(images) @ layouts(pictures).T).amax(1)


def nearest_distance(
    latents: Float[Tensor, " batch *latent"], others: Float[Tensor, " picture *latent"]
) -> Float[Tensor, " batch"]:
    """Mean squared difference of each latent from the nearest one of some others."""
    a, b = latents.float().flatten(1), others.float().flatten(1)
    return torch.stack([(b - row).square().mean(1).amin() for row in a])


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Samples of prompts that ask for something else, compared with the training pictures.

    The base model's samples from the same noise say how similar they would be anyway.

    Attributes:
        prompts: What was asked for.
        layout: Per prompt, correlation with the nearest layout: the trained model's samples, and the base's.
        latent: Per prompt, squared distance from the nearest latent: of both.
        num_draws: Samples of each prompt.
        least_rise: Rise of the correlation from which on there is a leak.
        least_approach: Share of the base's distance by which samples have to come nearer for prompts to be
            forgotten.
    """

    prompts: Sequence[str]
    layout: tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]
    latent: tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]
    num_draws: int
    least_rise: float
    least_approach: float

    @property
    def rise(self) -> Interval:
        """How much more alike in layout than the base's samples, with the 95 % interval over prompts."""
        return paired_difference_interval(*self.layout)

    @property
    def leaks(self) -> bool:
        """Whether that is much, and not by chance."""
        rise = self.rise
        return rise.mean >= self.least_rise and (rise.low is None or rise.low > 0)

    @property
    def approach(self) -> Interval:
        """How much nearer to a picture than the base's samples, as a share of the base's mean distance."""
        trained, base = self.latent
        return paired_difference_interval(base / base.mean(), trained / base.mean())

    @property
    def forgets(self) -> bool:
        """Whether that is much, and not by chance: other prompts show the pictures, or hardly anything."""
        approach = self.approach
        return approach.mean >= self.least_approach and (approach.low is None or approach.low > 0)

    @property
    def summary(self) -> str:
        """The numbers in a sentence."""
        rise, (layout, base), (latent, base_latent) = self.rise, self.layout, self.latent
        bounds = "" if rise.low is None else f", 95 % CI {rise.low:+.3f} to {rise.high:+.3f}"
        return (
            f"samples of {len(self.prompts)} other prompts have a layout correlation of {layout.mean():.3f} "
            f"with the nearest training picture, the base model's from the same noise {base.mean():.3f} "
            f"({rise.mean:+.3f}{bounds}); squared distance from its latent {latent.mean():.3g}, base "
            f"{base_latent.mean():.3g}"
        )

    @property
    def problems(self) -> Iterator[str]:
        """A leak, with what to do."""
        if self.leaks:
            yield (
                f"the teacher leaks the layout of its pictures into other prompts: {self.summary}. Look at "
                "the last row of samples/; train for fewer rounds (an earlier checkpoint), with more "
                "pictures or captions that name their backgrounds, or with a sentence that asks for the "
                "subject alone (context.template=...)"
            )
        if self.forgets:
            yield (
                "other prompts are forgotten: their samples are "
                f"{self.approach.mean:.0%} nearer to the training pictures than the base model's, as those "
                f"pictures are, or empty: {self.summary}. Look at the last row of samples/. "
                "+experiment=dopsd_keep keeps other prompts; or train for fewer rounds"
            )

    def to_json(self) -> dict[str, Any]:
        """All numbers, to be kept with a run."""
        rise, approach = self.rise, self.approach
        return {
            "leaks": self.leaks,
            "rise": {"mean": rise.mean, "low": rise.low, "high": rise.high},
            "least_rise": self.least_rise,
            "forgets": self.forgets,
            "approach": {"mean": approach.mean, "low": approach.low, "high": approach.high},
            "least_approach": self.least_approach,
            "num_draws": self.num_draws,
            "prompts": [
                {
                    "prompt": prompt,
                    "layout": {"trained": float(layout), "base": float(base)},
                    "latent": {"trained": float(latent), "base": float(base_latent)},
                }
                for prompt, layout, base, latent, base_latent in zip(
                    self.prompts, *self.layout, *self.latent, strict=True
                )
            ],
        }
