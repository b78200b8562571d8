"""The best aesthetics a model of the drawn world can hope for: ``python best_possible.py``.

Percentiles over 10,000 drawings of the pretraining mixture without signs, as a drawing is not made to score
well. (Composition and OCR: clean drawings score 1.000, see tests/reward.)
"""

from __future__ import annotations

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from diffopd.config.folder import config_folder
from diffopd.data.drawings import to_image_tensor, training_drawing
from diffopd.types import Prompts

NUM_DRAWINGS = 10_000
BATCH_SIZE = 500
SEED = 1
SIDE = 32


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with initialize_config_dir(config_folder(), version_base="1.3"):
        quality = instantiate(compose("reward/aligned_quality").reward)
    values: list[float] = []
    for start in range(0, NUM_DRAWINGS, BATCH_SIZE):
        drawings = [
            training_drawing(SEED, index, 0.0, side=SIDE) for index in range(start, start + BATCH_SIZE)
        ]
        images = to_image_tensor(np.stack([drawing.pixels for drawing in drawings]))
        texts, rows = tuple(drawing.text for drawing in drawings), tuple(range(BATCH_SIZE))
        prompts = Prompts(texts, ("aesthetic",) * BATCH_SIZE, ({},) * BATCH_SIZE, rows, rows)
        values += quality(images, prompts).value.tolist()
    print(f"aligned_quality of {len(values)} drawings: mean {np.mean(values):.3f}")
    for percent in (1, 5, 50, 95, 99):
        print(f"  percentile {percent}: {np.percentile(values, percent):.3f}")


if __name__ == "__main__":
    main()
