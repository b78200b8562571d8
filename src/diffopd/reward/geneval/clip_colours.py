"""The color of objects in photographs: CLIP's zero-shot answer for each object on gray.

References:
    Ghosh et al., "GenEval", 2023, arXiv:2310.11513.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer

from diffopd.host.device import chosen_device
from diffopd.reward.learned.clip import check_tokenizer
from diffopd.reward.learned.lazy_network import load_pretrained
from diffopd.reward.learned.pixels import cut_pictures
from diffopd.reward.learned.weights import local_folder, tokenizer_folder, weights_folder
from diffopd.types.precision import parse_dtype

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
GREY = "#999999"
"""What lies around an object when its color is asked for."""


def on_grey(picture: Image.Image, mask: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """An object cut out by its mask, on gray, cropped to its box.

    Args:
        picture: The whole image.
        mask: Of mode ``L`` or ``1`` and the picture's size.
        box: Left, top, right, bottom in pixels.
    """
    return Image.composite(picture, Image.new("RGB", picture.size, GREY), mask).crop(box)


class ClipColours:
    """Names the color of objects; the model is loaded at the first call and kept.

    Args:
        path: CLIP in transformers' format with its tokenizer: a folder or a hub id.
        revision: Branch, tag or commit on the hub; None = its main branch.
        batch_size: Crops in one forward.
        device: ``auto``, or a device's name.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
    """

    setting = "reward.detector.colours"

    def __init__(self, *, path: str, revision: str | None, batch_size: int, device: str, dtype: str) -> None:
        local_folder(path, f"{self.setting}.path")
        self.path = path
        self.revision = revision
        self.batch_size = batch_size
        self.device = device
        self.dtype = parse_dtype(dtype, f"{self.setting}.dtype")
        self._loaded: tuple[Any, Any] | None = None
        self._classifiers: dict[str, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model behind; it is loaded again on demand."""
        return {**self.__dict__, "_loaded": None, "_classifiers": {}}

    @torch.no_grad()
    def __call__(self, crops: Sequence[Image.Image], names: Sequence[str]) -> list[str]:
        """The color of each object.

        Args:
            crops: One object each, as :func:`on_grey` cuts it out.
            names: Its class, which the question to CLIP holds.
        """
        found: list[str] = []
        for start in range(0, len(crops), self.batch_size):
            rows = slice(start, start + self.batch_size)
            images = self._image_embeds(crops[rows])
            classifiers = torch.stack([self._classifier(name) for name in names[rows]])
            likeness = (classifiers @ images[:, :, None]).squeeze(-1)
            found += [COLOURS[number] for number in likeness.argmax(1).tolist()]
        return found

    def _image_embeds(self, crops: Sequence[Image.Image]) -> Float[Tensor, " batch width"]:
        model, _ = self._model()
        # As open_clip's transform, which the benchmark uses: half of an odd margin is rounded to even, where
        # transformers' processor rounds it down.
        pixels = cut_pictures(crops, model.config.vision_config.image_size, "round")
        embeds = _embeds(model.get_image_features(pixel_values=pixels.to(model.device, self.dtype)))
        return normalize(embeds.float(), dim=-1)

    def _classifier(self, name: str) -> Float[Tensor, " colour width"]:
        """One unit vector per color: the mean over the templates."""
        if name not in self._classifiers:
            model, tokenizer = self._model()
            texts = [
                template.format(colour=colour, name=name) for colour in COLOURS for template in TEMPLATES
            ]
            tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(model.device)
            embeds = _embeds(
                model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            )
            by_template = normalize(embeds.float(), dim=-1).unflatten(0, (len(COLOURS), len(TEMPLATES)))
            self._classifiers[name] = normalize(by_template.mean(1), dim=-1)
        return self._classifiers[name]

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            device = chosen_device(self.device, f"{self.setting}.device")
            setting = f"{self.setting}.path"
            folder = weights_folder(self.path, self.revision, reward=None, setting=setting)
            model: Any = load_pretrained(CLIPModel, folder, self.dtype, setting=setting)
            model.requires_grad_(False).eval().to(device)
            words = tokenizer_folder(str(folder), kind=CLIPTokenizer, setting=setting)
            tokenizer = CLIPTokenizer.from_pretrained(words, local_files_only=True)
            check_tokenizer(model.config, tokenizer, f"{setting}={self.path}")
            self._loaded = model, tokenizer
        return self._loaded


def _embeds(features: Any) -> Tensor:
    """The embeddings, which transformers 4 returns as they are and transformers 5 within an output."""
    return features if isinstance(features, Tensor) else features.pooler_output
