"""What scorers and detectors say of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.types.prompts import Prompts


@dataclass(frozen=True)
class Scores:
    """What a reward says of a batch of images.

    Attributes:
        value: The score to maximize, one per image.
        parts: Named components and diagnostics, one value per image each; one named ``<task>/<part>`` is NaN
            on the rows of other tasks.
        scale: What the numbers mean, e.g. ``"[0, 1], 1 = every clause holds"``.
    """

    value: Float[Tensor, " batch"]
    parts: Mapping[str, Float[Tensor, " batch"]]
    scale: str

    @staticmethod
    def concat(pieces: Sequence[Scores]) -> Scores:
        """All rows of ``pieces``, in order; a part that a piece lacks is NaN on its rows."""
        names = dict.fromkeys(name for piece in pieces for name in piece.parts)
        lacking = [torch.full_like(piece.value, torch.nan) for piece in pieces]
        parts = {
            name: torch.cat([p.parts.get(name, nan) for p, nan in zip(pieces, lacking, strict=True)])
            for name in names
        }
        # Pieces of a mixed batch may name other tasks.
        scales = dict.fromkeys(text for piece in pieces for text in piece.scale.split("; "))
        return Scores(torch.cat([piece.value for piece in pieces]), parts, "; ".join(scales))

    def select(self, rows: Sequence[int]) -> Scores:
        """The given rows, in the given order."""
        chosen = list(rows)
        parts = {name: values[chosen] for name, values in self.parts.items()}
        return Scores(self.value[chosen], parts, self.scale)


@runtime_checkable
class Reward(Protocol):
    """A scorer of images; :func:`diffopd.reward.checked.score_checked` is the one way to call it."""

    def __call__(
        self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts
    ) -> Scores | Float[Tensor, " batch"]:
        """Score images in [0, 1]: one value per image to maximize, alone or with all that ``Scores`` holds.

        Raises rather than guesses when a sample cannot be scored.
        """
        ...


@dataclass(frozen=True)
class KnownPair:
    """A good and a bad image; a scorer has to get them right before it is trusted.

    Attributes:
        better: In [0, 1].
        worse: In [0, 1]; its size may be another.
        prompt: What both are judged for; one row.
    """

    better: Float[Tensor, " 3 height width"]
    worse: Float[Tensor, " 3 other_height other_width"]
    prompt: Prompts

    @staticmethod
    def of(
        better: Tensor,
        worse: Tensor,
        text: str,
        task: str = "known_pair",
        metadata: Mapping[str, Any] | None = None,
    ) -> KnownPair:
        """A pair judged for ``text``."""
        return KnownPair(better, worse, Prompts((text,), (task,), (metadata or {},), (0,), (0,)))


@dataclass(frozen=True)
class Detection:
    """One object a detector saw in an image.

    Attributes:
        name: Its class.
        box: Left, top, right, bottom in pixels.
        confidence: In [0, 1].
        colour: Name of its colour.
    """

    name: str
    box: tuple[float, float, float, float]
    confidence: float
    colour: str


@runtime_checkable
class Detector(Protocol):
    """Finds objects in images."""

    def __call__(self, images: Float[Tensor, " batch 3 height width"]) -> Sequence[Sequence[Detection]]:
        """The objects in each image in [0, 1], in any order."""
        ...
