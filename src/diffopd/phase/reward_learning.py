"""What phases share that learn from rewards: samples judged, advantages, drift watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed

from diffopd.adapter import Shape
from diffopd.data.prompt_filter import reward_ranges
from diffopd.data.rounds import RoundData
from diffopd.model import PipelineModel
from diffopd.phase.processes import num_processes
from diffopd.phase.round_scoring import Scored
from diffopd.phase.scored_phase import REWARD, ScoredPhase
from diffopd.phase.scoring import warn_of_constant
from diffopd.phase.settings import RewardSettings
from diffopd.policy import OptimizerFactory
from diffopd.reward.advantage import advantages, clip_advantages
from diffopd.reward.checked import Sample
from diffopd.sampler import TransitionSampler
from diffopd.types import Prompts, Reward


@dataclass(frozen=True)
class Judged:
    """The samples of a round on all processes, in one order that every process agrees on.

    Attributes:
        indices: Global sample indices.
        tasks: Task of each.
        advantages: Clipped advantage of each, statistics taken within its task.
        constant: Task -> its reward, for tasks whose several samples all got the same.
        ranges: Task -> group -> its largest reward less its smallest.
    """

    indices: Sequence[int]
    tasks: Sequence[str]
    advantages: Tensor
    constant: Mapping[str, float]
    ranges: Mapping[str, Mapping[int, float]]

    def of(self, prompts: Prompts) -> Tensor:
        """Advantages of these rows."""
        position = {index: row for row, index in enumerate(self.indices)}
        return self.advantages[[position[index] for index in prompts.indices]]


class RewardPhase(ScoredPhase):
    """Base of the phases that learn from rewards of groups of samples.

    Args:
        model: The frozen text-to-image model, which is the reference.
        adapter: Shape of the trained policy.
        sampler: Sampler of the rollouts; its guidance scale is theirs.
        reward: What to maximize.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases that learn from rewards.
        advantage_clip: Largest magnitude of an advantage.
        loss_guidance_scale: Guidance of the networks in the loss; None = the sampler's.

    Attributes:
        settings_type: Type of ``settings``.
    """

    settings_type: ClassVar[type[RewardSettings]] = RewardSettings
    settings: RewardSettings

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        sampler: TransitionSampler,
        reward: Reward,
        optimizer: OptimizerFactory,
        settings: RewardSettings,
        advantage_clip: float,
        loss_guidance_scale: int | float | None,
    ) -> None:
        super().__init__(
            model=model,
            adapter=adapter,
            sampler=sampler,
            reward=reward,
            optimizer=optimizer,
            settings=settings,
            loss_guidance_scale=loss_guidance_scale,
        )
        self.advantage_clip = advantage_clip

    @torch.no_grad()
    def judge(self, clean: Tensor, prompts: Prompts, found: Scored) -> Judged:
        """Log what was seen, and compare every sample with its group.

        Args:
            clean: The samples' latents.
            prompts: Their prompts.
            found: The samples' images and scores.

        Returns:
            Advantages of the samples on all processes.
        """
        self.watch(clean, prompts, found, len(prompts))
        judged = self.compared(found.scores[REWARD].value, prompts)
        if self.global_rank == 0:  # every process knows of all samples, and has some of every task
            for task, value in judged.constant.items():
                sample = Sample.of(found.images, prompts, prompts.tasks.index(task))
                warn_of_constant(self, self.reward, value, sample, judged.tasks.count(task))
        self._tell_filter(judged)
        zero = (judged.advantages == 0).float().mean()
        self.round_log.add("train/advantage/zero_share", zero.to(self.device))
        return judged

    def _tell_filter(self, judged: Judged) -> None:
        """Log how far rewards spanned within groups; a filter of prompts goes by it."""
        for task, ranges in judged.ranges.items():
            self.round_log.add(f"train/reward_range/{task}", sum(ranges.values()) / len(ranges))
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, RoundData):
            for task, number in data.observe(self.round, judged.ranges).items():
                self.round_log.add(f"train/prompts_passed_over/{task}", number)

    def compared(self, rewards: Tensor, prompts: Prompts) -> Judged:
        """Advantages of the samples on all processes, from this process's rewards."""
        values, groups, tasks, indices = gathered(
            rewards.float().tolist(), prompts.groups, prompts.tasks, prompts.indices
        )
        self._check_groups(groups, tasks)
        result, constant = torch.empty(len(values)), {}
        for task in dict.fromkeys(tasks):
            rows = [row for row, name in enumerate(tasks) if name == task]
            of_task = torch.tensor([values[row] for row in rows])
            if len(rows) > 1 and of_task.min() == of_task.max():
                constant[task] = of_task[0].item()
            raw = advantages(of_task, [groups[row] for row in rows], std=self.settings.advantage_std)
            result[rows] = clip_advantages(raw, clip=self.advantage_clip, mode=self.settings.advantage_mode)
        return Judged(indices, tasks, result, constant, reward_ranges(values, groups, tasks))

    def _check_groups(self, groups: Sequence[int], tasks: Sequence[str]) -> None:
        """No group may lack members: its statistics are of all samples of its prompt."""
        sizes = Counter(zip(tasks, groups, strict=True))
        for task in dict.fromkeys(tasks):
            of_task = {size for (name, _), size in sizes.items() if name == task}
            assert len(of_task) == 1, f"a group of task {task} was split: sizes {sorted(of_task)}"


def gathered(*columns: Sequence[Any]) -> list[list[Any]]:
    """Each column with the rows of all processes, in the order of the processes."""
    if num_processes() == 1:
        return [list(column) for column in columns]
    parts: list[Any] = [None] * num_processes()
    distributed.all_gather_object(parts, [list(column) for column in columns])
    return [[row for part in parts for row in part[number]] for number in range(len(columns))]
