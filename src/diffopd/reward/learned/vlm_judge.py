"""A vision-language model says how much of the taught pictures is in a picture, in one of four labels.

References:
    D-OPSD, 2026, arXiv:2605.05204 (VLM-J: one of four labels, as a mark from 4 to 1). The question is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.checked import Sample
from diffopd.reward.learned.judge_question import WHY_NO_PAIR, JudgeQuestion
from diffopd.reward.learned.vision_server import VisionServer
from diffopd.types import Prompts, Scores


class VlmJudge:
    """The mark of the label that the model answers with; it sees taught pictures, then the picture itself.

    Args:
        address: The server's, up to ``/v1``.
        model: Name under which the server knows the model.
        question: What is asked; ``{prompt}`` stands for the prompt.
        reply: How to reply, after the question; ``{labels}`` stands for the labels.
        labels: Label -> mark.
        path: Folder of taught pictures, whose first ones are shown; None = each prompt's own picture.
        num_pictures: How many of the folder are shown.
        image_size: Pixels of each side of the squares that are sent.
        token_variable: Environment variable that holds the server's key; unset = none is sent.
        timeout: Seconds for a whole attempt, until its whole reply is there.
        retries: Attempts after the first, when the server fails or its reply holds no label.
        backoff: Seconds before the second attempt; doubled before each further one, up to a minute.
        concurrency: Questions asked at the same time.
    """

    why_no_pair = WHY_NO_PAIR

    def __init__(
        self,
        *,
        address: str,
        model: str,
        question: str,
        reply: str,
        labels: Mapping[str, float],
        path: str | None,
        num_pictures: int,
        image_size: int,
        token_variable: str,
        timeout: float,
        retries: int,
        backoff: float,
        concurrency: int,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"reward.concurrency={concurrency} must be at least 1")
        self.asked = JudgeQuestion(
            question=question,
            reply=reply,
            labels=labels,
            path=path,
            num_pictures=num_pictures,
            image_size=image_size,
        )
        self._marks = {label.lower(): mark for label, mark in self.asked.marks.items()}
        self.server = VisionServer(
            reward=type(self).__name__,
            address=address,
            model=model,
            token_variable=token_variable,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            concurrency=concurrency,
            must_say=f"'Answer: <label>', the label one of {', '.join(labels)}",
        )

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Ask for each image's label.

        Raises:
            RewardError: If the server fails, or a reply holds no label, after the last retry.
        """
        self.asked.check_prompts(prompts)
        samples = [Sample.of(images, prompts, row) for row in range(len(prompts))]
        marks = self.server.marks(samples, self.asked.content, self.parse)
        return Scores(
            torch.tensor(marks, dtype=torch.float32, device=images.device),
            {},
            f"{self.asked.range}, mark of the model's label (VLM-J)",
        )

    def check_prompt(self, prompt: Prompts) -> None:
        """Raise for a prompt without a picture where there is no folder.

        Raises:
            ValueError: If it has none.
        """
        self.asked.check_prompt(prompt)

    def parse(self, reply: str) -> float | None:
        """The mark of the last label in a reply, as its reasoning may quote others; None if there is none."""
        names = "|".join(re.escape(label) for label in sorted(self._marks, key=len, reverse=True))
        found = re.findall(rf"answer:\s*\W?({names})\b", reply.lower())
        return self._marks[found[-1]] if found else None
