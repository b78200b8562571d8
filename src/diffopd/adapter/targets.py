"""Does every name of a layer that is to get an adapter mean a layer? PEFT asks only that one of them does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

SETTING = "adapter.target_modules"
"""Where the names stand in the config; ``model.lora_modules`` unless they are set."""


def check_targets(names: Sequence[str], layers: Collection[str], architecture: str) -> None:
    """Check that each name is the end of the name of at least one linear layer.

    Args:
        names: Ends of names, as in ``adapter.target_modules``.
        layers: Names of all linear layers of the backbone.
        architecture: Class of the backbone, for the message.

    Raises:
        ValueError: If one matches nothing; with the nearest that would.

    Examples:
        >>> check_targets(["attn.to_q", "to_v"], ["blocks.0.attn.to_q", "blocks.0.attn.to_v"], "X")
    """
    ends = {end: None for layer in layers for end in _ends(layer)}
    for name in names:
        if name in ends:
            continue
        fused = [(name[:cut], name[cut:]) for cut in range(1, len(name))]
        fused = [pair for pair in fused if pair[0] in ends and pair[1] in ends]
        if fused:
            hint = f"it reads like two names without a comma: {fused[-1][0]},{fused[-1][1]}"
        else:
            nearest = _nearest(name, ends)
            hint = f"the nearest is {nearest}" if nearest else f"its layers are such as {min(layers)}"
        raise ValueError(
            f"{SETTING} (model.lora_modules unless it is set) has {name!r}, with which the name of no linear "
            f"layer of {architecture} ends; {hint}"
        )


def _ends(layer: str) -> list[str]:
    """What a name can be written as: with any number of its parts left out at the front."""
    parts = layer.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _nearest(name: str, ends: Collection[str]) -> str | None:
    """Of the ends with as many parts as ``name`` the most similar, else of all."""
    alike = [end for end in ends if end.count(".") == name.count(".")]
    for among in (alike, ends):
        if found := get_close_matches(name, among, n=1, cutoff=0.5):
            return found[0]
    return None
