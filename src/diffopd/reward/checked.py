"""The contract every reward keeps: sound images in, one finite number per image out, or a named error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffopd.types import Prompts, Reward, Scores

_RANGE_SLACK = 1e-3  # rounding of a decoder's last clamp in half precision


class RewardError(ValueError):
    """A sample that could not be scored; a score is never guessed in its place."""


def checked(call: Callable[[Any, Tensor, Prompts], Scores]) -> Callable[[Any, Tensor, Prompts], Scores]:
    """Make a reward's ``__call__`` keep the contract of :func:`score_checked`."""

    @functools.wraps(call)
    def wrapper(self: Any, images: Tensor, prompts: Prompts) -> Scores:
        return _score(functools.partial(call, self), type(self).__name__, images, prompts)

    return wrapper


def score_checked(reward: Reward, images: Tensor, prompts: Prompts, name: str | None = None) -> Scores:
    """Score images, and refuse anything but one finite number per image.

    Args:
        reward: Any scorer, ours or a user's.
        images: Batch of RGB images in [0, 1].
        prompts: One row per image.
        name: What errors call the scorer; its class name if absent.

    Returns:
        The reward's scores, unchanged.

    Raises:
        RewardError: If an image is not finite or leaves [0, 1], if the scorer raises, or if its output has
            the wrong shape or is not finite. The message names sample index, prompt and scorer.
    """
    return _score(reward, name or type(reward).__name__, images, prompts)


def _score(
    reward: Callable[[Tensor, Prompts], Scores], name: str, images: Tensor, prompts: Prompts
) -> Scores:
    _check_images(images, prompts, name)
    try:
        scores = reward(images, prompts)
    except RewardError:
        raise
    except Exception as error:
        row = _first_row_that_raises(reward, images, prompts)
        where = (
            "the batch as a whole (each row alone can be scored)" if row is None else _sample(prompts, row)
        )
        raise RewardError(f"{name} could not score {where}: {type(error).__name__}: {error}") from error
    for part, values in (("value", scores.value), *scores.parts.items()):
        _check_values(values, part, prompts, name)
    return scores


def _check_images(images: Tensor, prompts: Prompts, name: str) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] != len(prompts):
        raise RewardError(
            f"{name} needs images of shape (batch, 3, height, width) with one prompt each, got "
            f"{tuple(images.shape)} for {len(prompts)} prompts; decode latents first and pass RGB"
        )
    low_or_high = (images < -_RANGE_SLACK) | (images > 1 + _RANGE_SLACK)
    bad = (~torch.isfinite(images) | low_or_high).flatten(1).any(1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise RewardError(
            f"{name} needs finite images in [0, 1], got values from {images[row].min().item():g} to "
            f"{images[row].max().item():g} in {_sample(prompts, row)}; "
            "did the model diverge, or is a clamp missing?"
        )


def _check_values(values: Tensor, part: str, prompts: Prompts, name: str) -> None:
    if values.shape != (len(prompts),):
        raise RewardError(
            f"{name} must return one number per image, got '{part}' of shape {tuple(values.shape)} for "
            f"{len(prompts)} images"
        )
    bad = ~torch.isfinite(values)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise RewardError(f"{name} returned '{part}' = {values[row].item()} for {_sample(prompts, row)}")


def _first_row_that_raises(
    reward: Callable[[Tensor, Prompts], Scores], images: Tensor, prompts: Prompts
) -> int | None:
    for row in range(len(prompts)):
        try:
            reward(images[row : row + 1], prompts.select([row]))
        except Exception:
            return row
    return None


def _sample(prompts: Prompts, row: int) -> str:
    sample, task, text = prompts.indices[row], prompts.tasks[row], prompts.texts[row]
    return f"sample {sample} (row {row}, task '{task}', prompt {text!r})"
