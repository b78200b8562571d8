"""HPSv2.1: a CLIP ViT-H/14 trained on people's rankings of images of one prompt.

References:
    Wu et al., "Human Preference Score v2", 2023, arXiv:2306.09341.
"""

from __future__ import annotations

import html

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.clip import Clip
from diffopd.reward.frozen import Precision
from diffopd.reward.pixels import padded_bicubic
from diffopd.reward.scale import Scale, checked_scale
from diffopd.reward.sunset import sunset_and_noise
from diffopd.types import KnownPair, Prompts, Scores

DESCRIPTION = "HPSv2.1: cosine"


class HPSv2Reward:
    """Cosine of image and prompt, in both scales.

    Args:
        path: Folder with ``config.json`` and safetensors, as ``diffopd.convert`` writes it.
        revision: Of a hub id; None = newest.
        tokenizer_path: Folder or hub id with the tokenizer; None = in ``path``.
        scale: ``"training"`` or ``"table"``; the same number.
        batch_size: Images, or prompts, in one forward pass.
        dtype: Precision of the network.
        device: ``"auto"`` = a GPU if there is one; or a device's name.

    Raises:
        ValueError: If a folder or setting is not what it should be.
    """

    def __init__(
        self,
        *,
        path: str,
        revision: str | None,
        tokenizer_path: str | None,
        scale: Scale,
        batch_size: int,
        dtype: Precision,
        device: str,
    ) -> None:
        self.clip = Clip.with_texts(
            path=path,
            revision=revision,
            tokenizer_path=tokenizer_path,
            reward="hpsv2",
            batch_size=batch_size,
            dtype=dtype,
            device=device,
        )
        self.scale = checked_scale(scale)

    def known_pair(self) -> KnownPair:
        """A sunset over the sea, and the same buried in noise."""
        return sunset_and_noise()

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt; no gradient."""
        # open_clip's tokenizer resolves HTML entities, twice as some texts were escaped twice.
        texts = [html.unescape(html.unescape(text)).strip() for text in prompts.texts]
        raw = self.clip.cosines(images, texts, padded_bicubic)
        return Scores(raw, {}, DESCRIPTION)
