"""A vision language model's mark for image and prompt, asked of an OpenAI-compatible server.

References:
    Wang et al., "Unified Reward Model for Multimodal Understanding and Generation", 2025, arXiv:2503.05236.
"""

from __future__ import annotations

import re
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.files.png import to_picture
from diffopd.reward.checked import Sample
from diffopd.reward.learned.sunset import sunset_and_noise
from diffopd.reward.learned.vision_server import Content, VisionServer
from diffopd.types import KnownPair, Prompts, Scores

MARK = re.compile(r"Final Score:\s*([1-5](?:\.\d+)?)(?!\d)")  # 10 is no 1
HIGHEST = 5.0
_SCALES = {
    "training": "[0.2, 1], UnifiedReward's mark / 5 (training scale)",
    "table": "[1, 5], UnifiedReward's mark (table scale)",
}


class UnifiedReward:
    """UnifiedReward's mark from 1 to 5; ``parts`` has it as ``mark``.

    Args:
        address: The server's, up to ``/v1``.
        model: Name under which the server knows the model.
        question: What is asked; ``{prompt}`` stands for the prompt.
        scale: ``training`` = mark / 5, ``table`` = the mark.
        image_size: Pixels of each side of the square the image is resized to (bicubic).
        token_variable: Environment variable that holds the server's key; unset = none is sent.
        timeout: Seconds for a whole attempt, until its whole reply is there.
        retries: Attempts after the first, when the server fails or its reply holds no mark.
        backoff: Seconds before the second attempt; doubled before each further one, up to a minute.
        concurrency: Questions asked at the same time.
    """

    def __init__(
        self,
        *,
        address: str,
        model: str,
        question: str,
        scale: Literal["training", "table"],
        image_size: int,
        token_variable: str,
        timeout: float,
        retries: int,
        backoff: float,
        concurrency: int,
    ) -> None:
        if scale not in _SCALES:
            raise ValueError(f"reward.scale must be one of {', '.join(_SCALES)}, got {scale!r}")
        if "{prompt}" not in question:
            raise ValueError(f"reward.question must hold {{prompt}}, where the prompt goes, got {question!r}")
        if concurrency < 1 or image_size < 1:
            raise ValueError(
                f"reward.concurrency={concurrency} and reward.image_size={image_size} must be at least 1"
            )
        self.server = VisionServer(
            reward=type(self).__name__,
            address=address,
            model=model,
            token_variable=token_variable,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            concurrency=concurrency,
            must_say="'Final Score: <1 to 5>'",
        )
        self.question = question
        self.scale = scale
        self.image_size = image_size

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Ask for each image's mark.

        Raises:
            RewardError: If the server fails, or a reply holds no mark, after the last retry.
        """
        samples = [Sample.of(images, prompts, row) for row in range(len(prompts))]
        marks = self.server.marks(samples, self._content, parse_mark)
        mark = torch.tensor(marks, dtype=torch.float32, device=images.device)
        return Scores(
            mark / HIGHEST if self.scale == "training" else mark, {"mark": mark}, _SCALES[self.scale]
        )

    def known_pair(self) -> KnownPair:
        """A sunset over the sea, and the same buried in noise."""
        return sunset_and_noise()

    def _content(self, sample: Sample) -> Content:
        (prompt,) = sample.prompt.texts
        picture = to_picture(sample.image).resize((self.image_size, self.image_size))
        return [picture], self.question.replace("{prompt}", prompt)


def parse_mark(reply: str) -> float | None:
    """The last mark in a reply, as its reasoning may quote the phrase; None if there is none.

    Examples:
        >>> parse_mark("I give a Final Score: from 1 to 5. Final Score: 2.5, no: Final Score: 3.5")
        3.5
    """
    found = MARK.findall(reply)
    return float(found[-1]) if found and float(found[-1]) <= HIGHEST else None
