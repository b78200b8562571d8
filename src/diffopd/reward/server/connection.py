"""Bounds on the connections of a reward server, which uvicorn leaves open as long as a client likes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedConnection(H11Protocol):
    """One connection, for one request.

    Args:
        most: Connections open at once; a further one is answered 503 and closed.
        idle: Seconds in which a request's first lines have to arrive.
        lifetime: Seconds after which the connection is cut, whatever its state.
        uvicorn: What uvicorn gives a protocol.
    """

    def __init__(self, *, most: int, idle: float, lifetime: float, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._most, self._idle, self._lifetime = most, idle, lifetime
        self._timers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Close what is one too many; start the clocks of the others."""
        super().connection_made(transport)
        self._timers.append(self.loop.call_later(self._lifetime, transport.abort))
        if len(self.connections) > self._most:
            transport.write(_too_many(self._most))
            transport.close()
        else:
            self._timers.append(self.loop.call_later(self._idle, self._cut_if_idle))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)

    def _cut_if_idle(self) -> None:
        if self.cycle is None:
            self.transport.abort()


def _too_many(most: int) -> bytes:
    body = json.dumps({"error": f"{most} connections are open already; try again later"}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
