"""Are the asked objects in the picture? A detector's findings, scored by GenEval's rule."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.geneval.geneval import check_clauses, score_detections
from diffopd.types import Detector, KnownPair, Prompts, Scores

_SCALES: dict[str, str] = {
    "dense": "[0, 1], 1 = exactly the asked counts, colours and relations",
    "dense_released": "at most 1; below 0 for surplus objects; a failed relation counts twice",
    "strict": "0 or 1, 1 = exactly the asked counts, colours and relations",
    "official": "0 or 1, 1 = GenEval's verdict",
}


class CompositionReward:
    """GenEval's scores of what a detector finds; ``parts`` holds all four of them.

    Args:
        detector: Images to objects; another detector makes the same reward judge another kind of image. Its
            ``note``, if it has one, is said with every score; its ``classes`` and ``colour_names``, if it has
            them, are all that prompts may ask for.
        score: Which of the four is the value to maximize.
    """

    why_no_pair = "its detector knows no pair of images"

    def __init__(self, *, detector: Detector, score: str) -> None:
        if score not in _SCALES:
            raise ValueError(f"reward.score must be one of {sorted(_SCALES)}, got {score!r}")
        self.detector = detector
        self.score = score

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image against its prompt's GenEval clauses."""
        detections = self.detector(images)
        if len(detections) != len(prompts):
            raise ValueError(
                f"the detector must answer for each image, got {len(detections)} for {len(prompts)}"
            )
        results = [
            score_detections(found, metadata)
            for found, metadata in zip(detections, prompts.metadata, strict=True)
        ]
        parts = {
            name: torch.tensor([float(getattr(r, name)) for r in results], device=images.device)
            for name in _SCALES
        }
        note = getattr(self.detector, "note", None)
        return Scores(parts[self.score], parts, "; ".join(filter(None, (_SCALES[self.score], note))))

    def check_prompt(self, prompt: Prompts) -> None:
        """Raise for a prompt without sound GenEval clauses, or of objects that the detector does not know.

        Raises:
            ValueError: If it has none, or asks for a class or a colour that is never found.
        """
        check_clauses(
            prompt.metadata[0],
            classes=getattr(self.detector, "classes", None),
            colours=getattr(self.detector, "colour_names", None),
        )

    def known_pair(self) -> KnownPair | None:
        """The pair the detector knows, as pictures differ with it; None if it knows none."""
        find = getattr(self.detector, "known_pair", None)
        return None if find is None else find()
