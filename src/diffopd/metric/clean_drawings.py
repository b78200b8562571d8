"""Clean drawings to compare generated images with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.world.draw import draw
from diffopd.world.layout import random_scene
from diffopd.world.split import random_request


def clean_drawings(
    *, forms: Sequence[str], number: int, seed: int, held_out: bool
) -> Float[Tensor, " batch 3 height width"]:
    """Drawings of random requests, the forms in turn; image ``i`` depends on ``seed`` and ``i`` alone.

    Args:
        forms: Forms of request.
        number: How many images.
        seed: Of every choice.
        held_out: Draw what evaluation prompts ask for rather than what training prompts do.

    Returns:
        Images in [0, 1].
    """
    images = []
    for i in range(number):
        rng = np.random.default_rng((seed, i))
        request = random_request(forms[i % len(forms)], rng, held_out=held_out)
        images.append(draw(random_scene(request, rng, allow_held_out=held_out)))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
