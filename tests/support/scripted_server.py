"""A server that says, byte for byte, what a test tells it to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Script = Callable[[socket.socket], None]
"""What is done with one connection once its request is there."""


def saying(*lines: str, body: bytes = b"") -> Script:
    """Say these lines and this body, then close the connection."""
    said = "\r\n".join((*lines, "", "")).encode() + body
    return lambda line: line.sendall(said)


def reply(status: str, body: bytes, length: int | None = None) -> Script:
    """A reply whose body may be shorter than it says."""
    return saying(
        f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", body=body
    )


@contextlib.contextmanager
def scripted(*scripts: Script) -> Iterator[tuple[str, list[bytes]]]:
    """Address of a server that follows a script per connection, the last one from then on; first lines seen.

    A script runs until it returns or its client has gone; one that waits for the latter reads.
    """
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    line, _ = listening.accept()
                except OSError:  # the test has ended
                    return
                with line, contextlib.suppress(OSError):
                    seen.append(_request(line))
                    scripts[min(len(seen), len(scripts)) - 1](line)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", seen
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _request(line: socket.socket) -> bytes:
    said = b""
    while b"\r\n\r\n" not in said:
        said += line.recv(1 << 16)
    head, _, body = said.partition(b"\r\n\r\n")
    lengths = [
        int(text.split(b":")[1]) for text in head.split(b"\r\n") if text.lower().startswith(b"content-length")
    ]
    while len(body) < sum(lengths):
        body += line.recv(1 << 16)
    return head
