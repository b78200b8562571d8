"""A reward over HTTP: JSON and PNG in, JSON out, by uvicorn and Starlette."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import uvicorn

from diffopd.reward.server.batching import Batcher
from diffopd.reward.server.connection import BoundedConnection
from diffopd.reward.server.endpoints import LINGER, Endpoints
from diffopd.reward.server.http_json import is_loopback
from diffopd.reward.server.wire import Limits

_DECODERS = 2  # threads that decode images


@dataclass(frozen=True)
class Patience:
    """How long, and for how many, a server waits.

    Attributes:
        request: Seconds in which a request has to arrive whole and be scored.
        idle: Seconds in which a connection has to send a request's first lines.
        shutdown: Seconds within which open requests are answered once the server has to stop.
        connections: Connections open at once.
    """

    request: float
    idle: float
    shutdown: float
    connections: int


class RewardServer:
    """Serves ``POST /score``, ``GET /health`` and ``GET /known_pair`` until it is stopped.

    It stops by itself, with :attr:`Batcher.failure` set, when the reward dies. A context manager: it closes
    the socket and the batcher.

    Args:
        host: Interface to listen at.
        port: Port; 0 = any that is free.
        batcher: Calls the reward.
        limits: What a request may hold.
        token: What clients must send; None = nothing.
        patience: How long it waits for clients and for the reward.

    Attributes:
        server_address: Host and port it listens at.
        scorer_hangs: Whether the reward was still running when the server had closed.

    Raises:
        ValueError: If others could reach the server and there is no token, or the port is taken.
    """

    def __init__(
        self, host: str, port: int, *, batcher: Batcher, limits: Limits, token: str | None, patience: Patience
    ) -> None:
        if not token and not is_loopback(host):
            raise ValueError(
                f"host={host} makes the server reachable for others, so it needs a token: put a long random "
                "text into the environment variable that token_variable names, or use host=127.0.0.1"
            )
        self.batcher, self.patience = batcher, patience
        self.scorer_hangs = False
        self._socket = _listening(host, port)
        self.server_address: tuple[str, int] = self._socket.getsockname()[:2]
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
        app = Endpoints(batcher, limits, token, timeout=patience.request, decoders=self._decoders)
        connection = functools.partial(
            BoundedConnection,
            most=patience.connections,
            idle=patience.idle,
            lifetime=patience.idle + patience.request + 2 * LINGER,
        )
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=cast(Any, connection),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=math.ceil(patience.shutdown),
            )
        )

    @property
    def address(self) -> str:
        """What clients are to be given."""
        host, port = self.server_address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def serve(self) -> None:
        """Answer requests until :meth:`stop`, or until the reward dies."""
        self.batcher.when_died(self.stop)
        asyncio.run(self._uvicorn.serve([self._socket]))

    def stop(self) -> None:
        """Accept nothing more; :meth:`serve` returns when what is under way is answered.

        It does so after :attr:`Patience.shutdown` at the latest; called again, at once.
        """
        self._uvicorn.force_exit = self._uvicorn.should_exit
        self._uvicorn.should_exit = True

    def close(self) -> None:
        """Free the port and end the batcher's thread, if the reward lets it end."""
        self._socket.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self.scorer_hangs = not self.batcher.close(timeout=1.0)

    def __enter__(self) -> RewardServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close, and cut what does not close in time."""
        await super().shutdown(sockets)
        if tasks := list(self.server_state.tasks):  # they were cancelled, and say so to their clients
            await asyncio.wait(tasks, timeout=1.0)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the connections note it


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:  # getaddrinfo would take another one
        raise ValueError(f"port={port} cannot be used: ports are numbers from 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        raise ValueError(f"host={host} port={port} cannot be used: {error}") from error
