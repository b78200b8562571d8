"""A vision language model's mark for image and prompt, asked of an OpenAI-compatible server.

References:
    Wang et al., "Unified Reward Model for Multimodal Understanding and Generation", 2025, arXiv:2503.05236.
"""

from __future__ import annotations

import base64
import io
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.files.png import to_picture
from diffopd.reward.checked import RewardError, Sample
from diffopd.reward.learned.sunset import sunset_and_noise
from diffopd.reward.server.access_token import read_token
from diffopd.reward.server.http_json import Server, ServerError
from diffopd.types import KnownPair, Prompts, Scores

MARK = re.compile(r"Final Score:\s*([1-5](?:\.\d+)?)(?!\d)")  # 10 is no 1
HIGHEST = 5.0
_QUOTED = 300  # characters of a reply in a message
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
        self.server = Server(address, read_token(token_variable), timeout, retries, backoff)
        self.token_variable = token_variable
        self.model = model
        self.question = question
        self.scale = scale
        self.image_size = image_size
        self.concurrency = concurrency

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Ask for each image's mark.

        Raises:
            RewardError: If the server fails, or a reply holds no mark, after the last retry.
        """
        samples = [Sample.of(images, prompts, row) for row in range(len(prompts))]
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="unifiedreward")
        try:
            marks = list(pool.map(self._mark, samples))
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure the questions not yet asked are dropped
        mark = torch.tensor(marks, dtype=torch.float32, device=images.device)
        return Scores(
            mark / HIGHEST if self.scale == "training" else mark, {"mark": mark}, _SCALES[self.scale]
        )

    def known_pair(self) -> KnownPair:
        """A sunset over the sea, and the same buried in noise."""
        return sunset_and_noise()

    def _mark(self, sample: Sample) -> float:
        """One image's mark."""
        reply = ""
        for _ in range(self.server.retries + 1):
            reply = self._reply(sample)
            if (mark := parse_mark(reply)) is not None:
                return mark
        problem = f"holds no mark: {_shortened(reply)!r}"
        raise self._error(
            f"{problem}, asked {self.server.retries + 1} times for {sample}; it must say "
            "'Final Score: <1 to 5>'",
            sample,
        ) from ServerError(problem, 200)

    def _reply(self, sample: Sample) -> str:
        (prompt,) = sample.prompt.texts
        picture = to_picture(sample.image).resize((self.image_size, self.image_size))
        content = [
            {"type": "image_url", "image_url": {"url": _data_url(picture)}},
            {"type": "text", "text": self.question.replace("{prompt}", prompt)},
        ]
        try:
            answer = self.server.post(
                "/chat/completions",
                {
                    "model": self.model,
                    "messages": [{"role": "user", "content": content}],
                    "temperature": 0,
                    "stream": False,
                },
            )
        except ServerError as error:
            remedy = (
                f"put the server's key into the environment variable {self.token_variable}"
                if error.status in (401, 403)
                else "start a vision server there, or correct reward.address and reward.model"
            )
            raise self._error(f"{error}, asked for {sample}; {remedy}", sample) from error
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            problem = f"is not a chat completion: {str(answer)[:_QUOTED]!r}"
            raise self._error(problem, sample) from ServerError(f"{problem} ({error!r})", 200)
        return text if isinstance(text, str) else ""

    def _error(self, problem: str, sample: Sample) -> RewardError:
        return RewardError(type(self).__name__, f"address={self.server.address}", problem, sample)


def parse_mark(reply: str) -> float | None:
    """The last mark in a reply, as its reasoning may quote the phrase; None if there is none.

    Examples:
        >>> parse_mark("I give a Final Score: from 1 to 5. Final Score: 2.5, no: Final Score: 3.5")
        3.5
    """
    found = MARK.findall(reply)
    return float(found[-1]) if found and float(found[-1]) <= HIGHEST else None


def _shortened(text: str) -> str:
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]} ..."


def _data_url(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
