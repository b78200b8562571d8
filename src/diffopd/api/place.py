"""A path, as functions of this package take one."""

from __future__ import annotations

import os

Place = str | os.PathLike[str]
"""A path; where weights are meant also ``package://...`` or ``owner/name`` on the hub."""
