"""HPSv2.1: a CLIP ViT-H/14 trained on people's rankings of images of one prompt.

References:
    Wu et al., "Human Preference Score v2", 2023, arXiv:2306.09341.
"""

from __future__ import annotations

import html
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.clip_cosine import ClipCosineReward
from diffopd.reward.pixels import padded_bicubic
from diffopd.types import Prompts, Scores

DESCRIPTION = "HPSv2.1: cosine"


@final
class HPSv2Reward(ClipCosineReward):
    """Cosine of image and prompt, in both scales."""

    reward: ClassVar[str] = "hpsv2"

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt; no gradient."""
        # open_clip's tokenizer resolves HTML entities, twice as some texts were escaped twice.
        texts = [html.unescape(html.unescape(text)).strip() for text in prompts.texts]
        raw = self.clip.cosines(images, texts, padded_bicubic)
        return Scores(raw, {}, DESCRIPTION)
