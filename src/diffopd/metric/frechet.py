"""Fréchet distance between a set of images and clean drawings; held out: measured, never trained on."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from diffopd.metric.kept import Kept, by_index
from diffopd.types import Prompts, Scores

_SIDE = 32
_CELLS = 8


class FrechetDistance(Metric):
    """Fréchet distance of Gaussian fits to :func:`picture_features` of images and of reference images.

    The features of every image are kept with its global number.

    Values compare only between runs with equal settings and equal numbers of images, as the estimate is
    biased upwards for few of them.

    Args:
        reference: Makes the reference images in [0, 1]; called once, at the first ``compute``.
        num_features: Length of the projected features; use many times more images than this.
        seed: Of the fixed random projection.
    """

    full_state_update = False
    higher_is_better = False

    indices: list[Tensor]
    features: list[Tensor]

    def __init__(self, *, reference: Callable[[], Tensor], num_features: int, seed: int) -> None:
        super().__init__()
        self.reference = reference
        self.num_features = num_features
        self.seed = seed
        self.add_state("indices", default=[], dist_reduce_fx="cat")
        self.add_state("features", default=[], dist_reduce_fx="cat")

    def keep(self, images: Tensor | Scores, prompts: Prompts | None = None) -> Kept:
        """The features of each image; prompts play no part.

        Raises:
            ValueError: If given scores, which say nothing of a distribution of images.
        """
        if isinstance(images, Scores):
            raise ValueError(
                "a Fréchet distance needs images, got scores; pass the decoded batch to this metric"
            )
        return Kept({"features": self._features(images).cpu()})

    def update(self, images: Tensor | Scores | Kept, prompts: Prompts | None = None) -> None:
        """Add a batch: images, or what was kept of them.

        Args:
            images: The batch.
            prompts: Number the images; None = as they come.

        Raises:
            ValueError: If given scores.
        """
        kept = images if isinstance(images, Kept) else self.keep(images)
        features = kept.rows["features"].to(self.device)
        first = sum(len(rows) for rows in self.features)
        indices = range(first, first + len(features)) if prompts is None else prompts.indices
        self.indices.append(torch.tensor(tuple(indices), device=self.device))
        self.features.append(features)

    def compute(self) -> dict[str, Tensor]:
        """``frechet_distance`` and ``num_images``.

        Images are taken in the order of their numbers, and a number seen twice counts once, so the order in
        which they came changes nothing, not by a bit.

        Raises:
            ValueError: If fewer than two images were added.
        """
        features = self._ordered()
        if len(features) < 2:
            raise ValueError(f"a Fréchet distance needs at least 2 images, got {len(features)}")
        reference_mean, reference_covariance = (x.to(features.device) for x in self._reference_moments)
        distance = frechet_distance(features.mean(0), features.T.cov(), reference_mean, reference_covariance)
        return {"frechet_distance": distance, "num_images": torch.tensor(float(len(features)))}

    def _ordered(self) -> Tensor:
        """Features of each distinct image, by number."""
        if len(self.features) == 0:
            return torch.zeros(0, self.num_features)
        return by_index(
            dim_zero_cat(cast(list[Tensor], self.indices)), dim_zero_cat(cast(list[Tensor], self.features))
        )[1]

    @cached_property
    def _reference_moments(self) -> tuple[Tensor, Tensor]:
        features = self._features(self.reference())
        return features.mean(0), features.T.cov()

    def _features(self, images: Tensor) -> Tensor:
        return picture_features(images.detach(), num_features=self.num_features, seed=self.seed)


def picture_features(
    images: Float[Tensor, " batch 3 height width"], *, num_features: int, seed: int
) -> Float[Tensor, " batch feature"]:
    """What a picture looks like in numbers, in float64: colors of 8 by 8 cells and their edges, projected.

    The picture is averaged to 32 by 32 pixels. Each of its 64 cells gives its mean RGB and the root mean
    squares of its horizontal and vertical differences (five numbers, 320 in all). A matrix of independent
    normal entries of variance ``1 / num_features``, drawn once from ``seed``, projects them.
    """
    picture = adaptive_avg_pool2d(images.double(), _SIDE)
    across, down = (picture - picture.roll(1, axis) for axis in (3, 2))
    across[..., 0], down[..., 0, :] = 0, 0  # no neighbor beyond the border
    edges = [adaptive_avg_pool2d(d.square().mean(1, keepdim=True), _CELLS).sqrt() for d in (across, down)]
    cells = torch.cat([adaptive_avg_pool2d(picture, _CELLS), *edges], 1).flatten(1)
    generator = torch.Generator().manual_seed(seed)
    projection = torch.randn(cells.shape[1], num_features, generator=generator, dtype=torch.float64)
    return cells @ projection.to(cells.device) / num_features**0.5


def frechet_distance(
    mean_a: Float[Tensor, " feature"],
    covariance_a: Float[Tensor, " feature feature"],
    mean_b: Float[Tensor, " feature"],
    covariance_b: Float[Tensor, " feature feature"],
) -> Float[Tensor, ""]:
    """``|mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``, the squared 2-Wasserstein distance.

    References:
        Dowson and Landau, "The Fréchet distance between multivariate normal distributions", 1982.

    Examples:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> frechet_distance(torch.zeros(2).double(), eye, torch.ones(2).double(), 4 * eye)
        tensor(4., dtype=torch.float64)
    """
    values, vectors = torch.linalg.eigh(covariance_a)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp_min(0).sqrt().sum()
    return (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross
