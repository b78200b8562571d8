"""How far a drawing shows what its prompt asks for: things in their shapes and colors, letters on a sign."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d
from torch.nn.functional import pad as pad_sides

from diffopd.types import KnownPair, Prompts, Scores
from diffopd.world.colours import COLOURS, SIGN_COLOURS
from diffopd.world.draw import SIDES, SIGN_HEIGHT, SIGN_TOP, write
from diffopd.world.glyphs import NUM_SLOTS, SLOT_WIDTH
from diffopd.world.known_pairs import right_and_wrong_shapes
from diffopd.world.request import Request, parse
from diffopd.world.scene import IMAGE_SIZE
from diffopd.world.shapes import SHAPES, shape_mask

_NAMES = tuple(COLOURS)
_SIZES = range(7, 20)
"""Sides of the shapes that are looked for, in units of the scene; drawings have 8 to 18."""
_MARGIN = 2
"""Units around a shape that must not have its color."""


class AlignmentReward:
    """The mean likeness of what was asked to what the picture shows, as a bag of words hears a prompt.

    It knows nothing of relations and surplus things, so it is no substitute for composition; it is smooth and
    hears the prompt, which an aesthetic reward alone does not.

    Args:
        colour_width: Distance in RGB units of [0, 1] at which a pixel counts ``exp(-1/2)`` as a color.
    """

    def __init__(self, *, colour_width: float) -> None:
        self.colour_width = colour_width

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt."""
        requests = [parse(text) for text in prompts.texts]
        value = alignment(images.float(), requests, colour_width=self.colour_width)
        return Scores(value, {}, "[0, 1], 1 = all that was asked, in its shape and colour")

    def check_prompt(self, prompt: Prompts) -> None:
        """Refuse a prompt of another world.

        Raises:
            ValueError: If it is none of the drawn world's.
        """
        parse(prompt.texts[0])

    def known_pair(self) -> KnownPair:
        """The asked shapes, and others."""
        return right_and_wrong_shapes()


def alignment(
    images: Float[Tensor, " batch 3 height width"], requests: Sequence[Request], *, colour_width: float
) -> Float[Tensor, " batch"]:
    """Likeness of each picture to what was asked of it, in [0, 1]; differentiable almost everywhere.

    Seen at ``IMAGE_SIZE`` pixels. For a thing: the square of the largest correlation, over sizes and places,
    of the drawer's mask with the map of its color, ``exp(-|pixel - color|^2 / (2 colour_width^2))``; what was
    found is taken away before the next is looked for, and the mean is over all things asked. For a sign: the
    mean over its places of letters, empty ones too, of (likeness to the ink where there is ink) times (to the
    board where there is none), with the best of the world's pairs of colors.
    """
    seen = adaptive_avg_pool2d(images, IMAGE_SIZE)
    values = seen.new_zeros(len(images))
    signs = [row for row, request in enumerate(requests) if request.form == "sign"]
    if signs:
        words = [requests[row].word or "" for row in signs]
        values = values.index_put((_index(signs, seen),), _sign(seen[signs], words, colour_width))
    others = [row for row, request in enumerate(requests) if request.form != "sign"]
    if others:
        things = [_things(requests[row]) for row in others]
        values = values.index_put((_index(others, seen),), _shown(seen[others], things, colour_width))
    return values


