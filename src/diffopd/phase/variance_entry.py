"""What is kept of a measured gradient: plain numbers, as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffopd.estimator import Estimator, GradientMoments

ALL_STEPS = "all"
"""Key of what is measured for all chosen steps together."""


def variance_entry(
    estimator: Estimator, latent_size: int, squared_exact: float, found: GradientMoments
) -> dict[str, Any]:
    """One estimator's numbers at one step.

    Args:
        estimator: Whose gradient was drawn.
        latent_size: Number of values in a latent, on which its expected scale depends.
        squared_exact: Squared norm of the closed form's gradient.
        found: Moments of the draws.
    """
    scale = estimator.expected_scale(latent_size)
    own = scale or 1.0  # a gradient of mean 0 is compared with the closed form's
    share, distance = found.share(), found.squared_distance()
    variances = {str(size): found.variance(size) for size in found.group_sizes}
    return {
        "log_prob_reduction": getattr(estimator, "log_prob_reduction", None),
        "expected_scale": scale,
        "variance": variances,
        "relative_variance": {
            size: _ratio(variance, own**2 * squared_exact) for size, variance in variances.items()
        },
        "squared_mean": found.squared_mean(),
        "squared_distance": distance.value,
        "squared_distance_error": distance.error,
        "distance_z": _finite(distance.z),
        "share": (scale + share.value) / own,
        "share_expected": scale / own,
        "share_error": share.error / own,
        "share_z": _finite(share.z),
    }


def headline(level: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of one noise level worth logging: those of all steps together."""
    logged: dict[str, float | None] = {
        "noise_level": level["noise_level"],
        "kl_nats": level["kl_nats"][ALL_STEPS],
        "squared_gradient": level["squared_gradient"][ALL_STEPS],
    }
    for name, by_step in level["estimators"].items():
        entry = by_step[ALL_STEPS]
        for size in entry["variance"]:
            logged[f"{name}/variance_{size}"] = entry["variance"][size]
            logged[f"{name}/relative_variance_{size}"] = entry["relative_variance"][size]
        for key in ("squared_mean", "share", "share_z", "distance_z"):
            logged[f"{name}/{key}"] = entry[key]
    return logged


def squared_norm(vector: Tensor) -> float:
    """Squared Euclidean norm, summed in float64."""
    return float(vector.double().square().sum())


def _ratio(value: float, unit: float) -> float | None:
    """``value / unit``; None where the unit is 0."""
    return value / unit if unit > 0 else None


def _finite(value: float) -> float | None:
    """``value``, or None if it is infinite, which JSON cannot hold."""
    return value if math.isfinite(value) else None
