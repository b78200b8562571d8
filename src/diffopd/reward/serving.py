"""A reward over HTTP: JSON and PNG in, JSON out.

The standard library's server does: a request carries seconds of scoring, one thread does all of that, and
nothing has to be installed where a scorer runs.
"""

from __future__ import annotations

import hmac
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from diffopd.reward.batching import Batcher, BusyError
from diffopd.reward.checked import RewardError, name_of
from diffopd.reward.http_json import is_loopback
from diffopd.reward.wire import Limits, RequestError, decode_request, encode_pair, encode_scores

log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_SERVED = "GET /health, GET /known_pair and POST /score are served"
_NO_TOKEN = "the token is missing or wrong"


class RewardServer(ThreadingHTTPServer):
    """Serves ``POST /score``, ``GET /health`` and ``GET /known_pair`` until it is stopped.

    Args:
        host: Interface to listen at.
        port: Port; 0 = any that is free.
        batcher: Calls the reward.
        limits: What a request may hold.
        token: What clients must send; None = nothing.
        timeout: Seconds after which a client that sends nothing is dropped.

    Raises:
        ValueError: If others could reach the server and there is no token, or the port is taken.
    """

    daemon_threads = False  # requests under way are answered before the server ends
    block_on_close = True
    request_queue_size = 64

    def __init__(
        self, host: str, port: int, *, batcher: Batcher, limits: Limits, token: str | None, timeout: float
    ) -> None:
        if not token and not is_loopback(host):
            raise ValueError(
                f"host={host} lets others reach the server, so it needs a token: put a long random text into "
                "the environment variable that token_variable names, or use host=127.0.0.1"
            )
        self.batcher, self.limits, self.token, self.client_timeout = batcher, limits, token, timeout
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ValueError(f"host={host} port={port} cannot be listened at: {error}") from error

    @property
    def address(self) -> str:
        """What clients are to be given."""
        host, port = cast(tuple[str, int], self.server_address[:2])
        return f"http://{host}:{port}"

    def stop(self) -> None:
        """Accept nothing more; returns at once, and :meth:`serve_forever` does after that."""
        threading.Thread(target=self.shutdown, daemon=True).start()

    def server_close(self) -> None:
        """Answer what is under way, then end."""
        super().server_close()
        self.batcher.close()


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "diffopd", ""

    def setup(self) -> None:
        self.request.settimeout(self.server.client_timeout)
        super().setup()

    def do_GET(self) -> None:
        """Whether the server is well, or the pair by which its reward is checked."""
        if self.path == "/known_pair":
            self._answer_known_pair()
            return
        if self.path != "/health":
            self._answer(404, {"error": f"there is no {self.path}; {_SERVED}"})
            return
        limits = self.server.limits
        self._answer(
            200,
            {
                "status": "ok",
                "reward": name_of(self.server.batcher.reward),
                "waiting": self.server.batcher.waiting,
                "limits": {"body": limits.body, "images": limits.images, "side": limits.side},
            },
        )

    def _answer_known_pair(self) -> None:
        if not self._may_ask():
            self._answer(401, {"error": _NO_TOKEN})
            return
        find = getattr(self.server.batcher.reward, "known_pair", None)
        pair = None if find is None else find()
        self._answer(200, {"pair": None if pair is None else encode_pair(pair)})

    def do_POST(self) -> None:
        """Score a request's images."""
        try:
            content = self._content()
            images, prompts = decode_request(content, self.server.limits)
            self._answer(200, encode_scores(self.server.batcher.score(images, prompts)))
        except RequestError as error:
            self._answer(error.status, {"error": str(error)})
        except BusyError as error:
            self._answer(503, {"error": str(error)})
        except RewardError as error:
            index = None if error.sample is None else error.sample.prompt.indices[0]
            self._answer(422, {"error": str(error), "index": index})
        except TimeoutError:
            self.close_connection = True
        except Exception as error:
            log.exception("a request failed")
            self._answer(500, {"error": f"{type(error).__name__}: {error}"})

    def _content(self) -> Any:
        """The decoded body, read only if it may be sent and is not too long."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise RequestError(411, "the request must have a Content-Length")
        refusal = self._refusal(int(length))
        if refusal is not None:
            self._discard(int(length))
            raise refusal
        try:
            return json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise RequestError(400, f"the body is not JSON: {error}") from error

    def _may_ask(self) -> bool:
        """Whether the request has the token, if one is needed."""
        given, token = self.headers.get("Authorization", "").encode(), self.server.token
        return not token or hmac.compare_digest(given, f"Bearer {token}".encode())

    def _refusal(self, length: int) -> RequestError | None:
        if self.path != "/score":
            return RequestError(404, f"there is no {self.path}; {_SERVED}")
        if not self._may_ask():
            return RequestError(401, _NO_TOKEN)
        if length > self.server.limits.body:
            return RequestError(
                413, f"the body has {length} bytes, {self.server.limits.body} are allowed; send fewer images"
            )
        return None

    def _discard(self, length: int) -> None:
        """Read what comes and forget it: a client that is still sending would not see the answer."""
        left = min(length, 4 * self.server.limits.body)
        while left > 0 and (chunk := self.rfile.read(min(left, _CHUNK))):
            left -= len(chunk)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content, allow_nan=False).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the client has gone
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Into the log, at its finest level."""
        log.debug(format, *args)
