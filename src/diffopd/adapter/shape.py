"""How much of a network is trained: what ``adapter`` chooses."""

from __future__ import annotations


class Shape:
    """Base of what a policy can be made from: low-rank factors, or whole weights."""
