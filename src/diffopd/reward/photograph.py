"""A photograph of a cat and the same buried in noise: a known pair for detectors of objects."""

from __future__ import annotations

import torch

from diffopd.files import resolve_path
from diffopd.png import read_png
from diffopd.types import KnownPair

PHOTOGRAPH = "package://assets/photos/cat.jpg"
_NOISE_SHARE = 0.9


def cat_and_noise() -> KnownPair:
    """A cat's head filling the picture, and the same at a tenth of its strength under uniform noise."""
    clear = read_png(resolve_path(PHOTOGRAPH))
    noise = torch.rand(clear.shape, generator=torch.Generator().manual_seed(0))
    buried = (1 - _NOISE_SHARE) * clear + _NOISE_SHARE * noise
    asked = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    return KnownPair.of(clear, buried, "a photo of a cat", "composition", asked)
