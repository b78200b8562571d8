"""Objects in photographs: Mask2Former finds COCO's classes, CLIP names their colors.

GenEval's own detector is a build of mmdet with weights of its own. This one has the same architecture, rule
and input size by transformers, with the weights published for that, so scores differ a little from GenEval's.

References:
    Ghosh et al., "GenEval", 2023, arXiv:2310.11513.
    Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", 2022,
    arXiv:2112.01527.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad
from transformers import Mask2FormerForUniversalSegmentation

from diffopd.files.png import to_picture
from diffopd.host.device import chosen_device
from diffopd.reward.geneval.clip_colours import COLOURS, ClipColours, on_grey
from diffopd.reward.geneval.coco import COCO_NAMES, check_labels
from diffopd.reward.geneval.geneval import MIN_CONFIDENCE
from diffopd.reward.geneval.instances import Frame, Instance, find_instances
from diffopd.reward.learned.lazy_network import load_pretrained
from diffopd.reward.learned.photograph import cat_and_noise
from diffopd.reward.learned.weights import local_folder, weights_folder
from diffopd.types import Detection, KnownPair
from diffopd.types.precision import parse_dtype

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, by which the detector's input is normalized."""
DIVISOR = 32
"""Height and width of the input are padded to multiples of this."""

ColourNamer = Callable[[Sequence[Image.Image], Sequence[str]], Sequence[str]]
"""Crops of objects on gray and their classes to the names of their colors."""


class PhotoDetector:
    """GenEval's detector for photographs; the model is loaded at the first call and kept.

    Objects that no clause of GenEval's could count are left out.

    Args:
        path: Mask2Former for COCO instances in transformers' format: a folder or a hub id.
        revision: Branch, tag or commit on the hub; None = its main branch.
        short_side: Pixels to which an image's shorter side is resized (bilinear), unless the longer one would
            exceed ``long_side``.
        long_side: Most pixels of the longer side.
        max_instances: Pairs of query and class kept of an image.
        batch_size: Images in one forward.
        device: ``auto``, or a device's name.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        colours: Names the colors.

    Attributes:
        note: Said with every score.
        classes: What it finds.
        colour_names: What it calls the colors, unless the user's own names them.
    """

    classes: ClassVar[frozenset[str]] = frozenset(COCO_NAMES)

    note: ClassVar[str] = "objects by transformers' Mask2Former, not by the mmdet build of the official score"
    setting = "reward.detector"

    def __init__(
        self,
        *,
        path: str,
        revision: str | None,
        short_side: int,
        long_side: int,
        max_instances: int,
        batch_size: int,
        device: str,
        dtype: str,
        colours: ColourNamer,
    ) -> None:
        local_folder(path, f"{self.setting}.path")
        self.path = path
        self.revision = revision
        self.short_side = short_side
        self.long_side = long_side
        self.max_instances = max_instances
        self.batch_size = batch_size
        self.device = device
        self.dtype = parse_dtype(dtype, f"{self.setting}.dtype")
        self.colours = colours
        self.colour_names = frozenset(COLOURS) if isinstance(colours, ClipColours) else None
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The segmentation model on its device.

        Raises:
            ValueError: If it cannot be loaded, or its classes are not COCO's.
        """
        if self._model is None:
            device = chosen_device(self.device, f"{self.setting}.device")
            setting = f"{self.setting}.path"
            folder = weights_folder(self.path, self.revision, reward=None, setting=setting)
            model: Any = load_pretrained(
                Mask2FormerForUniversalSegmentation, folder, self.dtype, setting=setting
            )
            check_labels(model.config.id2label, f"{setting}={self.path}")
            self._model = model.requires_grad_(False).eval().to(device)
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model behind; it is loaded again on demand."""
        return {**self.__dict__, "_model": None}

    def known_pair(self) -> KnownPair:
        """A photograph of a cat, and the same buried in noise."""
        return cat_and_noise()

    def __call__(self, images: Float[Tensor, " batch 3 height width"]) -> list[list[Detection]]:
        """The objects in each image in [0, 1], each with its color."""
        found: list[list[Instance]] = []
        for start in range(0, len(images), self.batch_size):
            found += self.instances(images[start : start + self.batch_size])
        crops = [
            on_grey(picture, Image.fromarray(instance.mask.cpu().numpy()), instance.box)
            for picture, instances in zip(map(to_picture, images), found, strict=True)
            for instance in instances
        ]
        names = [COCO_NAMES[instance.label] for instances in found for instance in instances]
        colours = iter(self.colours(crops, names) if crops else ())
        return [[_detection(instance, next(colours)) for instance in instances] for instances in found]

    @torch.no_grad()
    def instances(self, images: Float[Tensor, " batch 3 height width"]) -> list[list[Instance]]:
        """The objects in each image, colors not asked for, from one forward."""
        pixels, frame = detector_input(images.detach().float(), self.short_side, self.long_side)
        output = self.model(pixel_values=pixels.to(self.model.device, self.dtype))
        return [
            find_instances(
                classes, masks, frame, max_instances=self.max_instances, min_confidence=MIN_CONFIDENCE
            )
            for classes, masks in zip(output.class_queries_logits, output.masks_queries_logits, strict=True)
        ]


def detector_input(
    images: Float[Tensor, " batch 3 height width"], short_side: int, long_side: int
) -> tuple[Float[Tensor, " batch 3 padded_height padded_width"], Frame]:
    """Images resized, normalized and padded below and to the right, and where they lie in that.

    Examples:
        >>> import torch
        >>> detector_input(torch.zeros(1, 3, 256, 512), 800, 1333)[1]
        Frame(size=(256, 512), resized=(667, 1333), padded=(672, 1344))
    """
    height, width = images.shape[-2:]
    scale = min(short_side / min(height, width), long_side / max(height, width))
    resized = (int(height * scale + 0.5), int(width * scale + 0.5))
    padded = (-(-resized[0] // DIVISOR) * DIVISOR, -(-resized[1] // DIVISOR) * DIVISOR)
    mean, std = images.new_tensor(MEAN).view(3, 1, 1), images.new_tensor(STD).view(3, 1, 1)
    pixels = (interpolate(images, resized, mode="bilinear") - mean) / std
    pixels = pad(pixels, (0, padded[1] - resized[1], 0, padded[0] - resized[0]))
    return pixels, Frame((height, width), resized, padded)


def _detection(instance: Instance, colour: str) -> Detection:
    left, top, right, bottom = map(float, instance.box)
    return Detection(COCO_NAMES[instance.label], (left, top, right, bottom), instance.confidence, colour)
