"""HPSv2.1: a CLIP ViT-H/14 trained on people's rankings of images of one prompt.

References:
    Wu et al., "Human Preference Score v2", 2023, arXiv:2306.09341.
"""

from __future__ import annotations

import html
from typing import ClassVar, final

import ftfy
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.learned.clip_cosine import ClipCosineReward
from diffopd.reward.learned.pixels import padded_bicubic
from diffopd.types import Prompts, Scores

DESCRIPTION = "HPSv2.1: cosine"


@final
class HPSv2Reward(ClipCosineReward):
    """Cosine of image and prompt, in both scales."""

    reward: ClassVar[str] = "hpsv2"

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt; no gradient."""
        raw = self.clip.cosines(images, [cleaned(text) for text in prompts.texts], padded_bicubic)
        return Scores(raw, {}, DESCRIPTION)


def cleaned(text: str) -> str:
    """A prompt as open_clip's tokenizer reads it, but for the case, which the tokenizer itself lowers.

    Broken encodings and typographic quotes are repaired, HTML entities resolved, twice as some texts were
    escaped twice, and runs of white space become one space.

    Examples:
        >>> cleaned("a \u201cSALE\u201d  &amp;amp; more ")
        'a "SALE" & more'
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())
