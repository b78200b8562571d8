"""Does the image say what the prompt puts in double quotes? Flow-GRPO's rule on recognized text.

References:
    Liu et al., "Flow-GRPO", 2025, arXiv:2505.05470.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.types import KnownPair, Prompts, Scores
from diffopd.world.known_pairs import right_and_wrong_sign, sign_in_a_picture

TextRecognizer = Callable[[Float[Tensor, " batch 3 height width"]], Sequence[str]]
"""Images in [0, 1] to the text read in each, ``""`` for none."""


class OcrReward:
    """1 when the quoted text can be read in the image, less by edit distance otherwise."""

    def __init__(self, *, recognizer: TextRecognizer) -> None:
        """Score with ``recognizer``."""
        self.recognizer = recognizer

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image; ``parts`` has ``exact``, 1 where the reward is full."""
        texts = self.recognizer(images)
        if len(texts) != len(prompts):
            raise ValueError(
                f"the recognizer must return one text per image, got {len(texts)} for {len(prompts)}"
            )
        rewards = [ocr_reward(prompt, text) for prompt, text in zip(prompts.texts, texts, strict=True)]
        value = torch.tensor(rewards, dtype=torch.float32, device=images.device)
        return Scores(value, {"exact": (value == 1).float()}, "[0, 1], 1 = the quoted text is in the image")

    def check_prompt(self, prompt: Prompts) -> None:
        """Refuse a prompt that quotes nothing.

        Raises:
            ValueError: If it does.
        """
        quoted_text(prompt.texts[0])

    def known_pair(self) -> KnownPair:
        """A sign with the asked word, and one with another."""
        return right_and_wrong_sign()

    def known_pair_of(self, side: int) -> KnownPair:
        """The same in pictures of ``side`` pixels, where the sign does not fill a large one."""
        return sign_in_a_picture(side)


def ocr_reward(prompt: str, recognised: str) -> float:
    """Flow-GRPO's rule: 1 - edit distance / target length, spaces and case ignored.

    Extra text is free while the whole target appears in it; otherwise the distance counts it, up to the
    target's length, so the reward never leaves [0, 1].

    Args:
        prompt: Holds the target between its first pair of double quotes.
        recognised: All text read in the image, joined.

    Raises:
        ValueError: If the prompt quotes nothing.

    Examples:
        >>> ocr_reward('a sign that says "CAT"', "car")
        0.6666666666666667
        >>> ocr_reward('a sign that says "CAT"', "The Cat!")
        1.0
    """
    target = _normalised(quoted_text(prompt))
    text = _normalised(recognised)
    if target in text:
        return 1.0
    return 1 - min(edit_distance(text, target), len(target)) / len(target)


def quoted_text(prompt: str) -> str:
    """The text between the first pair of double quotes.

    Raises:
        ValueError: If there is no such pair, or nothing but spaces in it.
    """
    pieces = prompt.split('"')
    if len(pieces) < 3 or not pieces[1].strip():
        raise ValueError(
            f"the ocr reward needs the text to render between double quotes in the prompt, got {prompt!r}; "
            "give this prompt another task or quote its text"
        )
    return pieces[1]


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions that turn ``a`` into ``b``.

    Examples:
        >>> edit_distance("kitten", "sitting")
        3
    """
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        current = [i]
        for j, y in enumerate(b, start=1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1]


def _normalised(text: str) -> str:
    return text.replace(" ", "").lower()
