"""Settings that phases share; a config has them among its phase's own, as ``phase.gradient_clip``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffopd.phase.schedule import CONSTANT, SCHEDULES, Schedule
from diffopd.reward.advantage import AdvantageMode, StdScope
from diffopd.types import Reward


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How any policy is trained.

    Attributes:
        seed: Seed of the policy's start and of every draw in training.
        ema: ``decay`` and ``update_interval`` of the trained policy's average.
        gradient_clip: Largest gradient norm.
        micro_batch_size: Most rows in one forward; None for all at once.
        conflict_every_n_rounds: Rounds from one measurement of the cosines between the tasks' gradients to
            the next, each of which costs a backward per task; 0 for never.
        lr_schedule: How the trained policy's learning rate changes over the rounds: a name of ``SCHEDULES``.
        warmup_rounds: Rounds in which it rises to ``optimizer.lr`` first.

    Raises:
        ValueError: If the schedule is not known or the number of rounds negative.
    """

    seed: int
    ema: Mapping[str, Any]
    gradient_clip: int | float
    micro_batch_size: int | None
    conflict_every_n_rounds: int
    lr_schedule: Schedule = CONSTANT  # not in the configs that earlier runs saved, nor is the next
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        if self.lr_schedule not in SCHEDULES:
            raise ValueError(
                f"phase.lr_schedule={self.lr_schedule} is not known; choose one of {', '.join(SCHEDULES)}"
            )
        if self.warmup_rounds < 0:
            raise ValueError(f"phase.warmup_rounds={self.warmup_rounds} must be at least 0")


@dataclass(frozen=True, kw_only=True)
class StudentSettings(TrainSettings):
    """How a student of teachers is trained; no reward enters its loss.

    Attributes:
        score_every_n_rounds: Rounds from one scored rollout of the student to the next, for the log; 0 for
            never.
    """

    score_every_n_rounds: int


@dataclass(frozen=True, kw_only=True)
class ScoredSettings(TrainSettings):
    """How a policy learns from rewards of its samples.

    Attributes:
        held_out: Rewards that are logged and never trained on.
        score_in_background: Score a micro-batch while the next is sampled; the round's results are the same.
    """

    held_out: Mapping[str, Reward]
    score_in_background: bool


@dataclass(frozen=True, kw_only=True)
class RewardSettings(ScoredSettings):
    """How a policy learns from rewards of groups of samples.

    Attributes:
        advantage_std: ``global`` over the round's samples of a task, or ``group``.
        advantage_mode: Which advantages are kept: ``all``, ``positive_only``, ``negative_only``,
            ``one_only``, ``binary``.
    """

    advantage_std: StdScope
    advantage_mode: AdvantageMode
