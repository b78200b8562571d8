"""The run-time type checker of the tests: beartype, taking an int for a float as Python does."""

from collections.abc import Callable
from inspect import isfunction
from typing import Any

import jaxtyping
from beartype import BeartypeConf
from beartype import beartype as _beartype

beartype = _beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped: Callable[..., Any] = jaxtyping.jaxtyped


def check_tensors_alone() -> None:
    """Have functions without a tensor in their signature called as they are.

    They are most calls of a training, and a checked call takes ten times as long. pyright checks them. To be
    called before the packages of ``--jaxtyping-packages`` are imported.
    """
    jaxtyping.jaxtyped = _jaxtyped_if_tensors


def _jaxtyped_if_tensors(fn: Any = None, **settings: Any) -> Any:
    """As ``jaxtyping.jaxtyped``."""
    if fn is None:
        return lambda found: _jaxtyped_if_tensors(found, **settings)
    function = next(
        (part for part in (getattr(fn, "__func__", fn), getattr(fn, "fget", None)) if isfunction(part)), None
    )
    if function is not None and not any("Tensor" in str(kind) for kind in function.__annotations__.values()):
        return fn
    return _jaxtyped(fn, **settings)
