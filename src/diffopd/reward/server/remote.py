"""A reward that a server elsewhere computes: the client of ``python -m diffopd.reward_server``."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.checked import RewardError, Sample
from diffopd.reward.server.access_token import read_token
from diffopd.reward.server.http_json import Server, ServerError
from diffopd.reward.server.wire import decode_pair, decode_scores, encode_request
from diffopd.types import KnownPair, Prompts, Scores


class RemoteReward:
    """Value, parts and scale as the server's reward gives them for the images in 8 bits a channel.

    The samples of one prompt are never split among requests.

    Args:
        address: The server's.
        token_variable: Environment variable that holds its token; unset = none is sent.
        timeout: Seconds for a whole attempt, until its whole reply is there.
        retries: Attempts after the first, for failures that may pass.
        backoff: Seconds before the second attempt; doubled before each further one, up to a minute.
        images_per_request: Most images in one request, unless one prompt has more samples.
    """

    def __init__(
        self,
        *,
        address: str,
        token_variable: str,
        timeout: float,
        retries: int,
        backoff: float,
        images_per_request: int,
    ) -> None:
        if images_per_request < 1:
            raise ValueError(f"reward.images_per_request={images_per_request} must be at least 1")
        self.server = Server(address, read_token(token_variable), timeout, retries, backoff)
        self.token_variable = token_variable
        self.images_per_request = images_per_request

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Ask the server.

        Raises:
            RewardError: If it does not answer, refuses, cannot score a sample, or answers something else.
        """
        pieces = [
            self._scores(images[rows], prompts.select(rows))
            for rows in requests_of(prompts, self.images_per_request)
        ]
        scores = Scores.concat(pieces)
        parts = {name: values.to(images.device) for name, values in scores.parts.items()}
        return Scores(scores.value.to(images.device), parts, scores.scale)

    why_no_pair = (
        "its server has no pair of images for it as a whole; a reward server checks the members of a "
        "mixture before it opens its port"
    )

    def known_pair(self) -> KnownPair | None:
        """The pair that the served reward knows; None if it knows none, or the server tells no pairs.

        Raises:
            RewardError: If the server does not answer, or answers something else.
        """
        try:
            pair = self.server.get("/known_pair")["pair"]
            return None if pair is None else decode_pair(pair)
        except ServerError as error:
            if error.status in (404, 501):  # an older server, or another's
                return None
            raise self._error(self._told_plainly(error)) from error
        except (KeyError, TypeError, ValueError) as error:
            raise self._error(f"does not speak as a reward server does: {error}") from _nonsense(error)

    def _scores(self, images: Tensor, prompts: Prompts) -> Scores:
        try:
            reply = self.server.post("/score", encode_request(images, prompts))
        except ServerError as error:
            raise self._error(*self._told(error, images, prompts)) from error
        except (TypeError, ValueError) as error:
            raise self._error(f"cannot be called, as a prompt's metadata is not JSON: {error}") from error
        try:
            return decode_scores(reply, len(prompts))
        except ValueError as error:
            raise self._error(f"does not speak as a reward server does: {error}") from _nonsense(error)

    def _told(self, error: ServerError, images: Tensor, prompts: Prompts) -> tuple[str, Sample | None]:
        """What to say, and the sample at fault if the server names one."""
        if error.status is None or error.status == 401:
            return self._told_plainly(error), None
        index = error.reply.get("index") if isinstance(error.reply, dict) else None
        named = type(index) is int and index in prompts.indices
        row = prompts.indices.index(index) if named else None
        return str(error), None if row is None else Sample.of(images, prompts, row)

    def _told_plainly(self, error: ServerError) -> str:
        """What a failed request needs, where no sample is the cause."""
        if error.status is None:
            tried = "1 attempt" if not self.server.retries else f"{self.server.retries + 1} attempts"
            start = "start it with python -m diffopd.reward_server reward=..., or correct it"
            return f"{error}, {tried}; {start}"
        if error.status == 401:
            return f"{error}; put the server's token into the environment variable {self.token_variable}"
        return str(error)

    def _error(self, problem: str, sample: Sample | None = None) -> RewardError:
        return RewardError(type(self).__name__, f"address={self.server.address}", problem, sample)


def _nonsense(error: Exception) -> ServerError:
    """The same as a fault of the server, which commands tell without a traceback."""
    return ServerError(str(error), 200)


def requests_of(prompts: Prompts, most: int) -> list[list[int]]:
    """Row numbers of each request: at most ``most``, the neighboring rows of a prompt together.

    Examples:
        >>> requests_of(Prompts(("",) * 5, ("t",) * 5, ({},) * 5, tuple(range(5)), (0, 0, 1, 1, 2)), 3)
        [[0, 1], [2, 3, 4]]
    """
    groups: list[list[int]] = []
    for row, group in enumerate(prompts.groups):
        if row and group == prompts.groups[row - 1]:
            groups[-1].append(row)
        else:
            groups.append([row])
    requests: list[list[int]] = []
    for rows in groups:
        if requests and len(requests[-1]) + len(rows) <= most:
            requests[-1] += rows
        else:
            requests.append(rows)
    return requests
