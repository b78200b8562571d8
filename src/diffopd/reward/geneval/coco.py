"""The 80 classes of COCO in the order of their labels, spelled as GenEval's prompts spell them."""

from __future__ import annotations

from collections.abc import Mapping

COCO_NAMES: tuple[str, ...] = tuple(
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
    "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, "
    "backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball "
    "bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, "
    "spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, "
    "couch, potted plant, bed, dining table, toilet, tv, laptop, computer mouse, tv remote, computer "
    "keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush".split(", ")
)
"""Label -> name. For COCO's mouse, remote and keyboard GenEval has longer names."""

_LEAST_ALIKE = 60  # spellings differ between releases ("tv", "tvmonitor"); another label set shares far fewer


def check_labels(labels: Mapping[int, str], setting: str) -> None:
    """Check that a model's labels are COCO's 80 classes in their usual order.

    Args:
        labels: A model's ``id2label``; numbered names such as ``LABEL_0`` are taken on trust.
        setting: Where the model is named in the config.

    Raises:
        ValueError: If there are not 80, or most of the names at their places are others.
    """
    if len(labels) != len(COCO_NAMES):
        raise ValueError(
            f"{setting}: the model has {len(labels)} classes, GenEval needs COCO's {len(COCO_NAMES)}; choose "
            "an instance segmentation model trained on COCO"
        )
    if all(name.startswith("LABEL_") for name in labels.values()):
        return
    alike = sum(labels.get(number, "?").lower() in name for number, name in enumerate(COCO_NAMES))
    if alike < _LEAST_ALIKE:
        raise ValueError(
            f"{setting}: only {alike} of the model's 80 class names are COCO's at their places (its first is "
            f"{labels.get(0)!r}, COCO's {COCO_NAMES[0]!r}); choose an instance segmentation model of COCO"
        )
