"""A mistake in the configuration, told in the user's words."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException


class ConfigError(ValueError):
    """A configuration is refused; the message names config path, what came and what is allowed."""


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Raise what goes wrong inside as a :class:`ConfigError`, if a configuration can be the cause.

    That is a ``ValueError``, a class that cannot be imported, or a node that does not resolve. Anything else
    passes.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from error
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, ImportError)):
            where = str(error).rpartition("full_key: ")[2]
            raise ConfigError(f"{where}: {cause}" if where != str(error) else str(cause)) from error
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
