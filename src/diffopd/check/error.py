"""A mistake in the configuration, described in the user's words."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException

_UNREADABLE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_CALLED = re.compile(r"Error in call to target '([\w.]+)'")


class ConfigError(ValueError):
    """An error in a configuration; the message names config path, what came and what is allowed."""


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Raise what goes wrong inside as a :class:`ConfigError`, if a configuration can be the cause.

    That is a ``ValueError``, a class that cannot be imported, a node that does not resolve, a file that is
    missing or cannot be read, or whatever a class of another library raises when it is built: all it got is
    the config's. Anything else passes.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from error
    except _UNREADABLE as error:
        raise ConfigError(_of_file(error)) from error
    except InstantiationException as error:
        cause, called = error.__cause__, _CALLED.search(str(error))
        foreign = called is not None and not called[1].startswith("diffopd.")
        # Libraries that load weights raise an OSError of words alone for what they do not find.
        unreadable = isinstance(cause, _UNREADABLE) or (isinstance(cause, OSError) and cause.errno is None)
        if isinstance(cause, (ValueError, ImportError)) or unreadable or (foreign and cause is not None):
            where = str(error).rpartition("full_key: ")[2]
            place = where if where != str(error) else called[1] if foreign and called else ""
            text = _of_file(cause) if isinstance(cause, OSError) else str(cause)
            raise ConfigError(f"{place}: {text}" if place else text) from error
        raise


def _of_file(error: OSError) -> str:
    """What went wrong with which file; libraries write sentences of their own."""
    if error.filename is None:
        return str(error)
    return f"{error.filename}: {error.strerror or type(error).__name__}"


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """``"; did you mean ...?"`` with the known name nearest to ``name``, or nothing if none is near.

    Examples:
        >>> did_you_mean("rond", ["round", "seed"], "phase.")
        '; did you mean phase.round?'
        >>> did_you_mean("x", ["round", "seed"])
        ''
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
