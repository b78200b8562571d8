"""On-policy distillation: the student matches its teachers along its own rollouts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from diffopd.adapter import LoRA
from diffopd.estimator import Estimator
from diffopd.loss import TransitionMatching
from diffopd.model import PipelineModel
from diffopd.phase.adapted import STUDENT, AdaptedPhase, OptimizerFactory, micro_batches
from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.balance import Balance
from diffopd.phase.by_task import add_by_task, add_rewards, task_weights
from diffopd.phase.measure import measure_teachers
from diffopd.phase.part import Part, row_weights
from diffopd.phase.processes import averaged, num_processes
from diffopd.phase.scoring import scored
from diffopd.phase.visit import Visit
from diffopd.randomness import torch_generator
from diffopd.sampler import TransitionSampler, transition_at
from diffopd.states import StepChoice
from diffopd.teacher import Regulariser, Routing, TeacherSet
from diffopd.types import Prompts, Reward, Transition

CHOICES = {
    "round": ("fused", "two_pass"),
    "step_reduction": ("mean", "sum"),
    "task_reduction": ("mean", "sum"),
}
"""Settings with names, and the names."""


class DistillPhase(AdaptedPhase):
    """DiffusionOPD, stage 2: several frozen teachers, one student (Algorithm 1).

    A fused round takes the loss of each transition while the rollout is at it, so every step needs one
    forward of the student and the memory of one step. A two-pass round stores the rollout first and computes
    every step again, once per update; with one update the gradients are the same.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape and start of the student's adapter.
        teacher: The teachers.
        routing: Which teachers a prompt learns from.
        sampler: The student's sampler; its guidance scale is the student's.
        states: Which steps of the rollout are trained.
        loss: Loss of one transition against the teacher's velocity.
        estimator: How the gradient of that loss is estimated.
        regulariser: Pull to one more model, on all rows, or none.
        balance: Weights of the tasks.
        reward: Scores the rollouts for the log; no reward enters the loss.
        optimizer: Makes the optimiser from parameters.
        seed: Seed of every draw.
        ema: ``decay`` and ``update_interval`` of the student's average.
        gradient_clip: Largest gradient norm.
        round: ``fused`` or ``two_pass``.
        updates_per_round: Optimiser steps on the same rollout; more than one needs ``two_pass``.
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
        model: PipelineModel,
        adapter: LoRA,
        teacher: TeacherSet,
        routing: Routing,
        sampler: TransitionSampler,
        states: StepChoice,
        loss: TransitionMatching,
        estimator: Estimator,
        regulariser: Regulariser,
        balance: Balance,
        reward: Reward,
        optimizer: OptimizerFactory,
        seed: int,
        ema: Mapping[str, Any],
        gradient_clip: float,
        round: Literal["fused", "two_pass"],
        updates_per_round: int,
        step_reduction: Literal["mean", "sum"],
        task_reduction: Literal["mean", "sum"],
        micro_batch_size: int | None,
        score_every_n_rounds: int,
        conflict_every_n_rounds: int,
    ) -> None:
        for (setting, allowed), value in zip(
            CHOICES.items(), (round, step_reduction, task_reduction), strict=True
        ):
            if value not in allowed:
                raise ValueError(f"phase.{setting}={value} is not known; choose one of {', '.join(allowed)}")
        if updates_per_round < 1 or (updates_per_round > 1 and round == "fused"):
            raise ValueError(
                f"phase.updates_per_round={updates_per_round} must be 1 with phase.round=fused, which takes "
                "the loss while it rolls out; more need phase.round=two_pass"
            )
        possible = states.steps(sampler.num_steps)
        super().__init__(
            model=model,
            adapter=adapter,
            optimizer=optimizer,
            seed=seed,
            ema=ema,
            gradient_clip=gradient_clip,
            conflict_every_n_rounds=conflict_every_n_rounds,
        )
        for adapted in (teacher, regulariser):
            adapted.load(cast(Any, model))
        self.teacher = teacher
        self.routing = routing
        self.sampler = sampler
        self.states = states
        trainable = [transition for transition in sampler.grid_transitions() if transition.step in possible]
        self.loss = loss.over(trainable)
        self.estimator = estimator
        self.regulariser = regulariser.over(trainable)
        self.balance = balance
        self.reward = reward
        self.two_pass = round == "two_pass"
        self.updates_per_round = updates_per_round
        self.draw_weight = states.weight(sampler.num_steps)
        self.step_weight = self.draw_weight / len(possible) if step_reduction == "mean" else self.draw_weight
        self.sum_tasks = task_reduction == "sum"
        self.micro_batch_size = micro_batch_size
        self.score_every_n_rounds = score_every_n_rounds

    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round: roll out, match the teachers at the drawn states, update."""
        totals: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        steps = self.states.draw(self.sampler.num_steps, torch_generator(self.seed, "states", self.round))
        one_round = self._two_pass_round if self.two_pass else self._fused_round
        one_round(totals, self._parts(prompts), steps)
        totals["train/cost/images"] += len(prompts) * num_processes()
        self._watch_balance(totals, prompts)
        self.log_dict(dict(totals), sync_dist=True, batch_size=len(prompts))

    def _fused_round(
        self, totals: defaultdict[str, Tensor], parts: Iterable[Part], steps: Sequence[int]
    ) -> None:
        """The loss of each transition while the rollout is at it; one update."""
        for part in parts:
            for transition in self._rollout(totals, part, steps):
                if transition.step in steps:
                    self._match(totals, part, transition, transition.velocity.detach(), len(steps))
                del transition
        self._take_step(totals)

    def _two_pass_round(
        self, totals: defaultdict[str, Tensor], parts: Iterable[Part], steps: Sequence[int]
    ) -> None:
        """The rollout first; then, once per update, each of its steps with the velocity of now."""
        stored = [(part, list(self._visits(totals, part, steps))) for part in parts]
        for _ in range(self.updates_per_round):
            for part, visits in stored:
                for visit in visits:
                    self._match(totals, part, self._again(part, visit), visit.velocity, len(steps))
            self._take_step(totals)

    def on_train_start(self) -> None:
        """Let a routing that chooses by measured scores see them, once."""
        prompts = self.routing.prompts_to_measure(self.seed)
        if prompts is not None:
            scores = measure_teachers(self, self.teacher, self.sampler, self.reward, prompts)
            self.routing.choose(scores)

    @property
    def updates_in_round(self) -> int:
        """As ``phase.updates_per_round`` says."""
        return self.updates_per_round

    # The rollout.

    @property
    def _scored(self) -> bool:
        """Whether this round's images are scored for the log."""
        return self.due(self.score_every_n_rounds)

    def _parts(self, prompts: Prompts) -> Iterator[Part]:
        """The round's rows, at most so many at once."""
        tasks = tuple(dict.fromkeys(prompts.tasks))
        counts = Counter(prompts.tasks)
        weights = row_weights(prompts.tasks, self.balance.weights(tasks), sum_tasks=self.sum_tasks)
        weights = weights.to(self.device)
        for rows in micro_batches(len(prompts), self.micro_batch_size):
            part = prompts.select(rows)
            routes = self.routing.weights(part, self.teacher.tasks)
            yield Part(part, self.conditioning(part), weights[rows], routes, counts)

    def _rollout(
        self, totals: defaultdict[str, Tensor], part: Part, steps: Sequence[int]
    ) -> Iterator[Transition]:
        """The student's transitions, with gradients at the trained steps of a fused round.

        Ends after the last trained step, unless this round's images are to be scored.
        """
        rollout = self.rollout(self.sampler, part.prompts, part.conditioning, STUDENT)
        for step in range(self.sampler.num_steps if self._scored else steps[-1] + 1):
            with torch.set_grad_enabled(step in steps and not self.two_pass):
                transition = next(rollout)
            yield transition
            if step == self.sampler.num_steps - 1 and self._scored:
                images = self.images(transition.next_latent)
                with finite_rewards_everywhere(self.device):
                    scores = scored(self, self.reward, images, part.prompts, "reward")
                add_rewards(totals, scores, part.prompts, part.counts)
                totals["train/cost/reward_calls"] += len(part.prompts) * num_processes()
            # Let go of the step's activations before the next step makes its own.
            del transition

    def _visits(self, totals: defaultdict[str, Tensor], part: Part, steps: Sequence[int]) -> Iterator[Visit]:
        """The trained steps of a rollout without gradients."""
        previous_clean = None
        for transition in self._rollout(totals, part, steps):
            if transition.step in steps:
                velocity = transition.velocity.float()
                yield Visit(
                    transition.step, transition.latent, velocity, transition.next_latent, previous_clean
                )
            previous_clean = self.sampler.clean_history(transition)

    def _again(self, part: Part, visit: Visit) -> Transition:
        """A stored step with the velocity the student has now."""
        student = self.policy(part.conditioning, STUDENT, self.sampler.guidance_scale)
        return transition_at(
            self.sampler,
            visit.step,
            visit.latent,
            student(visit.latent, self.sampler.sigma_at(visit.step, visit.latent)),
            next_latent=visit.next_latent,
            previous_clean=visit.previous_clean,
        )

    # The loss.

    def _match(
        self,
        totals: defaultdict[str, Tensor],
        part: Part,
        transition: Transition,
        velocity_old: Tensor,
        num_drawn: int,
    ) -> None:
        """Add one step's gradient and its share of what is logged."""
        at = (self.model, transition.latent, transition.sigma)
        given = (part.conditioning, self.model.unconditional())
        target = self.teacher.mixed_velocity(*at, part.routes, *given)
        term = self.estimator(self.loss, transition, velocity_old, target)
        value = term.value
        if self.regulariser.weight > 0:
            anchor = self.regulariser(transition, self.regulariser.velocity(*at, *given))
            value = value + self.regulariser.weight * anchor
            share = (part.weights * anchor.detach()).sum() * self.step_weight
            totals["train/loss/anchor"] += share / self.updates_per_round
        losses = part.weights * value * self.step_weight
        loss = self.add_gradient(losses, part.prompts, transition.step) / self.updates_per_round
        totals["train/loss/opd"] += loss
        totals[f"train/step_loss/{transition.step}"] += loss / self.step_weight
        self._add_metrics(totals, part, transition.step, term.metrics, num_drawn)

    def _add_metrics(
        self,
        totals: defaultdict[str, Tensor],
        part: Part,
        step: int,
        metrics: Mapping[str, Tensor],
        num_drawn: int,
    ) -> None:
        """Add one step's share: the gap per task and per step, the KL in nats (sum over steps), the ratio."""
        shares = torch.tensor(task_weights(part.prompts.tasks, part.counts), device=self.device)
        shares = shares / self.updates_per_round
        if "kl_nats" in metrics and self.states.beta is None:  # else likely steps would count too often
            totals["train/loss/kl_nats"] += (shares * metrics["kl_nats"]).sum() * self.draw_weight
        for name, logged in (("ratio", "train/ratio"), ("clipped", "train/clip_fraction")):
            if name in metrics:
                totals[logged] += (shares * metrics[name]).sum() / num_drawn
        totals[f"train/step_gap/{step}"] += (shares * metrics["velocity_gap"]).sum()
        gap = metrics["velocity_gap"] / (num_drawn * self.updates_per_round)
        add_by_task(totals, "train/gap", gap, part.prompts.tasks, part.counts)

    def _take_step(self, totals: defaultdict[str, Tensor]) -> None:
        """Update with the gradients of all rows."""
        for name, value in self.gradient_conflict().items():
            totals[name] += value / self.updates_per_round
        totals["train/gradient_norm"] += self.update() / self.updates_per_round

    # Tasks and teachers.

    def _watch_balance(self, totals: Mapping[str, Tensor], prompts: Prompts) -> None:
        """Tell the balance how far each task's student is from its teacher, when it wants to know."""
        if not self.balance.wants_gaps(self.round):
            return
        tasks = tuple(dict.fromkeys(prompts.tasks))
        gaps = averaged(torch.stack([totals[f"train/gap/{task}"] for task in tasks])).tolist()
        self.balance.observe(dict(zip(tasks, gaps, strict=True)))
        self.log_dict(
            {f"train/balance/{task}": weight for task, weight in self.balance.weights(tasks).items()},
            sync_dist=True,
            batch_size=len(prompts),
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what routing and balance have learned."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["distill"] = {"routing": self.routing.state_dict(), "balance": self.balance.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again."""
        super().on_load_checkpoint(checkpoint)
        self.routing.load_state_dict(checkpoint["distill"]["routing"])
        self.balance.load_state_dict(checkpoint["distill"]["balance"])
