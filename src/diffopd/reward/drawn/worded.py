"""GenEval's clauses from a prompt's own words, for prompts of the drawn world whose file has none."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.drawn.composition import CompositionReward
from diffopd.types import KnownPair, Prompts, Scores
from diffopd.world.request import metadata, parse


class WordedCompositionReward:
    """:class:`CompositionReward` of what each prompt words, as the drawn world understands it.

    Args:
        reward: Scores pictures against GenEval's clauses.
    """

    def __init__(self, *, reward: CompositionReward) -> None:
        self.reward = reward

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against the clauses of its prompt's words."""
        return self.reward(images, _with_clauses(prompts))

    def check_prompt(self, prompt: Prompts) -> None:
        """Refuse a prompt that words no things of the drawn world.

        Raises:
            ValueError: If it does not.
        """
        self.reward.check_prompt(_with_clauses(prompt))

    def known_pair(self) -> KnownPair | None:
        """The pair that ``reward`` knows."""
        return self.reward.known_pair()


def _with_clauses(prompts: Prompts) -> Prompts:
    return replace(prompts, metadata=tuple(metadata(parse(text)) for text in prompts.texts))
