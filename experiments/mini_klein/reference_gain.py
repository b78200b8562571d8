"""How much a reference picture helps a pipeline, on figures that it has never seen.

    python experiments/mini_klein/reference_gain.py <pipeline folder>

Mean squared error of the clean prediction, in units of normalized latents, by noise level: with the caption
alone, with the target itself as reference, and, for another drawing of the figure, with its caption alone and
with the first drawing as reference.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch import Tensor

from diffopd.data.drawings import Drawing, figure_drawing, to_image_tensor
from diffopd.flow import interpolate
from diffopd.model.pretraining import Pretraining, pretraining
from diffopd.model.untrained import pipeline_to_train
from diffopd.randomness import torch_generator
from diffopd.world.figure_request import THE_SAME_PICTURE

SIGMAS = (0.95, 0.75, 0.5, 0.25)
SEED = 0


def measure(family: Pretraining, number: int) -> dict[str, dict[float, float]]:
    """Kind of sample -> noise level -> mean squared error."""
    side = family.pipeline.vae.config.sample_size
    pairs = [
        [figure_drawing(SEED, index, side=side, again=again, held_out=True) for index in range(number)]
        for again in (False, True)
    ]
    first, second = (family.encode(_pictures(drawings)) for drawings in pairs)
    texts, again = ([drawing.text for drawing in drawings] for drawings in pairs)
    kinds: dict[str, tuple[list[str], Tensor, Tensor | None]] = {
        "text": (texts, first, None),
        "copy": ([text + THE_SAME_PICTURE for text in texts], first, first),
        "elsewhere, text": ([text.replace("the same", "a") for text in again], second, None),
        "elsewhere": (again, second, first),
    }
    noise = torch.randn(first.shape, generator=torch_generator(SEED, "reference_gain"))
    found: dict[str, dict[float, float]] = {}
    for kind, (captions, clean, reference) in kinds.items():
        found[kind] = {}
        for level in SIGMAS:
            sigma = torch.full((number,), level)
            latent = interpolate(clean, noise, sigma)
            error = latent - level * family.velocity(latent, sigma, captions, reference) - clean
            found[kind][level] = round(float(error.square().mean()), 4)
    return found


def _pictures(drawings: list[Drawing]) -> Tensor:
    return to_image_tensor(np.stack([drawing.pixels for drawing in drawings])) * 2 - 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How much a reference picture helps a pipeline.")
    parser.add_argument("pipeline")
    parser.add_argument("--number", type=int, default=256, help="figures")
    parser.add_argument("--text-length", type=int, default=28)
    arguments = parser.parse_args()
    with torch.no_grad():
        trained = pretraining(pipeline_to_train(path=arguments.pipeline), arguments.text_length)
        print(json.dumps(measure(trained, arguments.number), indent=1))
