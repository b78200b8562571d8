"""One request and its reply within one deadline, whatever the server does."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpx2
from anyio.from_thread import start_blocking_portal

MOST_BYTES = 1 << 26
"""Of a reply; a larger one is cut."""
_ERROR_SECONDS = 10.0  # for the reason behind an error's status, which is known already
_MOST_BYTES_OF_ERROR = 1 << 16

logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request


class NoReplyError(RuntimeError):
    """Nothing came that could be understood, or not all of it."""


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes:
        status: HTTP status code.
        reason: Its name.
        body: Of an error, as much as came.
        too_long: Whether the body was cut at :data:`MOST_BYTES`.
        retry_after: Seconds after which the server wants to be asked again; None = it does not say.
    """

    status: int
    reason: str
    body: bytes
    too_long: bool
    retry_after: float | None


def exchange(
    url: str, content: bytes | None, headers: Mapping[str, str], *, timeout: float, proxies: bool
) -> Reply:
    """The reply to a POST of ``content``, or to a GET if that is None. Redirects are not followed.

    A loop in a thread of its own does the waiting, as only a loop can leave a connection at any moment; the
    caller may have one that runs already, and may be interrupted.

    Args:
        url: Where to.
        content: The body to send.
        headers: Sent besides the usual ones.
        timeout: Seconds for all of it: to connect, to send, to wait and to read.
        proxies: Whether to use the proxies that the environment names.

    Raises:
        NoReplyError: If the deadline passed, the connection failed, or the reply was not HTTP or cut short.
    """
    with start_blocking_portal() as portal:
        return portal.call(
            functools.partial(_exchange, url, content, headers, timeout=timeout, proxies=proxies)
        )


async def _exchange(
    url: str, content: bytes | None, headers: Mapping[str, str], *, timeout: float, proxies: bool
) -> Reply:
    response, body, problem = None, bytearray(), None
    try:
        async with (
            asyncio.timeout(timeout) as deadline,
            httpx2.AsyncClient(timeout=None, trust_env=proxies, verify=_tls()) as client,
            client.stream(
                "GET" if content is None else "POST",
                url,
                content=content,
                headers={**headers, "Accept-Encoding": "identity"},  # so that a byte is a byte
            ) as response,
        ):
            most = MOST_BYTES
            if not response.is_success:
                soon = asyncio.get_running_loop().time() + _ERROR_SECONDS
                deadline.reschedule(min(soon, deadline.when() or soon))
                most = _MOST_BYTES_OF_ERROR
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > most:
                    break
    except TimeoutError:
        problem = f"timed out after {timeout:g} s"
    except (
        ExceptionGroup,
        httpx2.HTTPError,
        httpx2.InvalidURL,
        httpx2.StreamError,
        OSError,
        ImportError,
        ValueError,
    ) as error:
        problem = _reason(error)
    if response is None or (problem is not None and response.is_success):
        raise NoReplyError(problem)
    return Reply(
        response.status_code,
        response.reason_phrase,
        bytes(body),
        response.is_success and len(body) > MOST_BYTES,
        _seconds(response.headers.get("Retry-After", "")),
    )


def _reason(error: BaseException) -> str:
    """What the system said, where it was asked; libraries put it behind words of their own."""
    told, inner = str(error) or type(error).__name__, error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno:
            told = os.strerror(inner.errno) if inner.errno > 0 else str(inner.strerror)
        first = inner.exceptions[0] if isinstance(inner, BaseExceptionGroup) else None
        inner = first or inner.__cause__ or inner.__context__
    return told


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context()
