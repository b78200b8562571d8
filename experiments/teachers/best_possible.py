"""The best aesthetics a model of the drawn world can hope for: ``python best_possible.py``.

Percentiles over 10,000 drawings of the pretraining mixture without signs, as a drawing is not made to score
well. (Composition and OCR: clean drawings score 1.000, see tests/reward.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.configs import config_folder
from diffopd.data.drawings import to_image_tensor, training_drawing
from diffopd.types import Prompts

NUM_DRAWINGS = 10_000
SEED = 1


def rewards_of(names: list[str]) -> dict[str, Any]:
    """The configured rewards."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        return {name: instantiate(compose(f"reward/{name}").reward) for name in names}


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    quality = rewards_of(["picture_quality"])["picture_quality"]
    values: list[float] = []
    index = 0
    while len(values) < NUM_DRAWINGS:
        drawings = [training_drawing(SEED, i, 0.0) for i in range(index, index + 500)]
        index += 500
        images = to_image_tensor(np.stack([drawing.pixels for drawing in drawings]))
        count = len(drawings)
        texts = tuple(drawing.text for drawing in drawings)
        rows = tuple(range(count))
        values += quality(
            images, Prompts(texts, ("aesthetic",) * count, ({},) * count, rows, rows)
        ).value.tolist()
    print(f"picture_quality of {len(values)} drawings: mean {np.mean(values):.3f}")
    for percent in (1, 5, 50, 95, 99):
        print(f"  percentile {percent}: {np.percentile(values, percent):.3f}")


if __name__ == "__main__":
    main()
