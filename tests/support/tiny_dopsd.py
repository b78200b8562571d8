"""``+experiment=dopsd`` on a tiny pipeline and four pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from support.pictures import write_pairs
from support.tiny_families import Family, make_family
from support.tiny_runs import RUN
from support.tiny_vision import seeing_family

SMALL = (
    *("adapter.rank=2", "adapter.alpha=4", "phase.ema.update_interval=2", "optimizer.lr=1e-2"),
    *("callbacks.context_probe.num_pictures=2", "callbacks.context_probe.num_draws=1"),
    "callbacks.leak_test.templates=null",  # nothing is drawn; tests of leaks ask for it
)


@cache
def family_in(name: str, folder: Path) -> Family:
    """A tiny pipeline, made once; a Z-Image with its vision tower."""
    return seeing_family(folder / name) if name == "z_image_turbo" else make_family(name, folder / name)


def dopsd_overrides(folder: Path, name: str) -> list[str]:
    """What makes the experiment small.

    Args:
        folder: Where pipeline and pictures are made, if they are not there.
        name: Of the family.
    """
    family = family_in(name, folder)
    pairs = folder / "pairs"
    if not pairs.is_dir():
        write_pairs(pairs)
    seen = ["domain.context.least_pixels=4096", "domain.context.most_pixels=4096"]
    seen = seen if name == "z_image_turbo" else []
    return [*RUN, *family.overrides, f"data.path={pairs}", "data.prompts_per_round=2", *SMALL, *seen]
