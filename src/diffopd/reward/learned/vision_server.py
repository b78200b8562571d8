"""Questions about pictures to a vision-language model behind an OpenAI-compatible server."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from diffopd.reward.checked import RewardError, Sample
from diffopd.reward.server.access_token import read_token
from diffopd.reward.server.http_json import Server, ServerError

_QUOTED = 300  # characters of a reply in a message

Content = tuple[Sequence[Image.Image], str]
"""The pictures that are shown, and the question below them."""


class VisionServer:
    """Asks for marks, several at a time; a reply without one is asked for again.

    Args:
        reward: Name of the scorer's class, for messages.
        address: The server's, up to ``/v1``.
        model: Name under which the server knows the model.
        token_variable: Environment variable that holds the server's key; unset = none is sent.
        timeout: Seconds for a whole attempt, until its whole reply is there.
        retries: Attempts after the first, when the server fails or its reply holds no mark.
        backoff: Seconds before the second attempt; doubled before each further one, up to a minute.
        concurrency: Questions asked at the same time.
        must_say: What a reply has to hold, for messages.
    """

    def __init__(
        self,
        *,
        reward: str,
        address: str,
        model: str,
        token_variable: str,
        timeout: float,
        retries: int,
        backoff: float,
        concurrency: int,
        must_say: str,
    ) -> None:
        self.server = Server(address, read_token(token_variable), timeout, retries, backoff)
        self.reward = reward
        self.model = model
        self.token_variable = token_variable
        self.concurrency = concurrency
        self.must_say = must_say

    def marks(
        self,
        samples: Sequence[Sample],
        content: Callable[[Sample], Content],
        parse: Callable[[str], float | None],
    ) -> list[float]:
        """A mark for each sample.

        Args:
            samples: What is marked.
            content: Makes the pictures and the question of a sample.
            parse: Finds the mark in a reply; None if there is none.

        Raises:
            RewardError: If the server fails, or a reply holds no mark, after the last retry.
        """
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix=self.reward.lower())
        try:
            return list(pool.map(lambda sample: self._mark(sample, content(sample), parse), samples))
        finally:
            pool.shutdown(cancel_futures=True)  # after a failure the questions not yet asked are dropped

    def _mark(self, sample: Sample, content: Content, parse: Callable[[str], float | None]) -> float:
        """One sample's mark."""
        reply = ""
        for _ in range(self.server.retries + 1):
            reply = self._reply(sample, content)
            if (mark := parse(reply)) is not None:
                return mark
        problem = f"holds no mark: {_shortened(reply)!r}"
        raise self._error(
            f"{problem}, asked {self.server.retries + 1} times for {sample}; it must say {self.must_say}",
            sample,
        ) from ServerError(problem, 200)

    def _reply(self, sample: Sample, content: Content) -> str:
        pictures, question = content
        shown = [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in pictures]
        try:
            answer = self.server.post(
                "/chat/completions",
                {
                    "model": self.model,
                    "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}],
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
        return RewardError(self.reward, f"address={self.server.address}", problem, sample)


def data_url(picture: Image.Image) -> str:
    """A picture as a PNG in an address."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _shortened(text: str) -> str:
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]} ..."
