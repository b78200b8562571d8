"""A photograph of a cat and the same buried in noise: to check detectors of objects."""

from __future__ import annotations

from diffopd.files.paths import resolve_path
from diffopd.files.png import read_png
from diffopd.reward.learned.under_noise import under_noise
from diffopd.types import KnownPair

PHOTOGRAPH = "package://assets/photos/cat.jpg"


def cat_and_noise() -> KnownPair:
    """A cat's head filling the picture, and the same at a tenth of its strength under uniform noise."""
    clear = read_png(resolve_path(PHOTOGRAPH))
    asked = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    return KnownPair.of(clear, under_noise(clear), "a photo of a cat", "composition", asked)
