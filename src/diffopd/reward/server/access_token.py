"""The token that a server's clients send, from the environment; its value is never shown."""

from __future__ import annotations

import os


def read_token(variable: str) -> str | None:
    """The token in an environment variable, without white space around it; None if there is none.

    Args:
        variable: Name of the environment variable.

    Raises:
        ValueError: If it cannot be sent in a header.
    """
    token = os.environ.get(variable, "").strip()  # a file read with cat or echo ends in a newline
    if not all("!" <= letter <= "~" for letter in token):
        raise ValueError(
            f"the token in the environment variable {variable} must be ASCII letters, digits and signs, "
            "without spaces or line breaks inside; its value is not shown"
        )
    return token or None
