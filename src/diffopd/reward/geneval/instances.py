"""From a mask classifier's outputs to objects with class, confidence, box and mask."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        label: Number of its class.
        confidence: Class probability times the mean probability of its mask's pixels, in [0, 1].
        box: Left, top, right, bottom in pixels; right and bottom lie one past the mask.
        mask: Its pixels.
    """

    label: int
    confidence: float
    box: tuple[int, int, int, int]
    mask: Bool[Tensor, " height width"]


@dataclass(frozen=True)
class Frame:
    """Where an image lies in what a model saw of it.

    Attributes:
        size: Height and width of the image.
        resized: Of the image when the model saw it.
        padded: Of the model's input, which has the resized image in its upper left corner.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]


def find_instances(
    class_logits: Float[Tensor, " query class_and_none"],
    mask_logits: Float[Tensor, " query row column"],
    frame: Frame,
    *,
    max_instances: int,
    min_confidence: float,
) -> list[Instance]:
    """The objects of one image, by the rule of Mask2Former's instance segmentation.

    The ``max_instances`` most probable pairs of query and class are kept, so one query may be several objects
    of different classes. Masks are brought to the image's own size before they are cut off at probability one
    half; empty ones are no objects.

    Args:
        class_logits: The last column stands for no object.
        mask_logits: Masks of the padded input, at any resolution.
        frame: The sizes.
        max_instances: Pairs kept.
        min_confidence: Objects must be above this.

    Returns:
        The objects, most probable class first.

    References:
        Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", 2022,
        arXiv:2112.01527.
    """
    probability = class_logits.float().softmax(-1)[:, :-1]
    kept, places = probability.flatten().topk(min(max_instances, probability.numel()))
    # The masks' mean probability can only lower it, so the others need no mask.
    places = places[kept > min_confidence]
    if not len(places):
        return []
    num_classes = probability.shape[1]
    found = []
    for place in places.tolist():
        query, label = divmod(place, num_classes)
        logits = _to_image(mask_logits[query], frame)
        mask = logits > 0
        if not mask.any():
            continue
        confidence = (probability[query, label] * logits[mask].sigmoid().mean()).item()
        if confidence > min_confidence:
            found.append(Instance(label, confidence, box_of(mask), mask))
    return found


def box_of(mask: Bool[Tensor, " height width"]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a mask that is not empty, right and bottom one past it.

    Examples:
        >>> import torch
        >>> box_of(torch.tensor([[False, False, False], [False, True, True]]))
        (1, 1, 3, 2)
    """
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _to_image(logits: Float[Tensor, " row column"], frame: Frame) -> Float[Tensor, " height width"]:
    """A mask at the image's own size: enlarged to the input, its padding cut off, then resized."""
    height, width = frame.resized
    whole = interpolate(logits[None, None].float(), frame.padded, mode="bilinear")[..., :height, :width]
    return interpolate(whole, frame.size, mode="bilinear")[0, 0]
