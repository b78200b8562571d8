"""Checks that the losses' constructors share; messages name the config path."""

from __future__ import annotations

import math

from diffopd.flow.reduction import REDUCTIONS


def checked_reduction(reduction: str) -> str:
    """``reduction`` if it is one of the known ones.

    Raises:
        ValueError: If not.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"loss.reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}; "
            "mean is the released setting, sum the papers' formula"
        )
    return reduction


def check_positive(**settings: int | float) -> None:
    """Refuse a setting that is not a finite number above 0.

    Raises:
        ValueError: If there is one.
    """
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise ValueError(f"loss.{name} must be a finite number above 0, got {value}")


def check_kl_weight(kl_weight: int | float) -> None:
    """Check that the weight of the KL to the reference is a finite number of at least 0.

    Raises:
        ValueError: If it is not.
    """
    check_weight("kl_weight", kl_weight)


def check_weight(name: str, value: int | float) -> None:
    """Check that a weight is a finite number of at least 0.

    Raises:
        ValueError: If it is not.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"loss.{name} must be a finite number of at least 0, got {value}")


def missing_reference(kl_weight: int | float) -> ValueError:
    """The error of a loss that pulls to a reference and was given none."""
    return ValueError(
        f"loss.kl_weight is {kl_weight} but no reference velocity came; pass one or set loss.kl_weight=0"
    )
