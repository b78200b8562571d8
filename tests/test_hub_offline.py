"""Without a network the hub's client says so at its first try; what breaks later is still tried again."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import _http

from diffopd.weights import hub


@pytest.fixture
def sleeps(monkeypatch):
    """Seconds that the client would wait before each further try."""
    waited: list[float] = []
    monkeypatch.setattr(_http.time, "sleep", waited.append)
    monkeypatch.setattr(hub, "_reached", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    hub.tell_at_once()
    yield waited
    huggingface_hub.set_client_factory(_http.default_client_factory)


def closed_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def ask(port: int, folder) -> None:
    huggingface_hub.hf_hub_download(
        "owner/name", "model_index.json", endpoint=f"http://127.0.0.1:{port}", cache_dir=folder
    )


def test_no_network_is_told_at_the_first_try(sleeps, tmp_path):
    with pytest.raises(LocalEntryNotFoundError) as refused:
        ask(closed_port(), tmp_path)
    assert sleeps == []
    assert "the hub cannot be reached at http://127.0.0.1" in str(refused.value.__cause__)


def test_a_hub_that_has_answered_is_tried_again(sleeps, tmp_path):
    class Missing(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Missing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(LocalEntryNotFoundError):
            ask(server.server_port, tmp_path)
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()
    with pytest.raises(LocalEntryNotFoundError):
        ask(closed_port(), tmp_path)
    assert len(sleeps) >= 3
