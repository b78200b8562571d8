"""A connection from every process to the first one, by which all learn within moments that one has died.

Collective operations are not enough: with NCCL those who wait for a dead process wait until a time-out of
many minutes. The kernel closes a socket however its process ends, and a thread of its own sees that while the
main thread waits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable

GRACE = 5.0
"""Seconds from the news of a death to this process's end, in which tracebacks are printed."""
CONNECT = 60.0
"""Seconds for all processes to connect."""
_GOODBYE, _FAILED = b"b", b"f"
_TOKEN_BYTES, _RANK_BYTES = 16, 8


def end_process(message: str) -> None:
    """Say why this process ends, and end it after a moment, whatever its main thread does."""
    time.sleep(GRACE)
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
    os._exit(1)


class Lifeline:
    """One process's end of the connections.

    It keeps a thread that waits for the end of any other process.

    Args:
        connections: Rank of another process -> the connection to it.
        ended: Called with a message, in the thread, when one of them has died.
    """

    def __init__(self, connections: dict[int, socket.socket], ended: Callable[[str], None]) -> None:
        self._connections = connections
        self._ended = ended
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self._thread.start()

    @staticmethod
    def tie(
        rank: int,
        num_processes: int,
        address: str,
        share: Callable[[tuple[int, bytes] | None], tuple[int, bytes] | None],
        ended: Callable[[str], None] = end_process,
    ) -> Lifeline:
        """Connect all processes; each of them calls this.

        Args:
            rank: Of this process.
            num_processes: Of all.
            address: Where the others reach the first process.
            share: Gives all processes what the first passes: a port, and what proves to be one of them.
            ended: As for the class.

        Raises:
            TimeoutError: If the connections are not made in time.
        """
        if rank:
            given = share(None)
            assert given is not None
            port, token = given
            line = socket.create_connection((address, port), timeout=CONNECT)
            line.settimeout(None)
            line.sendall(token + rank.to_bytes(_RANK_BYTES, "big"))
            return Lifeline({0: line}, ended)
        local = address in ("127.0.0.1", "localhost")
        with socket.create_server(("127.0.0.1" if local else "", 0), backlog=num_processes) as server:
            token = secrets.token_bytes(_TOKEN_BYTES)
            share((server.getsockname()[1], token))
            return Lifeline(_accepted(server, num_processes - 1, token), ended)

    def fail(self) -> None:
        """Tell the others that this process is about to end with an error, which may take it a while."""
        self._send(_FAILED)

    def close(self) -> None:
        """Take leave: that this process ends is no news from here on."""
        self._send(_GOODBYE)
        self._closed.set()

    def _send(self, message: bytes) -> None:
        for line in self._connections.values():
            with contextlib.suppress(OSError):
                line.sendall(message)

    def _watch(self) -> None:
        self._wait_for_an_end()
        self._closed.wait()
        for line in self._connections.values():
            line.close()

    def _wait_for_an_end(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, line in self._connections.items():
                selector.register(line, selectors.EVENT_READ, rank)
            while selector.get_map():
                for key, _ in selector.select():
                    if (said := _received(key.fileobj)) == _GOODBYE:
                        selector.unregister(key.fileobj)
                        continue
                    if self._closed.is_set():
                        return
                    how = "failed" if said == _FAILED else "died"
                    self._send(_FAILED)
                    whom = f"process {key.data}" if key.data or said != _FAILED else "another process"
                    self._ended(f"{whom} of this run has {how}, see above; this process also exits")
                    return


def _received(line: object) -> bytes:
    """What the other end says, one byte; empty if it is gone."""
    assert isinstance(line, socket.socket)
    try:
        return line.recv(1)
    except OSError:
        return b""


def _accepted(server: socket.socket, number: int, token: bytes) -> dict[int, socket.socket]:
    """The connections of all other processes; strangers are turned away."""
    found: dict[int, socket.socket] = {}
    until = time.monotonic() + CONNECT
    while len(found) < number:
        server.settimeout(max(0.001, until - time.monotonic()))
        line, _ = server.accept()
        line.settimeout(max(0.001, until - time.monotonic()))
        hello = b""
        with contextlib.suppress(OSError):
            while len(hello) < _TOKEN_BYTES + _RANK_BYTES and (more := line.recv(64)):
                hello += more
        if not secrets.compare_digest(hello[:_TOKEN_BYTES], token):
            line.close()
            continue
        line.settimeout(None)
        found[int.from_bytes(hello[_TOKEN_BYTES:], "big")] = line
    return found
