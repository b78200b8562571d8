"""The signals that ask a command to end, and how a command ends."""

from __future__ import annotations

import signal

REQUESTS_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""A scheduler's, Ctrl-C, and the warning that SLURM sends ahead of a time limit (``--signal=USR1@120``)."""

INTERRUPTED = 75
"""Exit code of a command that was asked to end before it was done: start it again (EX_TEMPFAIL)."""


class Ended(SystemExit):
    """An end that this package has decided on. Any other ``SystemExit`` is of code that a config names."""
