"""JSON posted to a server, with a timeout and bounded retries; by the standard library alone."""

from __future__ import annotations

import ipaddress
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Status codes that may be gone at the next attempt."""
_QUOTED = 300  # characters of a reply in a message


class ServerError(RuntimeError):
    """A server that did not answer as it should.

    Attributes:
        status: Its status code; None if there was no answer at all.
        reply: The decoded body of its answer, or None.
    """

    def __init__(self, problem: str, status: int | None, reply: Any = None) -> None:
        super().__init__(problem)
        self.status, self.reply = status, reply


@dataclass(frozen=True)
class Server:
    """Where to post to, and how patiently.

    Attributes:
        address: ``http://...`` or ``https://...``; paths are put behind it.
        token: Sent as a bearer token; None = none.
        timeout: Seconds without a sign of the server after which an attempt has failed.
        retries: Attempts after the first, for failures that may pass.
        backoff: Seconds before the second attempt; doubled before each further one.
    """

    address: str
    token: str | None = field(repr=False)
    timeout: float
    retries: int
    backoff: float

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"reward.address={self.address} must be an address such as http://127.0.0.1:8765"
            )
        if self.timeout <= 0 or self.retries < 0 or self.backoff < 0:
            raise ValueError(
                f"reward.timeout={self.timeout} must be above 0, reward.retries={self.retries} and "
                f"reward.backoff={self.backoff} at least 0"
            )

    def post(self, path: str, content: Mapping[str, Any]) -> Any:
        """The decoded JSON reply to ``content``.

        Raises:
            ServerError: If the last attempt failed, or one in a way that will not pass.
        """
        return self._patiently(path, json.dumps(content, allow_nan=False).encode())

    def get(self, path: str) -> Any:
        """The decoded JSON that is at ``path``.

        Raises:
            ServerError: As :meth:`post`.
        """
        return self._patiently(path, None)

    def _patiently(self, path: str, data: bytes | None) -> Any:
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.backoff * 2 ** (attempt - 1))
            try:
                return self._attempt(path, data)
            except ServerError as error:
                if attempt == self.retries or (error.status is not None and error.status not in PASSING):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, path: str, data: bytes | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.address.rstrip("/") + path, data, headers)
        try:
            with self._opener().open(request, timeout=self.timeout) as response:
                return _decoded(response.read(), response.status)
        except urllib.error.HTTPError as error:
            with error:
                body = error.read()
            try:
                reply = json.loads(body)
            except ValueError:
                reply = None
            told = reply.get("error") if isinstance(reply, dict) else None
            text = told if isinstance(told, str) else body[:_QUOTED].decode(errors="replace").strip()
            raise ServerError(f"answers {error.code}: {text or error.reason}", error.code, reply) from error
        except (urllib.error.URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise ServerError(f"does not answer ({reason or type(error).__name__})", None) from error

    def _opener(self) -> urllib.request.OpenerDirector:
        """Follows no redirects, which would carry the token elsewhere; loopback needs no proxy."""
        proxies = {} if is_loopback(urllib.parse.urlsplit(self.address).hostname or "") else None
        return urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirects())


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Leave the answer as it is, an error."""


def _decoded(body: bytes, status: int) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        quoted = body[:_QUOTED].decode(errors="replace")
        raise ServerError(f"answers {status} with what is not JSON: {quoted!r}", status) from error


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach ``host``.

    Examples:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