def _index(rows: list[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, device=like.device)


def _things(request: Request) -> list[tuple[int, int | None]]:
    """Shape and color, by their numbers, of each thing that was asked for."""
    pairs = zip(request.shapes, request.colours, strict=True)
    return [
        (SHAPES.index(shape), None if colour is None else _NAMES.index(colour)) for shape, colour in pairs
    ] * request.count


def _shown(seen: Tensor, things: list[list[tuple[int, int | None]]], colour_width: float) -> Tensor:
    palette = seen.new_tensor(list(COLOURS.values())) / 255
    maps = _likeness(
        seen[:, None], palette[None, :, :, None, None], colour_width
    )  # row, color, height, width
    any_colour = 1 - (1 - maps).prod(1, keepdim=True)
    maps = torch.cat([maps, any_colour], 1)
    total = seen.new_zeros(len(seen))
    for turn in range(max(map(len, things))):
        rows = [row for row, asked in enumerate(things) if turn < len(asked)]
        shape = _index([things[row][turn][0] for row in rows], seen)
        asked = [things[row][turn][1] for row in rows]
        colour = _index([len(palette) if number is None else number for number in asked], seen)
        at = _index(rows, seen)
        value, found = _best_match(maps[at, colour], shape)
        total = total.index_add(0, at, value)
        maps = maps.index_put((at,), maps[at] * (1 - found[:, None]))
    return total / total.new_tensor([len(asked) for asked in things])


def _likeness(pixels: Tensor, colour: Tensor, width: float) -> Tensor:
    return torch.exp(-(pixels - colour).square().sum(-3) / (2 * width**2))


def _best_match(maps: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Squared correlation with the asked shape's best place and size, and the cells it covers."""
    rows = torch.arange(len(maps), device=maps.device)
    scores, corners = [], []
    for size in _SIZES:
        kernel = _kernels(size)[1].to(maps)[shape]
        side, pad = kernel.shape[-1], size // 2 + _MARGIN
        padded = pad_sides(maps, (pad,) * 4)
        product = conv2d(padded[None], kernel[:, None], groups=len(maps))[0]  # each row with its own shape
        mean, mean_square = _moving_mean(padded, side), _moving_mean(padded.square(), side)
        spread = (mean_square - mean.square()).clamp_min(0)
        norm = kernel.square().sum((1, 2))[:, None, None]
        # The floor keeps faint specks from correlating with anything.
        score = (product / (side * ((spread + 0.02) * norm).sqrt())).clamp_min(0).flatten(1)
        best, place = score.max(1)
        scores.append(best)
        across = product.shape[-1]
        corners.append(torch.stack([place // across, place % across], 1))
    value, number = torch.stack(scores, 1).max(1)
    corner = torch.stack(corners, 1)[rows, number]
    return value.square(), _covered(maps, shape.tolist(), number.tolist(), corner.tolist())


def _moving_mean(maps: Tensor, side: int) -> Tensor:
    """Means over every square of ``side`` cells, first down and then across."""
    return avg_pool2d(avg_pool2d(maps[:, None], (side, 1), 1), (1, side), 1)[:, 0]


def _covered(maps: Tensor, shapes: list[int], numbers: list[int], corners: list[list[int]]) -> Tensor:
    """Each row's mask, of its size in ``_SIZES``, at the place where it was found, in the picture's frame."""
    covered = torch.zeros_like(maps)
    for row, (shape, number, (top, left)) in enumerate(zip(shapes, numbers, corners, strict=True)):
        size = _SIZES[number]
        pad = size // 2 + _MARGIN
        frame = maps.new_zeros(IMAGE_SIZE + 2 * pad, IMAGE_SIZE + 2 * pad)
        y, x = top + _MARGIN, left + _MARGIN
        frame[y : y + size, x : x + size] = _kernels(size)[0][shape]
        covered[row] = frame[pad : pad + IMAGE_SIZE, pad : pad + IMAGE_SIZE]
    return covered


@cache
def _kernels(size: int) -> tuple[Tensor, Tensor]:
    """All shapes' masks of one size, and the same with a margin and mean 0."""
    masks = torch.from_numpy(np.stack([shape_mask(name, size) for name in SHAPES]))
    framed = pad_sides(masks, (_MARGIN,) * 4)
    return masks, framed - framed.mean((1, 2), keepdim=True)


def _sign(seen: Tensor, words: list[str], colour_width: float) -> Tensor:
    """Likeness of each picture to a sign with its word, with the best pair of colors."""
    board = seen[:, :, SIGN_TOP + 1 : SIGN_TOP + SIGN_HEIGHT - 1]
    share = torch.from_numpy(np.stack([_ink(word) for word in words])).to(seen.device)
    ink, plain_cells = share == 1, share == 0  # between them lie corners, which differ with detail
    letters, boards = _slots(ink.float()), _slots(plain_cells.float())
    values = []
    for colours in SIGN_COLOURS:
        plain, written = (seen.new_tensor(colour)[:, None, None] / 255 for colour in colours)
        on_board = _slots(_likeness(board, plain, colour_width) * plain_cells) / boards
        on_ink = _slots(_likeness(board, written, colour_width) * ink) / letters.clamp_min(1)
        values.append((on_board * torch.where(letters > 0, on_ink, torch.ones_like(on_ink))).mean(1))
    return torch.stack(values, 1).max(1).values


def _slots(values: Tensor) -> Tensor:
    """Sums over the places of letters, of shape (row, place)."""
    return values.unflatten(-1, (NUM_SLOTS, SLOT_WIDTH)).sum((-3, -1))


@cache
def _ink(word: str) -> NDArray[np.float32]:
    """Share of ink in each cell of a sign's inner rows."""
    return np.stack([_inked(word, side // IMAGE_SIZE) for side in SIDES]).mean(0, dtype=np.float32)


def _inked(word: str, detail: int) -> NDArray[np.float32]:
    ink = np.zeros((SIGN_HEIGHT * detail, IMAGE_SIZE * detail), bool)
    write(ink, word, True, detail)
    cells = ink.reshape(SIGN_HEIGHT, detail, IMAGE_SIZE, detail).mean((1, 3), dtype=np.float32)
    return cells[1:-1]
