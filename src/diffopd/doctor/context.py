"""Does what a model that teaches itself is told help it? As measured before the first round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from diffopd.callbacks import ContextProbe
from diffopd.doctor.finding import Finding, Level


def context_findings(callbacks: Iterable[Any], values: Mapping[str, Any]) -> Iterator[Finding]:
    """What the probe of a measured trial found.

    Args:
        callbacks: Of its trainer.
        values: The composed config as plain values, whose own answer counts: a trial never ends by it.
    """
    refuses = any(node.get("if_no_help") == "refuse" for node in values["callbacks"].values())
    for probe in callbacks:
        if not isinstance(probe, ContextProbe) or probe.gain is None:
            continue
        if probe.gain.helps:
            yield Finding(Level.FINE, "context", probe.gain.summary)
        for problem in probe.gain.problems:
            fails = refuses and not probe.gain.helps
            yield Finding(Level.FAILURE if fails else Level.WARNING, "context", problem)
