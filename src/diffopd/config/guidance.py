"""At which guidance the model that a run trains is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def trained_guidance(settings: Mapping[str, Any]) -> float | None:
    """Guidance of the student in its loss, which is that of its rollouts unless the phase says otherwise.

    Args:
        settings: Of a run, as it was saved.

    Returns:
        None for a run without a sampler.

    Examples:
        >>> trained_guidance({"sampler": {"guidance_scale": 4.5}, "phase": {"loss_guidance_scale": 1}})
        1.0
    """
    of_loss = (settings.get("phase") or {}).get("loss_guidance_scale")
    scale = (settings.get("sampler") or {}).get("guidance_scale") if of_loss is None else of_loss
    return None if scale is None else float(scale)
