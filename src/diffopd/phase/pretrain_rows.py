"""The samples of one step of pretraining: a caption, what is to be drawn, and what is shown beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.data.drawings import figure_drawing, shows_figure, to_image_tensor, training_drawing
from diffopd.world.figure_request import THE_SAME_PICTURE

_AT_ONCE = 512
_GOLDEN = (5**0.5 - 1) / 2
_NO_LATENTS = torch.empty(0, 0, 0, 0)


class Shown(Enum):
    """What the reference picture of a sample is; the values name metrics."""

    NOTHING = "text"
    ITSELF = "copy"
    SAME_FIGURE = "same_figure"


@dataclass(frozen=True)
class Row:
    """One sample.

    Attributes:
        text: Its caption.
        clean: Latent of what is to be drawn, ``(channels, height, width)``.
        reference: Latent of the reference picture, or None.
    """

    text: str
    clean: Tensor
    reference: Tensor | None


@dataclass(frozen=True)
class EncodedDrawings:
    """All drawings of a run as latents in half precision, on the CPU.

    Attributes:
        texts: A caption for each drawing.
        latents: The drawings.
        figures: Which of them show a random figure.
        again_texts: For each of these, the caption of its figure's second drawing.
        again: The second drawings.
    """

    texts: list[str]
    latents: Float[Tensor, " drawing channels height width"]
    figures: list[int]
    again_texts: list[str]
    again: Float[Tensor, " figure channels height width"]

    @classmethod
    def none(cls) -> EncodedDrawings:
        """No drawings yet."""
        return cls([], _NO_LATENTS, [], [], _NO_LATENTS)

    def row(self, index: int, kind: Shown) -> Row:
        """The sample that a drawing's index stands for; any index stands for some figure, too."""
        if kind is Shown.SAME_FIGURE:
            number = index % len(self.figures)
            reference = self.latents[self.figures[number]].float()
            return Row(self.again_texts[number], self.again[number].float(), reference)
        clean, text = self.latents[index].float(), self.texts[index]
        return Row(text, clean, None) if kind is Shown.NOTHING else Row(text + THE_SAME_PICTURE, clean, clean)


def shown(position: int, shares: Mapping[Shown, float]) -> Shown:
    """What a step's sample at one position is shown; in every step the same, so that shapes never change.

    Positions are spread by the golden ratio: of any number of neighbors, about its share gets each kind.
    """
    place = (0.5 + position * _GOLDEN) % 1
    for kind, share in shares.items():
        if place < share:
            return kind
        place -= share
    return Shown.NOTHING


def without_and_with_reference(rows: Sequence[Row]) -> list[list[int]]:
    """Numbers of the samples that go through a network together: without a reference, and with one."""
    groups = (
        [number for number, row in enumerate(rows) if (row.reference is not None) == with_reference]
        for with_reference in (False, True)
    )
    return [group for group in groups if group]


def stacked_references(rows: Sequence[Row]) -> Tensor | None:
    """The references of samples that all have one, ``(row, channels, height, width)``; None without."""
    found = [row.reference for row in rows if row.reference is not None]
    return torch.stack(found) if found else None


@torch.no_grad()
def encode_drawings(
    encode: Callable[[Tensor], Tensor],
    *,
    seed: int,
    number: int,
    sign_share: float,
    figure_share: float,
    side: int,
) -> EncodedDrawings:
    """Draw and encode all drawings of a run.

    Args:
        encode: Pictures in [-1, 1] to latents.
        seed: Of the drawings.
        number: How many.
        sign_share: Share of signs among those without a figure.
        figure_share: Share of figures among all.
        side: Side of a drawing in pixels.

    Raises:
        ValueError: If figures are asked for and none of these few drawings shows one.
    """
    figures = [index for index in range(number) if shows_figure(seed, index, figure_share)]
    if figure_share and not figures:
        raise ValueError(
            f"phase.num_drawings={number}: none of so few drawings shows a figure; use more, or "
            "phase.figure_share=1"
        )

    def first(index: int) -> tuple[np.ndarray, str]:
        drawing = training_drawing(seed, index, sign_share, side=side, figure_share=figure_share)
        return drawing.pixels, drawing.text

    def second(index: int) -> tuple[np.ndarray, str]:
        drawing = figure_drawing(seed, index, side=side, again=True)
        return drawing.pixels, drawing.text

    latents, texts = _encoded(encode, first, range(number))
    again, again_texts = _encoded(encode, second, figures) if figures else (latents[:0], [])
    return EncodedDrawings(texts, latents, figures, again_texts, again)


def _encoded(
    encode: Callable[[Tensor], Tensor],
    drawn: Callable[[int], tuple[np.ndarray, str]],
    indices: range | list[int],
) -> tuple[Tensor, list[str]]:
    chunks: list[Tensor] = []
    texts: list[str] = []
    for start in range(0, len(indices), _AT_ONCE):
        drawings = [drawn(index) for index in indices[start : start + _AT_ONCE]]
        texts += [text for _, text in drawings]
        pictures = to_image_tensor(np.stack([pixels for pixels, _ in drawings])) * 2 - 1
        chunks.append(encode(pictures).half().cpu())
    return torch.cat(chunks), texts
