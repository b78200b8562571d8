"""Picture files of few pixels, drawn from a seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from diffopd.files.png import save_png
from diffopd.types import Picture


def picture_file(folder: Path, seed: int, height: int = 64, width: int = 64) -> Picture:
    """A smooth random picture, saved."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    path = save_png(image, folder / f"picture{seed}.png")
    return Picture(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), height, width)


def write_pairs(folder: Path) -> Path:
    """Four pictures with a short and a long caption each, preferred to the next one."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(4):
        name = Path(picture_file(folder, number, 80, 64).path).name
        line = {"file_name": name, "text": f"thing {number}", "long": f"thing {number}, all of it"}
        line["rejected_file_name"] = f"picture{(number + 1) % 4}.png"
        lines.append(json.dumps(line))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder
