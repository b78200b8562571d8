"""The hub: what a look-up may raise, and how soon it does where there is no network."""

from __future__ import annotations

from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import _http

HUB_ERRORS = (OSError, HFValidationError, httpx2.HTTPError)
"""No such name or file, no permission, no network; a connection that is cut is no OSError."""

_reached = False


def tell_at_once() -> None:
    """Have the hub's client give up at once where no request of this process was ever answered.

    It would try for 24 seconds otherwise. What was downloaded before is then taken from the cache, as it is
    offline. Once the hub has answered, a connection that breaks is tried again as often as the client does.
    """
    huggingface_hub.set_client_factory(_client)


def _client() -> httpx2.Client:
    client = _http.default_client_factory()
    send = client.send

    def send_or_tell(request: httpx2.Request, **settings: Any) -> httpx2.Response:
        global _reached
        try:
            response = send(request, **settings)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if _reached:
                raise
            raise OfflineModeIsEnabled(
                f"the hub cannot be reached at {request.url.scheme}://{request.url.host} ({error}); is there "
                "a network, or a folder to give instead?"
            ) from error
        _reached = True
        return response

    client.send = send_or_tell
    return client
