"""What other people's code raised, in words that are always there."""

from __future__ import annotations


def told(error: BaseException) -> str:
    """The kind of an error and what it says; the kind alone if it says nothing, or fails while saying it.

    Examples:
        >>> told(ValueError("no sky")), told(MemoryError())
        ('ValueError: no sky', 'MemoryError')
    """
    kind = type(error).__name__
    try:
        says = str(error)
    except Exception:  # its class is theirs, too
        return f"{kind} (which cannot be printed)"
    return f"{kind}: {says}" if says else kind
