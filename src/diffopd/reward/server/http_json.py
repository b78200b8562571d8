"""JSON posted to a server, with a deadline for each attempt and bounded retries."""

from __future__ import annotations

import ipaddress
import json
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from diffopd.reward.server.json_text import read_json

PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Status codes that may be gone at the next attempt."""
_QUOTED = 300  # characters of a reply in a message
_LONGEST_ERROR = 2000  # of the text of an error, which may quote a prompt
_LONGEST_WAIT = 60.0  # seconds between attempts, also where the server asks for more


class ServerError(RuntimeError):
    """A server that did not answer as it should.

    Attributes:
        status: Its status code; None if there was no answer at all.
        reply: The decoded body of its answer, or None.
        retry_after: Seconds after which the server wants to be asked again; None = it does not say.
    """

    def __init__(
        self, problem: str, status: int | None, reply: Any = None, retry_after: float | None = None
    ) -> None:
        super().__init__(problem)
        self.status, self.reply, self.retry_after = status, reply, retry_after

    @property
    def passing(self) -> bool:
        """Whether the next attempt may succeed."""
        return self.status is None or self.status in PASSING


@dataclass(frozen=True)
class Server:
    """Where to post to, and how patiently.

    Attributes:
        address: ``http://...`` or ``https://...``; paths are put behind it.
        token: Sent as a bearer token; None = none.
        timeout: Seconds for a whole attempt: to connect, to send, to wait and to read the whole reply.
        retries: Attempts after the first, for failures that may pass.
        backoff: Seconds before the second attempt; doubled before each further one, up to a minute.
    """

    address: str
    token: str | None = field(repr=False)
    timeout: float
    retries: int
    backoff: float

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.address)
            sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError:  # of a port or an IPv6 address
            parts, sound = None, False
        secret = "@" in self.address if parts is None or not sound else "@" in parts.netloc
        if secret:  # told first, as the other message shows the address
            raise ValueError(
                "reward.address must not hold a name or a password, as it is printed and saved; put a token "
                "into the environment variable that reward.token_variable names"
            )
        if not sound:
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
        first: ServerError | None = None
        for attempt in range(self.retries + 1):
            try:
                return self._attempt(path, data)
            except ServerError as error:
                first = first or error
                if not error.passing or attempt == self.retries:
                    if str(first) == str(error):
                        raise
                    raise ServerError(f"{error}; at first it {first}", error.status, error.reply) from error
                asked = min(error.retry_after or 0.0, _LONGEST_WAIT)
                pause = min(self.backoff * 2**attempt, max(self.backoff, _LONGEST_WAIT))
                time.sleep(max(pause, asked))
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, path: str, data: bytes | None) -> Any:
        from diffopd.reward.server.exchange import NoReplyError, exchange  # brings a client of HTTP

        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        # Loopback needs no proxy.
        proxies = not is_loopback(urllib.parse.urlsplit(self.address).hostname or "")
        url = self.address.rstrip("/") + path
        try:
            reply = exchange(url, data, headers, timeout=self.timeout, proxies=proxies)
        except NoReplyError as error:
            raise ServerError(f"does not answer ({error})", None) from error
        if not 200 <= reply.status < 300:
            content, text = _error_of(reply.body)
            raise ServerError(
                f"answers {reply.status}: {text or reply.reason}", reply.status, content, reply.retry_after
            )
        if reply.too_long:
            raise ServerError(
                f"answers {reply.status} with more than {len(reply.body) - 1} bytes", reply.status
            )
        return _decoded(reply.body, reply.status)


def _error_of(body: bytes) -> tuple[Any, str]:
    """The decoded body of an error, or None, and its text on one line."""
    try:
        content = read_json(body, strict=False)
    except ValueError:
        content = None
    told = content.get("error") if isinstance(content, dict) else None
    text = told[:_LONGEST_ERROR] if isinstance(told, str) else body[:_QUOTED].decode(errors="replace")
    return content, "".join(letter if letter.isprintable() else " " for letter in text).strip()


def _decoded(body: bytes, status: int) -> Any:
    try:
        return read_json(body, strict=False)
    except ValueError as error:
        quoted = body[:_QUOTED].decode(errors="replace")
        raise ServerError(f"answers {status} with what is not JSON: {quoted!r} ({error})", status) from error


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
