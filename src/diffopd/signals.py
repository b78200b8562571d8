"""The signals that ask a command to end."""

from __future__ import annotations

import signal

REQUESTS_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""A scheduler's, Ctrl-C, and the warning that SLURM sends ahead of a time limit (``--signal=USR1@120``)."""
