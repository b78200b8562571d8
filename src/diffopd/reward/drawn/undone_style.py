"""What a picture shows once its style is undone: learned are a style and what is drawn in it, or neither."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from diffopd.types import KnownPair, Prompts, Reward, Scores
from diffopd.world.styles import STYLES, UNDONE, WORN, woven

_DONE = {**STYLES, "woven": woven}


class UndoneStyleReward:
    """Another reward's score of each picture after its style is undone, in 8 bits.

    A picture in the world's own style becomes one in none, and so scores little. Where it would score much, a
    picture that is not in the style scores 0, and the part ``in_style`` says which pictures are.

    Args:
        style: Name of a style that can be undone.
        reward: Scores the pictures that are had back.

    Raises:
        ValueError: If the style cannot be undone.
    """

    def __init__(self, *, style: str, reward: Reward) -> None:
        if style not in UNDONE:
            raise ValueError(
                f"reward.style={style} must be one of {', '.join(UNDONE)}, as no other way of drawing can be "
                "undone"
            )
        self.style = style
        self.reward = reward

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image without its style."""
        found = self.reward(_each(UNDONE[self.style], images), prompts)
        if isinstance(found, Tensor):
            found = Scores(found, {}, "as the reward returns it")
        found = dataclasses.replace(found, scale=f"{found.scale}, style {self.style} undone")
        if (is_worn := WORN.get(self.style)) is None:
            return found
        worn = torch.tensor([float(is_worn(image)) for image in _pixels(images)], device=found.value.device)
        return dataclasses.replace(found, value=found.value * worn, parts={**found.parts, "in_style": worn})

    def check_prompt(self, prompt: Prompts) -> None:
        """Raise for a prompt that the reward cannot score."""
        check = getattr(self.reward, "check_prompt", None)
        if check is not None:
            check(prompt)

    def known_pair(self) -> KnownPair | None:
        """The reward's own pair, in the style; None if it knows none."""
        know = getattr(self.reward, "known_pair", None)
        pair = None if know is None else know()
        if pair is None:
            return None
        better, worse = (_each(_DONE[self.style], image[None])[0] for image in (pair.better, pair.worse))
        return KnownPair(better, worse, pair.prompt)


def _each(
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], images: Float[Tensor, " batch 3 height width"]
) -> Float[Tensor, " batch 3 height width"]:
    """Every image changed, as 8-bit pixels."""
    changed = np.stack([change(image) for image in _pixels(images)])
    return (torch.from_numpy(changed).permute(0, 3, 1, 2).float() / 255).to(images.device)


def _pixels(images: Float[Tensor, " batch 3 height width"]) -> NDArray[np.uint8]:
    return (images.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
