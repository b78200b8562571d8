import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from diffopd.types import Prompts
from diffopd.world.draw import draw
from diffopd.world.layout import random_scene
from diffopd.world.request import caption, metadata
from diffopd.world.split import random_request

Drawings = Callable[..., tuple[Tensor, Prompts]]


@pytest.fixture(scope="session")
def drawings() -> Drawings:
    """``drawings(forms, number, seed)``: clean drawings of held-out requests, and their prompts."""

    def make(
        forms: tuple[str, ...], number: int, seed: int, task: str = "composition"
    ) -> tuple[Tensor, Prompts]:
        images, texts, lines = [], [], []
        for i in range(number):
            rng = np.random.default_rng((seed, i))
            request = random_request(forms[i % len(forms)], rng, held_out=True)
            images.append(draw(random_scene(request, rng, allow_held_out=True)))
            texts.append(caption(request))
            lines.append(metadata(request))
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        rows = tuple(range(number))
        return pixels, Prompts(tuple(texts), (task,) * number, tuple(lines), rows, rows)

    return make
