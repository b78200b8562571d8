"""What phases share that learn from rewards: samples judged, advantages, drift watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed

from diffopd.adapter import Shape
from diffopd.metric.drift import drift_signals
from diffopd.model import PipelineModel
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.phase.processes import num_processes
from diffopd.phase.round_scoring import RoundScoring, Scored
from diffopd.phase.scoring import scored, warn_of_constant
from diffopd.phase.settings import RewardSettings
from diffopd.policy import OptimizerFactory
from diffopd.reward.advantage import advantages, clip_advantages
from diffopd.reward.checked import Sample
from diffopd.sampler import TransitionSampler
from diffopd.types import Prompts, Reward, Scores

REWARD = "reward"
"""Name of the trained reward among those of a round, and its place in the config."""


@dataclass(frozen=True)
class Judged:
    """The samples of a round on all processes, in one order that every process agrees on.

    Attributes:
        indices: Global sample indices.
        tasks: Task of each.
        advantages: Clipped advantage of each, statistics taken within its task.
        constant: Task -> its reward, for tasks whose several samples all got the same.
    """

    indices: Sequence[int]
    tasks: Sequence[str]
    advantages: Tensor
    constant: Mapping[str, float]

    def of(self, prompts: Prompts) -> Tensor:
        """Advantages of these rows."""
        position = {index: row for row, index in enumerate(self.indices)}
        return self.advantages[[position[index] for index in prompts.indices]]


class RewardPhase(PolicyPhase):
    """Base of the phases that learn from rewards of groups of samples.

    Args:
        model: The frozen text-to-image model, which is the reference.
        adapter: Shape of the trained policy.
        sampler: Sampler of the rollouts; its guidance scale is the policy's.
        reward: What to maximize.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases that learn from rewards.
        advantage_clip: Largest magnitude of an advantage.

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
    ) -> None:
        super().__init__(model=model, adapter=adapter, optimizer=optimizer, settings=settings)
        self.sampler, self.reward = sampler, reward
        self.held_out = dict(settings.held_out)
        self.advantage_clip = advantage_clip

    def scoring(self, prompts: Prompts) -> RoundScoring:
        """Takes the round's images and scores them, by the reward and those held out."""
        in_background = self.settings.score_in_background
        return RoundScoring(prompts, self._score, in_background=in_background, device=self.device)

    def _score(self, images: Tensor, prompts: Prompts) -> dict[str, Scores]:
        """Scores by the reward, named ``reward``, and by those held out, named by their places."""
        scores = {REWARD: scored(self, self.reward, images, prompts, REWARD)}
        for name, reward in self.held_out.items():
            path = f"phase.held_out.{name}"
            scores[path] = scored(self, reward, images, prompts, path)
        return scores

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
        images, scores, log = found.images, found.scores[REWARD], self.round_log
        log.add_rewards(scores, prompts)
        log.add("train/cost/images", len(prompts) * num_processes())
        log.add("train/cost/reward_calls", len(prompts) * num_processes())
        for name in self.held_out:
            held_out = found.scores[f"phase.held_out.{name}"]
            log.add(f"train/held_out/{name}", held_out.value.mean().to(self.device))
        for name, value in drift_signals(clean.cpu(), images, prompts.groups).items():
            log.add(f"train/drift/{name}", value.to(self.device))
        judged = self.compared(scores.value, prompts)
        if self.global_rank == 0:  # every process knows of all samples, and has some of every task
            for task, value in judged.constant.items():
                sample = Sample.of(images, prompts, prompts.tasks.index(task))
                warn_of_constant(self, self.reward, value, sample, judged.tasks.count(task))
        log.add("train/advantage/zero_share", (judged.advantages == 0).float().mean().to(self.device))
        return judged

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
        return Judged(indices, tasks, result, constant)

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
