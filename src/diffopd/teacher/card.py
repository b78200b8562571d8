"""Metadata of a trained adapter: ``card.json`` beside its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from diffopd.adapter import CARD_FILE, find_card
from diffopd.files.sealed import read_sealed_json, write_sealed_json
from diffopd.teacher.held_out import HeldOut

CARD = CARD_FILE
MOST_SINGLE = 64
"""Scores of single images that a card keeps of a task."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        mean: The estimate.
        low: Lower end; None where it cannot be known, as of a single prompt.
        high: Upper end, likewise.
        n: Number of images.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half(self) -> float | None:
        """Half of the interval; None where it is not known."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def interval_text(self) -> str:
        """The interval as tables print it.

        Examples:
            >>> Estimate(mean=0.5, low=0.25, high=0.75, n=8).interval_text
            '0.250 to 0.750'
            >>> Estimate(mean=0.5, low=None, high=None, n=1).interval_text
            'not known'
        """
        if self.low is None or self.high is None:
            return "not known"
        return f"{self.low:.3f} to {self.high:.3f}"

    def clearly_above(self, other: Estimate) -> bool:
        """Whether this interval is above the other's mean; if unknown, this mean above the other's interval.

        Examples:
            >>> sure, alone = (Estimate(mean=0.5, low=low, high=1 - low, n=8) for low in (0.4, 0.1))
            >>> base = Estimate(mean=0.3, low=0.2, high=0.4, n=8)
            >>> sure.clearly_above(base), alone.clearly_above(base)
            (True, False)
        """
        if self.low is not None:
            return self.low > other.mean
        return other.high is not None and self.mean > other.high


@dataclass(frozen=True, kw_only=True)
class Score(Estimate):
    """A score as a card keeps it.

    Attributes:
        conditions: What it was measured with (``diffopd.evaluation.conditions_of``): it stands beside a score
            of the same conditions only. Empty on cards of before these were kept.
        single: Scores of the first images in their order, at most ``MOST_SINGLE``. A report chooses the
            prompts that it shows by them. Empty on cards of before they were kept.
    """

    conditions: Mapping[str, str | int | float] = field(default_factory=dict)
    single: Sequence[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an adapter was made.

    Attributes:
        command: The command line.
        seed: Its seed.
        minutes: Wall-clock minutes of training.
        images: Images sampled in training.
        reward_calls: Images scored in training.
        commit: Commit of the code.
    """

    command: str
    seed: int
    minutes: float
    images: int
    reward_calls: int
    commit: str


@dataclass(frozen=True, kw_only=True)
class TeacherCard:
    """An adapter's card.

    Attributes:
        name: The teacher's name.
        task: The task it was trained for.
        guidance_scale: The guidance it was trained for, and is queried at.
        base: Identity of the base model (``PipelineModel.identity``).
        rank: Rank of the adapter; None for whole weights.
        alpha: Alpha of its training, or None. The file beside the card has alpha / rank in its factors.
        scores: benchmark -> task -> score.
        recipe: How it was made.
        held_out: benchmark -> metric -> value that nothing is trained on; empty on cards of before these were
            kept.
    """

    name: str
    task: str
    guidance_scale: float
    base: str
    rank: int | None
    alpha: float | None
    scores: Mapping[str, Mapping[str, Score]]
    recipe: Recipe
    held_out: Mapping[str, Mapping[str, HeldOut]] = field(default_factory=dict)

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write ``card.json`` into the adapter's folder."""
        path = Path(folder) / CARD
        write_sealed_json(path, dataclasses.asdict(self))
        return path

    @staticmethod
    def load(folder: str | PathLike[str], *, setting: str = "adapter.path") -> TeacherCard:
        """Read ``card.json`` from the adapter's folder.

        Args:
            folder: The adapter's folder.
            setting: Where it is named in the config, for messages.

        Raises:
            ValueError: If there is none or it is not complete.
        """
        path = Path(folder) / CARD
        if not path.is_file():
            raise ValueError(
                f"{setting}={folder}: there is no {CARD}; a teacher is a PEFT folder with a {CARD} that "
                "states its guidance_scale. phase=nft writes one; write it by hand for other adapters"
            )
        try:
            return _from_json(
                read_sealed_json(path, [field.name for field in dataclasses.fields(TeacherCard)])
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            needed = ", ".join(
                field.name for field in dataclasses.fields(TeacherCard) if field.name != "held_out"
            )
            raise ValueError(
                f"{setting}: {path} is not a valid card.json ({error}); it needs {needed}"
            ) from error


def card_or_guidance(
    path: str, guidance_scale: int | float | None, *, setting: str, guidance: str
) -> tuple[TeacherCard | None, float]:
    """The card of saved weights, where there is one, and the guidance to query them at.

    Args:
        path: As in :func:`~diffopd.adapter.find_place`.
        guidance_scale: What the config says; None for what the card says.
        setting: Where the config names the path.
        guidance: Where the config has the guidance scale.

    Raises:
        ValueError: If nothing says the guidance, or the card is not complete.
    """
    place = find_card(path)
    if place is not None:
        card = TeacherCard.load(place.parent, setting=setting)
        return card, card.guidance_scale if guidance_scale is None else float(guidance_scale)
    if guidance_scale is None:
        raise ValueError(
            f"{setting}={path}: there is no {CARD}, which has the guidance it was trained for; set "
            f"{guidance}, as in {guidance}=4.5 (1 = CFG off). Weights released by others have no {CARD}"
        )
    return None, float(guidance_scale)


def _from_json(raw: Mapping[str, Any]) -> TeacherCard:
    scores = {
        benchmark: {task: Score(**entry) for task, entry in tasks.items()}
        for benchmark, tasks in raw["scores"].items()
    }
    held_out = {benchmark: HeldOut.of_each(metrics) for benchmark, metrics in raw.get("held_out", {}).items()}
    fields = {**raw, "scores": scores, "held_out": held_out, "recipe": Recipe(**raw["recipe"])}
    fields["guidance_scale"] = float(raw["guidance_scale"])
    fields["alpha"] = None if raw["alpha"] is None else float(raw["alpha"])
    if not fields["guidance_scale"] >= 1:
        raise ValueError(f"guidance_scale is {raw['guidance_scale']}, at least 1 is allowed")
    return TeacherCard(**fields)
