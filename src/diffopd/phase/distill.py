"""On-policy distillation: the student matches its teachers along its own rollouts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from diffopd.adapter import LoRA
from diffopd.model import SD3Model
from diffopd.phase.adapted import (
    STUDENT,
    AdaptedPhase,
    OptimizerFactory,
    add_rewards,
    micro_batches,
    num_processes,
    task_weights,
)
from diffopd.phase.scoring import scored
from diffopd.sampler import TransitionSampler, revisit
from diffopd.teacher import TeacherSet
from diffopd.types import Conditioning, Prompts, Reward, Trajectory, Transition, TransitionLoss

CHOICES = {
    "round": ("fused", "two_pass"),
    "train_steps": ("all_but_last", "all"),
    "step_reduction": ("mean", "sum"),
    "task_reduction": ("mean", "sum"),
}
"""Settings with names, and the names."""


class DistillPhase(AdaptedPhase):
    """DiffusionOPD, stage 2: several frozen teachers, one student (Algorithm 1).

    A fused round takes the loss of each transition while the rollout is at it, so every step needs one
    forward of the student and the memory of one step. A two-pass round stores the rollout first and computes
    every step again; gradients are the same.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape of the student's adapter.
        teacher: The teachers, one per task.
        sampler: The student's sampler; its guidance scale is the student's.
        loss: Loss of one transition against the teacher's velocity.
        reward: Scores the rollouts for the log only; no reward enters the loss.
        optimizer: Makes the optimiser from parameters.
        seed: Seed of every draw.
        ema: ``decay`` and ``update_interval`` of the student's average.
        gradient_clip: Largest gradient norm.
        round: ``fused`` or ``two_pass``.
        train_steps: ``all``, or ``all_but_last`` (the last step of the shifted grid is almost empty).
        step_reduction: ``mean`` or ``sum`` of the losses over steps.
        task_reduction: ``mean`` or ``sum`` of the losses over tasks.
        micro_batch_size: Most rows in one forward; null for all at once.
        score_every_n_rounds: Rounds from one scored rollout to the next; 0 for never.
        conflict_every_n_rounds: Rounds from one measurement of the cosines between the tasks' gradients to
            the next; 0 for never.

    Attributes:
        supervision: What its loss learns from.
    """

    supervision: ClassVar[str] = "teacher"

    def __init__(
        self,
        *,
        model: SD3Model,
        adapter: LoRA,
        teacher: TeacherSet,
        sampler: TransitionSampler,
        loss: TransitionLoss,
        reward: Reward,
        optimizer: OptimizerFactory,
        seed: int,
        ema: Mapping[str, Any],
        gradient_clip: float,
        round: Literal["fused", "two_pass"],
        train_steps: Literal["all", "all_but_last"],
        step_reduction: Literal["mean", "sum"],
        task_reduction: Literal["mean", "sum"],
        micro_batch_size: int | None,
        score_every_n_rounds: int,
        conflict_every_n_rounds: int,
    ) -> None:
        given = (round, train_steps, step_reduction, task_reduction)
        for (setting, allowed), value in zip(CHOICES.items(), given, strict=True):
            if value not in allowed:
                raise ValueError(f"phase.{setting}={value} is not known; choose one of {', '.join(allowed)}")
        if train_steps == "all_but_last" and sampler.num_steps == 1:
            raise ValueError(
                "phase.train_steps=all_but_last leaves nothing to train with sampler.num_steps=1; "
                "set phase.train_steps=all or more steps"
            )
        super().__init__(
            model=model,
            adapter=adapter,
            optimizer=optimizer,
            seed=seed,
            ema=ema,
            gradient_clip=gradient_clip,
            conflict_every_n_rounds=conflict_every_n_rounds,
        )
        teacher.load(cast(Any, model))
        self.teacher = teacher
        self.sampler = sampler
        self.loss = loss
        self.reward = reward
        self.two_pass = round == "two_pass"
        self.train_steps = range(sampler.num_steps - (train_steps == "all_but_last"))
        self.step_weight = 1 / len(self.train_steps) if step_reduction == "mean" else 1.0
        self.sum_tasks = task_reduction == "sum"
        self.micro_batch_size = micro_batch_size
        self.score_every_n_rounds = score_every_n_rounds

    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round: roll out, match the teachers at every state, update once."""
        weights, counts = self._row_weights(prompts), Counter(prompts.tasks)
        totals: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        for rows in micro_batches(len(prompts), self.micro_batch_size):
            part = prompts.select(rows)
            conditioning = self.conditioning(part)
            for transition in self._rollout(part, conditioning):
                if transition.step in self.train_steps:
                    target = self.teacher.velocity(
                        self.model,
                        transition.latent,
                        transition.sigma,
                        part.tasks,
                        conditioning,
                        self.model.unconditional(),
                    )
                    term = self.loss(transition, target)
                    losses = weights[rows] * term.value * self.step_weight
                    totals["train/loss/opd"] += self.add_gradient(losses, part.tasks)
                    self._add_metrics(totals, part.tasks, weights[rows], counts, term.metrics)
                    # Nothing of this step may be in memory when the next one is computed.
                    del target, term, losses
                if self._scored and transition.step == self.sampler.num_steps - 1:
                    scores = scored(self, self.reward, self.images(transition.next_latent), part, "reward")
                    add_rewards(totals, scores, part, counts)
                    totals["train/cost/reward_calls"] += len(part) * num_processes()
                del transition
        totals["train/cost/images"] += len(prompts) * num_processes()
        totals |= self.gradient_conflict()
        totals["train/gradient_norm"] = self.update()
        self.log_dict(dict(totals), sync_dist=True, batch_size=len(prompts))

    @property
    def _scored(self) -> bool:
        """Whether this round's images are scored for the log."""
        return self.score_every_n_rounds > 0 and self.round % self.score_every_n_rounds == 0

    def _rollout(self, prompts: Prompts, conditioning: Conditioning) -> Iterator[Transition]:
        """The student's transitions, with gradients where they are trained.

        Ends after the last trained step, unless this round's images are to be scored.
        """
        num_steps = self.sampler.num_steps if self._scored else len(self.train_steps)
        rollout = self.rollout(self.sampler, prompts, conditioning, STUDENT)
        if self.two_pass:
            student = self.policy(conditioning, STUDENT, self.sampler.guidance_scale)
            rollout = revisit(self.sampler, self._store(rollout, num_steps), student)
        for step in range(num_steps):
            with torch.set_grad_enabled(step in self.train_steps):
                transition = next(rollout)
            yield transition
            # Let go of the step's activations before the next step makes its own.
            del transition

    @torch.no_grad()
    def _store(self, rollout: Iterator[Transition], num_steps: int) -> Trajectory:
        """The first states of a rollout, computed without gradients."""
        visited = list(islice(rollout, num_steps))
        latents = [visited[0].latent, *(transition.next_latent for transition in visited)]
        sigmas = self.sampler.sigmas()[: num_steps + 1]
        return Trajectory(torch.stack(latents), sigmas.to(self.device))

    def _row_weights(self, prompts: Prompts) -> Tensor:
        """Rows are averaged within their task; tasks are averaged, or summed as Algorithm 1 prints."""
        scale = len(set(prompts.tasks)) if self.sum_tasks else 1
        return torch.tensor(task_weights(prompts.tasks), device=self.device) * scale

    def _add_metrics(
        self,
        totals: defaultdict[str, Tensor],
        tasks: tuple[str, ...],
        weights: Tensor,
        counts: Mapping[str, int],
        metrics: Mapping[str, Tensor],
    ) -> None:
        """Add one step's share: the gap per task (mean over steps) and the KL in nats (sum over steps)."""
        if "kl_nats" in metrics:
            scale = 1 / len(counts) if self.sum_tasks else 1
            totals["train/loss/kl_nats"] += (weights * metrics["kl_nats"]).sum() * scale
        for task in dict.fromkeys(tasks):
            rows = [row for row, name in enumerate(tasks) if name == task]
            totals[f"train/gap/{task}"] += metrics["velocity_gap"][rows].sum() / (
                counts[task] * len(self.train_steps)
            )
