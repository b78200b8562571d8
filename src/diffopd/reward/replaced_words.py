"""Prompts with a made-up word, scored as if they had the word that a scorer knows in its place."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from diffopd.types import KnownPair, Prompts, Reward, Scores


class ReplacedWordsReward:
    """Another reward, told of other words: a name such as ``[V]`` or ``plim`` says nothing to CLIP.

    Args:
        words: Word of the prompts -> what the reward reads in its place; whole words only, and case matters.
        reward: Scores the images.
    """

    def __init__(self, *, words: Mapping[str, str], reward: Reward) -> None:
        self.words = dict(words)
        self.reward = reward
        self._found = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words) or r"(?!)")

    def __call__(
        self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts
    ) -> Scores | Float[Tensor, " batch"]:
        """Score each image against its prompt in other words."""
        return self.reward(images, self.replaced(prompts))

    def replaced(self, prompts: Prompts) -> Prompts:
        """The prompts as the reward reads them."""
        return prompts.with_texts(
            [self._found.sub(lambda word: self.words[word[0]], text) for text in prompts.texts]
        )

    def check_prompt(self, prompt: Prompts) -> None:
        """Raise for a prompt that the reward cannot score."""
        check = getattr(self.reward, "check_prompt", None)
        if check is not None:
            check(self.replaced(prompt))

    def known_pair(self) -> KnownPair | None:
        """The reward's own pair."""
        know = getattr(self.reward, "known_pair", None)
        return None if know is None else know()
