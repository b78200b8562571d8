"""What a look-up on the hub may raise, so that each caller tells it as a problem of its setting."""

from __future__ import annotations

import httpx2
from huggingface_hub.errors import HFValidationError

HUB_ERRORS = (OSError, HFValidationError, httpx2.HTTPError)
"""No such name or file, no permission, no network; a connection that is cut is no OSError."""
