"""``+experiment=dopsd`` on a tiny pipeline and four pictures."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from support.pictures import picture_file
from support.tiny_families import Family, make_family
from support.tiny_runs import RUN
from support.tiny_vision import seeing_family

SMALL = ("adapter.rank=2", "adapter.alpha=4", "phase.ema.update_interval=2", "optimizer.lr=1e-2")


def write_pairs(folder: Path) -> Path:
    """Four pictures with a short and a long caption each."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(4):
        name = Path(picture_file(folder, number, 80, 64).path).name
        line = {"file_name": name, "text": f"thing {number}", "long": f"thing {number}, all of it"}
        lines.append(json.dumps(line))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


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
