"""What a reward server answers: ``POST /score``, ``GET /health`` and ``GET /known_pair``, as an ASGI app."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any

from jaxtyping import UInt8
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from torch import Tensor

from diffopd.reward.checked import RewardError, name_of
from diffopd.reward.server.batching import Batcher, BusyError, QuestionError, ScorerDiedError
from diffopd.reward.server.json_text import read_json
from diffopd.reward.server.raised import told
from diffopd.reward.server.wire import Limits, RequestError, decode_request, encode_pair, encode_scores
from diffopd.types import Prompts

log = logging.getLogger(__name__)

LINGER = 5.0
"""Seconds for which what a rejected client still sends is read and dropped."""
_BODIES = 4
"""Largest bodies that may be in memory at once, all requests together."""
_SERVED = "GET /health, GET /known_pair and POST /score are served"
_GONE = 499  # nobody reads this answer


class Endpoints:
    """The requests a reward server answers, each within a deadline.

    Args:
        batcher: Calls the reward.
        limits: What a request may hold.
        token: What clients must send; None = nothing.
        timeout: Seconds in which a request has to arrive whole and be scored.
        decoders: Threads that decode images.

    An instance is an ASGI app.
    """

    def __init__(
        self, batcher: Batcher, limits: Limits, token: str | None, *, timeout: float, decoders: Executor
    ) -> None:
        self.batcher, self.limits, self.token, self.timeout = batcher, limits, token, timeout
        self._decoders = decoders
        self._held = 0  # bytes of bodies in memory
        self._app = Starlette(
            routes=[
                Route("/health", self._answering(self._health), methods=["GET"]),
                Route("/known_pair", self._answering(self._known_pair), methods=["GET"]),
                Route("/score", self._answering(self._score), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _not_served},
        )
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        A request that is rejected before its body has come is answered at once. A little of the body is read
        and dropped after that, as a client whose connection is reset while it sends might not see the answer.
        """
        whole = False

        async def receive_noting() -> Message:
            nonlocal whole
            message = await receive()
            whole = whole or not message.get("more_body")  # or the client has gone
            return message

        async def send_then_drop(message: Message) -> None:
            if whole or message["type"] != "http.response.body" or message.get("more_body"):
                await send(message)
                return
            await send({**message, "more_body": True})
            await self._drop_rest(receive_noting)
            await send({"type": "http.response.body", "body": b""})

        await self._app(scope, receive_noting, send_then_drop)

    async def _drop_rest(self, receive: Receive) -> None:
        left = self.limits.body
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(LINGER):
                while left > 0 and (message := await receive()).get("more_body"):
                    left -= len(message["body"])

    def _answering(self, respond: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Any]:
        """``respond`` with its errors as answers, none of which is ever anything but an error."""

        async def endpoint(request: Request) -> Response:
            try:
                return await respond(request)
            except RequestError as error:
                return _Answer(error.status, {"error": str(error)})
            except BusyError as error:
                return _busy(str(error))
            except RewardError as error:
                index = None if error.sample is None else error.sample.prompt.indices[0]
                return _Answer(422, {"error": str(error), "index": index})
            except ClientDisconnect:
                return _Answer(_GONE, {})
            except asyncio.CancelledError:  # by the server, whose deadline for shutting down is over
                return _busy("the server is shutting down")
            except Exception as error:
                if isinstance(error, (ScorerDiedError, QuestionError)):  # logged where they happen
                    return _Answer(500, {"error": str(error)})
                log.exception("a request failed")
                return _Answer(500, {"error": told(error)})

        return endpoint

    async def _health(self, _: Request) -> Response:
        limits, busy_for = self.limits, self.batcher.busy_for
        problem = self.batcher.failure
        if problem is None and busy_for > self.timeout:
            problem = f"the scorer has not answered for {busy_for:.0f} s"
        content = {
            "status": "ok" if problem is None else "failing",
            "reward": name_of(self.batcher.reward),
            "waiting": self.batcher.waiting,
            "limits": {
                "body": limits.body,
                "images": limits.images,
                "side": limits.side,
                "pixels": limits.pixels,
            },
        }
        return _Answer(200, content) if problem is None else _Answer(503, {**content, "error": problem})

    async def _known_pair(self, request: Request) -> Response:
        self._check_token(request)

        def find() -> dict[str, Any] | None:
            know = getattr(self.batcher.reward, "known_pair", None)
            pair = None if know is None else know()
            return None if pair is None else encode_pair(pair)

        pair = await self._when_there(self.batcher.ask(find), request, self._deadline())
        return _Answer(200, {"pair": pair})

    async def _score(self, request: Request) -> Response:
        self._check_token(request)
        deadline = self._deadline()
        images, prompts = await self._decoded(request, deadline)
        scores = await self._when_there(self.batcher.submit(images, prompts), request, deadline)
        return _Answer(200, encode_scores(scores))

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.timeout

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("Authorization", "").encode("latin-1")  # as Starlette decodes headers
        if self.token and not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            raise RequestError(401, "the token is missing or wrong")

    async def _decoded(
        self, request: Request, deadline: float
    ) -> tuple[UInt8[Tensor, " batch 3 height width"], Prompts]:
        """Images and prompts of a body, which is in memory no longer than this takes."""
        self._check_length(request)
        body = bytearray()
        with self._holding(body):
            try:
                async with asyncio.timeout_at(deadline):
                    async for chunk in request.stream():
                        self._check_room(len(body) + len(chunk), len(chunk))
                        body += chunk
                        self._held += len(chunk)
            except TimeoutError as error:
                raise RequestError(408, f"the request has not arrived within {self.timeout:g} s") from error
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._decoders, _decode, body, self.limits)

    @contextlib.contextmanager
    def _holding(self, body: bytearray) -> Iterator[None]:
        try:
            yield
        finally:
            self._held -= len(body)

    def _check_length(self, request: Request) -> None:
        length = request.headers.get("Content-Length")
        if length is None:
            if "Transfer-Encoding" not in request.headers:
                raise RequestError(411, "the request must have a Content-Length")
        elif not (length.isascii() and length.isdigit() and len(length) < 20):
            raise RequestError(400, "the Content-Length is not a number of bytes")
        else:
            self._check_room(int(length), 0)

    def _check_room(self, length: int, more: int) -> None:
        if length > self.limits.body:
            raise RequestError(
                413, f"the body has {length} bytes or more, {self.limits.body} are allowed; send fewer images"
            )
        if self._held + more > _BODIES * self.limits.body:
            raise BusyError("the memory for request bodies is full; try again later")

    async def _when_there(self, future: Future[Any], request: Request, deadline: float) -> Any:
        """A future's result, unless the client goes or the deadline comes first; it is cancelled then."""
        answer = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_gone(request.receive))
        try:
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            done, _ = await asyncio.wait({answer, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answer in done:
                return answer.result()
            if gone in done:
                raise ClientDisconnect
            raise BusyError(f"the images were not scored within {self.timeout:g} s")
        finally:
            gone.cancel()
            future.cancel()
            answer.cancel()


class _Answer(Response):
    """A JSON answer, after which the connection is closed."""

    media_type = "application/json"

    def __init__(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(content, status, {"Connection": "close", **(headers or {})})

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def _busy(problem: str) -> Response:
    return _Answer(503, {"error": problem}, {"Retry-After": "1"})


async def _not_served(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _Answer(status, {"error": f"there is no {request.method} {request.url.path}; {_SERVED}"})


async def _gone(receive: Receive) -> None:
    """Return when the client closes its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _decode(body: bytearray, limits: Limits) -> tuple[UInt8[Tensor, " batch 3 height width"], Prompts]:
    try:
        content = read_json(body, strict=True)
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error
    return decode_request(content, limits)
