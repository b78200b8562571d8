"""ImageReward: BLIP's text encoder, seeing the image through cross-attention, and a linear head on [CLS].

References:
    Xu et al., "ImageReward", 2023, arXiv:2304.05977; Li et al., "BLIP", 2022, arXiv:2201.12086.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import BertTokenizer, BlipConfig, BlipTextModel, BlipVisionModel, PreTrainedModel

from diffopd.reward.learned.lazy_network import Frozen, Precision, checked_batch_size, load_pretrained
from diffopd.reward.learned.linear_head import LinearHead
from diffopd.reward.learned.pixels import cut_by_pil
from diffopd.reward.learned.sunset import sunset_and_noise
from diffopd.reward.learned.weights import tokenizer_folder, weights_folder
from diffopd.reward.scale import Scale, checked_scale
from diffopd.types import KnownPair, Prompts, Scores

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's output over the authors' images; the published score is standardized with them."""

TEXT_LENGTH = 35
"""Tokens to which prompts are cut and padded."""

DESCRIPTION = "ImageReward, standardized: 0 = the mean over the authors' images"


class ImageRewardNetwork(PreTrainedModel):
    """The published network, before it is standardized.

    Attributes:
        vision_model: ViT-L/16.
        text_encoder: BERT with cross-attention in every layer.
        head: The linear head, in fp32 whatever the precision of the rest.
    """

    config_class = BlipConfig
    main_input_name = "pixel_values"
    _keep_in_fp32_modules_strict = ["head"]  # noqa: RUF012 - as transformers declares it

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config)
        vision: Any = config.vision_config
        text: Any = config.text_config
        self.vision_model = BlipVisionModel(vision)
        self.text_encoder = BlipTextModel(text, add_pooling_layer=False)
        self.head = LinearHead(text.hidden_size)
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, " batch 3 side side"],
        input_ids: Int[Tensor, " batch token"],
        attention_mask: Int[Tensor, " batch token"],
    ) -> Float[Tensor, " batch"]:
        """The head's output for each pair of image and text."""
        seen = self.vision_model(pixel_values=pixel_values).last_hidden_state
        read = self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=seen
        ).last_hidden_state
        return self.head(read[:, 0].float())


class ImageRewardReward:
    """The published, standardized score, in both scales.

    Args:
        path: Folder with config, safetensors and tokenizer, as ``diffopd.convert`` writes it.
        revision: Of a hub id; None = newest.
        scale: ``"training"`` or ``"table"``; the same number.
        batch_size: Images in one forward pass.
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
        scale: Scale,
        batch_size: int,
        dtype: Precision,
        device: str,
    ) -> None:
        folder = weights_folder(path, revision, reward="imagereward", setting="reward.path")
        place = tokenizer_folder(str(folder), kind=BertTokenizer, setting="reward.path")
        self.tokenizer = BertTokenizer.from_pretrained(place, local_files_only=True)
        load = functools.partial(_load, folder, len(self.tokenizer))
        self._frozen: Frozen[ImageRewardNetwork] = Frozen(load, dtype=dtype, device=device, setting="reward")
        self.batch_size = checked_batch_size(batch_size)
        self.scale = checked_scale(scale)

    def known_pair(self) -> KnownPair:
        """A sunset over the sea, and the same buried in noise."""
        return sunset_and_noise()

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt; no gradient."""
        network, found = self._frozen.network, []
        side = network.config.vision_config.image_size
        for first in range(0, len(prompts), self.batch_size):
            rows = slice(first, first + self.batch_size)
            tokens = self.tokenizer(
                list(prompts.texts[rows]),
                padding="max_length",
                truncation=True,
                max_length=TEXT_LENGTH,
                return_tensors="pt",
            ).to(self._frozen.device)
            pixels = cut_by_pil(images[rows], side, "round").to(self._frozen.device, self._frozen.dtype)
            found.append(network(pixels, tokens["input_ids"], tokens["attention_mask"]))
        raw = (torch.cat(found) - MEAN) / STD
        return Scores(raw.to(images.device), {}, DESCRIPTION)


def _load(folder: Path, num_tokens: int, dtype: torch.dtype) -> ImageRewardNetwork:
    network = load_pretrained(ImageRewardNetwork, folder, dtype, setting="reward.path")
    known = network.config.text_config.vocab_size
    if num_tokens != known:
        raise ValueError(
            f"reward.path: the text encoder knows {known} tokens, the tokenizer in {folder} has "
            f"{num_tokens}; BERT's uncased vocabulary with [DEC] and [ENC] is needed"
        )
    return network
