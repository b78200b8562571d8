"""A mistake in the configuration, told in the user's words."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException

_CALLED = re.compile(r"Error in call to target '([\w.]+)'")


class ConfigError(ValueError):
    """A configuration is refused; the message names config path, what came and what is allowed."""


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Raise what goes wrong inside as a :class:`ConfigError`, if a configuration can be the cause.

    That is a ``ValueError``, a class that cannot be imported, a node that does not resolve, or whatever a
    class of another library raises when it is built: all it got is the config's. Anything else passes.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from error
    except InstantiationException as error:
        cause, called = error.__cause__, _CALLED.search(str(error))
        foreign = called is not None and not called[1].startswith("diffopd.")
        if isinstance(cause, (ValueError, ImportError)) or (foreign and cause is not None):
            where = str(error).rpartition("full_key: ")[2]
            place = where if where != str(error) else called[1] if foreign and called else ""
            raise ConfigError(f"{place}: {cause}" if place else str(cause)) from error
        raise


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
