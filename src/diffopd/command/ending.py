"""Ends that are no fault of the program: their messages, and that none of them looks like success."""

from __future__ import annotations

import contextlib
import errno
import os
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

from diffopd.host.signals import Ended

SURROUNDINGS = {
    errno.EFBIG: "the file would exceed the size limit (see ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.ESTALE: "the file system is no longer available",
    errno.EIO: "the device failed",
    errno.EMFILE: "too many files are open (see ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
}
"""Errors of files with a cause outside the run -> the message."""
_AS_SAFETENSORS_SAYS = {errno.EFBIG: "File too large", errno.EROFS: "Read-only file system"}


class EndedFromOutsideError(RuntimeError):
    """Code that a config names, such as a reward, has ended the program by itself."""


@contextlib.contextmanager
def no_end_from_outside(code: int) -> Iterator[None]:
    """Have no code that a config names end the program as if it were done.

    Its ``sys.exit`` becomes an error, and its ``os._exit(0)`` ends with another code: scripts take 0
    for a result that is there.

    Args:
        code: Exit code in place of the 0 of ``os._exit``, which nothing can catch.

    Raises:
        EndedFromOutsideError: If anything but this package raises ``SystemExit`` inside.
    """
    process, end = os.getpid(), os._exit

    def end_honestly(status: int) -> NoReturn:
        if status == 0 and os.getpid() == process:  # not in a forked copy, which ends so as a rule
            with contextlib.suppress(OSError):
                os.write(2, b"stopped: os._exit(0) was called before the command was done\n")
            status = code
        end(status)

    swapped: Any = os
    swapped._exit = end_honestly
    try:
        yield
    except Ended:
        raise
    except (SystemExit, KeyboardInterrupt) as error:  # Ctrl-C itself is a request to end, and raises nothing
        how = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else type(error).__name__
        frames = traceback.extract_tb(error.__traceback__)
        last = next(frame for frame in reversed(frames) if "_sitebuiltins" not in frame.filename)  # exit()'s
        place = f"{last.filename}, line {last.lineno}, in {last.name}"
        raise EndedFromOutsideError(f"{how} in {place} ended the command before it was done") from error
    finally:
        swapped._exit = end


def why_stopped(error: Exception) -> str | None:
    """The message for an error that is no fault of the program, or None."""
    # These bring torch, which is there when anything was trained or written.
    from diffopd.files.atomic import is_full_disk
    from diffopd.non_finite.error import NonFiniteError
    from diffopd.reward.checked import RewardError
    from diffopd.reward.server.http_json import ServerError

    if is_full_disk(error):
        return (
            f"no space left on the disk ({error}). What was saved before is intact; free some space, and the "
            "same command resumes from the newest checkpoint"
        )
    if told := _of_surroundings(error):
        return f"{told} ({error}). What was saved before is intact; the same command resumes from there"
    unanswered = isinstance(error, RewardError) and isinstance(error.__cause__, ServerError)
    told_already = isinstance(error, (NonFiniteError, EndedFromOutsideError))
    return str(error) if unanswered or told_already else None


def _of_surroundings(error: Exception) -> str | None:
    if isinstance(error, OSError) and error.errno is not None:
        return SURROUNDINGS.get(error.errno)
    if type(error).__name__ != "SafetensorError":  # which has no number, only words
        return None
    return next((SURROUNDINGS[n] for n, words in _AS_SAFETENSORS_SAYS.items() if words in str(error)), None)
