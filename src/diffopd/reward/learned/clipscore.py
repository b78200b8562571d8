"""CLIPScore as Flow-GRPO and DiffusionNFT compute it: the cosine of image and prompt by OpenAI's ViT-L/14.

Hessel et al. multiply the cosine by 2.5 and cut it at 0; neither the released training code nor tables do.

References:
    Hessel et al., "CLIPScore", 2021, arXiv:2104.08718; Liu et al., "Flow-GRPO", 2025, arXiv:2505.05470.
"""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.learned.clip_cosine import ClipCosineReward
from diffopd.reward.learned.pixels import cut_bilinear
from diffopd.types import Prompts, Scores

DESCRIPTION = "CLIPScore: exp(logit_scale) * cosine / 100, the cosine as OpenAI's logit_scale is 100"


@final
class ClipScoreReward(ClipCosineReward):
    """``exp(logit_scale) * cosine / 100`` of image and prompt, in both scales."""

    reward: ClassVar[str] = "clipscore"

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt; no gradient."""
        raw = self.clip.logit_scale * self.clip.cosines(images, prompts.texts, cut_bilinear) / 100
        return Scores(raw, {}, DESCRIPTION)
