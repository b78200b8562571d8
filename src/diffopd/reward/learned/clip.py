"""A CLIP of any size as scorers use it: unit embeddings of images and texts, in batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from diffopd.reward.learned.lazy_network import Frozen, checked_batch_size, load_pretrained
from diffopd.reward.learned.weights import tokenizer_folder, weights_folder
from diffopd.weights import tokenizers

Prepare = Callable[[Tensor, int], Tensor]
"""``(images (batch, 3, height, width) in [0, 1], side) -> network input (batch, 3, side, side)``."""


class Clip:
    """CLIP's two encoders over one folder.

    Args:
        folder: Holds ``config.json`` and safetensors.
        tokenizer: What turns texts into its tokens; None = texts are not encoded, nor is that encoder kept.
        setting: Config path of the folder, for messages.
        batch_size: Images, or texts, in one forward pass.
        dtype: Precision: fp32, bf16 or fp16.
        device: ``"auto"`` = a GPU if there is one; or a device's name.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: CLIPTokenizer | None,
        *,
        setting: str,
        batch_size: int,
        dtype: str,
        device: str,
    ) -> None:
        self.batch_size = checked_batch_size(batch_size)
        self.tokenizer = tokenizer
        load = functools.partial(_load, folder, tokenizer, setting)
        self._frozen: Frozen[CLIPModel] = Frozen(load, dtype=dtype, device=device, setting="reward")

    @staticmethod
    def with_texts(
        *,
        path: str,
        revision: str | None,
        tokenizer_path: str | None,
        reward: str,
        batch_size: int,
        dtype: str,
        device: str,
    ) -> Clip:
        """The CLIP of a reward whose settings are named so; its tokenizer lies beside it or elsewhere.

        Raises:
            ValueError: If a folder is not there or not what it should be.
        """
        folder = weights_folder(path, revision, reward=reward, setting="reward.path")
        if tokenizer_path is None:
            place = tokenizer_folder(str(folder), kind=CLIPTokenizer, setting="reward.path")
        else:
            place = tokenizer_folder(tokenizer_path, kind=CLIPTokenizer, setting="reward.tokenizer_path")
        tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
        return Clip(
            folder, tokenizer, setting="reward.path", batch_size=batch_size, dtype=dtype, device=device
        )

    @property
    def logit_scale(self) -> float:
        """Factor of the cosine in CLIP's training, about 100."""
        return self._frozen.network.logit_scale.float().exp().item()

    @torch.no_grad()
    def cosines(
        self,
        images: Float[Tensor, " batch 3 height width"],
        texts: Sequence[str],
        prepare: Prepare,
    ) -> Float[Tensor, " batch"]:
        """Cosine of each image's embedding with its text's, in fp32, where the images are."""
        unique = list(dict.fromkeys(texts))
        place = {text: number for number, text in enumerate(unique)}
        of_texts = self.text_embeddings(unique)[[place[text] for text in texts]]
        return (self.image_embeddings(images, prepare) * of_texts).sum(1).to(images.device)

    @torch.no_grad()
    def image_embeddings(
        self, images: Float[Tensor, " batch 3 height width"], prepare: Prepare
    ) -> Float[Tensor, " batch embedding"]:
        """Unit vectors in fp32, on the network's device."""
        network = self._frozen.network
        config: Any = network.config.vision_config
        found = []
        for batch in images.split(self.batch_size):
            pixels = prepare(batch, config.image_size).to(self._frozen.device, self._frozen.dtype)
            pooled = network.vision_model(pixel_values=pixels).pooler_output
            found.append(network.visual_projection(pooled).float())
        return normalize(torch.cat(found), dim=1)

    @torch.no_grad()
    def text_embeddings(self, texts: Sequence[str]) -> Float[Tensor, " text embedding"]:
        """Unit vectors in fp32, on the network's device."""
        assert self.tokenizer is not None, "this CLIP was made without a tokenizer"
        network = self._frozen.network
        config: Any = network.config.text_config
        found = []
        for first in range(0, len(texts), self.batch_size):
            tokens = self.tokenizer(
                list(texts[first : first + self.batch_size]),
                padding=True,
                truncation=True,
                max_length=config.max_position_embeddings,
                return_tensors="pt",
            ).to(self._frozen.device)
            pooled = network.text_model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            found.append(network.text_projection(pooled).float())
        return normalize(torch.cat(found), dim=1)


def _load(folder: Path, tokenizer: CLIPTokenizer | None, setting: str, dtype: torch.dtype) -> CLIPModel:
    model = load_pretrained(CLIPModel, folder, dtype, setting=setting)
    if tokenizer is None:
        del model.text_model, model.text_projection
    else:
        check_tokenizer(model.config, tokenizer, setting)
    return model


def check_tokenizer(clip: CLIPConfig, tokenizer: CLIPTokenizer, setting: str) -> None:
    """Check that a tokenizer's numbers mean the same words and end to a model; else it would go unnoticed.

    Args:
        clip: Of the model.
        tokenizer: Meant for it.
        setting: Config path of the model's folder, for messages.

    Raises:
        ValueError: If they do not belong together.
    """
    config: Any = clip.text_config
    if not tokenizer.vocab_size == len(tokenizer) == config.vocab_size:  # len: with those a loader added
        raise ValueError(
            f"{setting}: the text encoder knows {config.vocab_size} tokens, the tokenizer has "
            f"{tokenizer.vocab_size}; give the one it was trained with"
        )
    tokenizers.check_tokenizer(tokenizer, config.vocab_size, setting)
    end = tokenizer.eos_token_id
    # 2 stands in old configs for "the largest token id of the text", wherever that is.
    pooled_at = config.vocab_size - 1 if config.eos_token_id == 2 else config.eos_token_id
    if end != pooled_at:
        raise ValueError(
            f"{setting}: config.json has text_config.eos_token_id={config.eos_token_id}, so texts would be "
            f"pooled at token {pooled_at}, but the tokenizer ends them with {end}; correct config.json"
        )
