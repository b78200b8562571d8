"""What a metric keeps of each image, so that it can count images made elsewhere or before an interruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from diffopd.types import Prompts

IMAGES = "images"


@dataclass(frozen=True)
class Kept:
    """One row per image of a batch.

    Attributes:
        rows: Name -> values; which names there are is the metric's own affair.
    """

    rows: Mapping[str, Tensor]

    @staticmethod
    def concat(pieces: Sequence[Kept]) -> Kept:
        """All rows of ``pieces``, in order."""
        return Kept({name: torch.cat([piece.rows[name] for piece in pieces]) for name in pieces[0].rows})

    def select(self, rows: Sequence[int]) -> Kept:
        """The given rows, in the given order."""
        return Kept({name: values[list(rows)] for name, values in self.rows.items()})


def kept_of(metric: Metric, images: Tensor, prompts: Prompts) -> Kept:
    """What ``metric`` needs to count a batch later, without adding it.

    A metric takes part by a method ``keep(images, prompts) -> Kept`` and an ``update`` that takes a
    :class:`Kept` in place of images. Of any other metric the images themselves are kept.
    """
    method = getattr(metric, "keep", None)
    return Kept({IMAGES: images.detach().cpu()}) if method is None else method(images, prompts)


def add_kept(metric: Metric, kept: Kept, prompts: Prompts) -> None:
    """Add to ``metric`` what :func:`kept_of` gave."""
    given: Any = kept if hasattr(metric, "keep") else kept.rows[IMAGES]
    metric.update(given, prompts)


def by_index(indices: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Each distinct index once, in rising order, and the rows of ``columns`` where it is met first.

    Examples:
        >>> by_index(torch.tensor([2, 0, 2]), torch.tensor([5.0, 6.0, 7.0]))
        (tensor([0, 2]), tensor([6., 5.]))
    """
    distinct, row = indices.unique(return_inverse=True)
    first = torch.full_like(distinct, len(indices))
    first = first.scatter_reduce(0, row, torch.arange(len(indices), device=row.device), "amin")
    return distinct, *(column[first] for column in columns)
