"""A reward server in this process, and what to ask it."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time

import httpx2
import torch

from diffopd.reward.server.batching import Batcher
from diffopd.reward.server.remote import RemoteReward
from diffopd.reward.server.serving import Patience, RewardServer
from diffopd.reward.server.wire import Limits, encode_request
from diffopd.types import Prompts

LIMITS = Limits(body=10**6, images=8, side=64, pixels=8 * 32**2)
PATIENCE = Patience(request=60.0, idle=60.0, shutdown=60.0, connections=64)
WAIT = 60.0  # seconds for what has to happen


def prompts(number, group_size=1):
    rows = tuple(range(number))
    groups = tuple(row // group_size for row in rows)
    return Prompts(tuple(f"prompt {i}" for i in rows), ("t",) * number, ({},) * number, rows, groups)


def images(number, size=(4, 6)):
    return torch.rand(number, 3, *size, generator=torch.Generator().manual_seed(0))


def pixels(number, size=(4, 6)):
    return (images(number, size) * 255).round().byte()


def brightness(images, prompts):
    return images.mean((1, 2, 3))


def body(number=1, size=(4, 6), **changes):
    content = encode_request(images(number, size), prompts(number))
    return json.dumps({**content, **changes}).encode()


def batching(reward, *, max_images=8, max_wait=0.0, max_waiting=64, max_waiting_pixels=10**6):
    return Batcher(
        reward,
        max_images=max_images,
        max_wait=max_wait,
        max_waiting=max_waiting,
        max_waiting_pixels=max_waiting_pixels,
    )


@contextlib.contextmanager
def server(reward, *, token=None, limits=LIMITS, patience=PATIENCE, **batch):
    """A server that answers until the block ends."""
    batcher = batching(reward, **batch)
    with RewardServer(
        "127.0.0.1", 0, batcher=batcher, limits=limits, token=token, patience=patience
    ) as running:
        thread = threading.Thread(target=running.serve)
        thread.start()
        running.thread = thread
        try:
            yield running
        finally:
            running.stop()
            thread.join()


def client(address, **changes):
    settings = {
        "token_variable": "NO_TOKEN",
        "timeout": 60.0,
        "retries": 2,
        "backoff": 0.0,
        "images_per_request": 8,
    }
    return RemoteReward(address=address, **{**settings, **changes})


def ask(method, url, **sent):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused, and empty, as filling one takes a while
    with httpx2.Client(timeout=WAIT, trust_env=False, verify=tls) as asking:
        return asking.request(method, url, **sent)


def post(address, sent, headers=None):
    """Status and reply."""
    reply = ask("POST", f"{address}/score", content=sent, headers=headers)
    return reply.status_code, reply.json()


def health(address):
    return ask("GET", f"{address}/health")


def connect(running):
    return socket.create_connection(running.server_address, timeout=WAIT)


def head(length, *lines, path="/score"):
    """The first lines of a POST."""
    all_lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines, "", "")
    return "\r\n".join(all_lines).encode()


def told(line):
    """All that a server still says on a connection, until it closes it."""
    said = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while more := line.recv(1 << 16):
            said += more
    return bytes(said)


def until(holds):
    """Wait for what has to become true."""
    end = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.005)
