"""On-policy distillation: the student matches its teachers along its own rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.estimator import ClosedForm, Estimator
from diffopd.loss import TransitionMatching
from diffopd.model import PipelineModel
from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.balance import Balance
from diffopd.phase.distribution import DistributionTerm
from diffopd.phase.guidance import loss_guidance
from diffopd.phase.measure import measure_teachers
from diffopd.phase.micro_batch import MicroBatch, row_weights
from diffopd.phase.off_policy import (
    ON_POLICY,
    PICTURES,
    STATES_FROM,
    TEACHER,
    LastAnswer,
    off_policy_states,
)
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.phase.processes import averaged, num_processes
from diffopd.phase.scoring import scored
from diffopd.phase.settings import StudentSettings
from diffopd.phase.stored import StoredTransition
from diffopd.phase.within_round import within_round
from diffopd.policy import OptimizerFactory
from diffopd.randomness import torch_generator
from diffopd.sampler import TransitionSampler, transition_at
from diffopd.states import StepChoice
from diffopd.teacher import Distribution, Regulariser, Routing, StateRegulariser, Target, TeacherSet
from diffopd.types import Prompts, Reward, Transition

CHOICES = {
    "round": ("fused", "two_pass"),
    "step_reduction": ("mean", "sum"),
    "task_reduction": ("mean", "sum"),
    "states_from": STATES_FROM,
}
"""Settings with names, and the names."""


class DistillPhase(PolicyPhase):
    """DiffusionOPD, stage 2: several frozen teachers, one student (Algorithm 1).

    A fused round takes the loss of each transition while the rollout is at it, so every step needs one
    forward of the student and the memory of one step. A two-pass round stores the rollout first and computes
    every step again, once per update; with one update the gradients are the same.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape and start of the student.
        teacher: Whom it learns from.
        routing: Which of several teachers a prompt learns from.
        sampler: The student's sampler; its guidance scale is the student's.
        states: Which steps of the rollout are trained.
        loss: Loss of one transition against the teacher's velocity.
        estimator: How the gradient of that loss is estimated.
        regulariser: Regularization towards one more model, on all samples, or none.
        balance: Weights of the tasks.
        reward: Scores the rollouts for the log; no reward enters the loss, and none is needed.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases that have teachers.
        round: ``fused`` or ``two_pass``.
        updates_per_round: Optimizer steps on the same rollout; more than one needs ``two_pass``.
        step_reduction: ``mean`` or ``sum`` of the losses over steps.
        task_reduction: ``mean`` or ``sum`` of the losses over tasks.
        loss_guidance_scale: Guidance of the student in the loss; null = the sampler's. Another one costs one
            more forward at every trained state.
        states_from: ``rollout``: the student's own states, on-policy. Off-policy: ``teacher``: the states of
            the row's teacher's own rollout, at which it has answered already; ``pictures``: the pictures of
            the data's rows, noised to the levels of the sampler's grid; ``teacher_samples``,
            ``base_samples``: samples of the teacher or of the base model, noised likewise.

    Attributes:
        settings_type: Type of ``settings``.
        supervision: What its loss learns from.
        takes_states: That ``phase.states_from`` says where they come from.
        round_kind: What a round takes, for ``doctor``.
    """

    settings_type: ClassVar[type[StudentSettings]] = StudentSettings
    supervision: ClassVar[str] = "teacher"
    takes_buckets: ClassVar[bool] = True
    takes_states: ClassVar[bool] = True
    round_kind: ClassVar[str] = "distillation"
    settings: StudentSettings

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        teacher: Target,
        routing: Routing,
        sampler: TransitionSampler,
        states: StepChoice,
        loss: TransitionMatching,
        estimator: Estimator,
        regulariser: Regulariser,
        balance: Balance,
        reward: Reward | None = None,
        optimizer: OptimizerFactory,
        settings: StudentSettings,
        round: Literal["fused", "two_pass"],
        updates_per_round: int,
        step_reduction: Literal["mean", "sum"],
        task_reduction: Literal["mean", "sum"],
        loss_guidance_scale: int | float | None = None,  # not in the configs that earlier runs saved
        states_from: Literal["rollout", "pictures", "teacher", "teacher_samples", "base_samples"] = "rollout",
    ) -> None:
        chosen = (round, step_reduction, task_reduction, states_from)
        for (setting, allowed), value in zip(CHOICES.items(), chosen, strict=True):
            if value not in allowed:
                raise ValueError(f"phase.{setting}={value} is not known; choose one of {', '.join(allowed)}")
        if updates_per_round < 1 or (updates_per_round > 1 and round == "fused"):
            raise ValueError(
                f"phase.updates_per_round={updates_per_round} must be 1 with phase.round=fused, which "
                "computes the loss during the rollout; more need phase.round=two_pass"
            )
        if states_from != ON_POLICY and sampler.uses_history:
            raise ValueError(
                f"phase.states_from={states_from} has states of no rollout of the student, and the sampler "
                "needs the step before each; choose sampler=flow"
            )
        possible = states.steps(sampler.num_steps)
        super().__init__(model=model, adapter=adapter, optimizer=optimizer, settings=settings)
        self.teacher, self.routing = teacher, routing
        self.target = teacher.routed(routing)
        self.target.join(self)
        self.sampler, self.states = sampler, states
        self.loss_guidance = loss_guidance(loss_guidance_scale, sampler)
        trainable = [transition for transition in sampler.grid_transitions() if transition.step in possible]
        self.loss = loss.over(trainable)
        self.estimator = estimator
        self.regulariser = regulariser.over(trainable)
        self.regulariser.join(self)
        self.distribution: DistributionTerm | None = None
        if isinstance(self.regulariser, Distribution):
            self.distribution = DistributionTerm(self, self.regulariser, updates_per_round)
        self.balance, self.reward = balance, reward
        self.two_pass = round == "two_pass"
        other_guidance = self.loss_guidance != sampler.guidance_scale
        if other_guidance and not isinstance(estimator, ClosedForm):
            raise ValueError(
                f"phase.loss_guidance_scale={self.loss_guidance:g} and sampler.guidance_scale="
                f"{sampler.guidance_scale:g} differ, which needs estimator=closed_form: other "
                "estimators weigh the density of what was drawn, at one guidance"
            )
        self._recomputes = self.two_pass or other_guidance
        self.updates_per_round = updates_per_round
        self.draw_weight = states.weight(sampler.num_steps)
        self.step_weight = self.draw_weight / len(possible) if step_reduction == "mean" else self.draw_weight
        self.sum_tasks = task_reduction == "sum"
        self.states_from = states_from

    @within_round
    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round of Algorithm 1.

        As printed but for the reductions, which default to the released means (``phase.step_reduction``,
        ``phase.task_reduction``), and the last step, which the released code leaves out (``states``).
        """
        steps = self.states.draw(self.sampler.num_steps, torch_generator(self.seed, "states", self.round))
        self._round(prompts, steps)
        if self.states_from != PICTURES:
            self.round_log.add("train/cost/images", len(prompts) * num_processes())
        self._watch_balance(prompts)
        self.log_round(prompts)

    def _round(self, prompts: Prompts, steps: Sequence[int]) -> None:
        if self.two_pass:
            self._two_pass_round(prompts, steps)
            return
        for rows in self._rows(prompts):
            if self._recomputes:  # the same states, seen at the loss's guidance
                for state in self._stored(rows, steps):
                    self._match(rows, self._recomputed(rows, state), state.velocity, len(steps))
                continue
            for transition in self._transitions(rows, steps):
                if transition.step in steps:
                    self._match(rows, transition, transition.velocity.detach(), len(steps))
                del transition  # a step's activations end before the next step makes its own
        self._take_step()

    def _match(self, rows: MicroBatch, transition: Transition, velocity_old: Tensor, num_drawn: int) -> None:
        """Add the gradient of one step: student against teacher at the state where the student is."""
        target = rows.target(transition.latent, transition.sigma)
        term = self.estimator(self.loss, transition, velocity_old, target)  # Eq. 11, or 12 without noise
        losses = term.value
        if self.distribution is not None:
            losses = losses + self._near_distribution(rows, transition)
        elif isinstance(self.regulariser, StateRegulariser) and self.regulariser.weight > 0:
            losses = losses + self._anchored(self.regulariser, rows, transition)
        losses = rows.weights * losses * self.step_weight
        loss = self.add_gradient(losses, rows.prompts, transition.step) / self.updates_per_round
        self.round_log.add("train/loss/opd", loss)
        self.round_log.add(f"train/step_loss/{transition.step}", loss / self.step_weight)
        self._add_metrics(rows, transition.step, term.metrics, num_drawn)

    def _two_pass_round(self, prompts: Prompts, steps: Sequence[int]) -> None:
        """The rollout first; then, once per update, each of its steps with the velocity of now."""
        stored = [(rows, list(self._stored(rows, steps))) for rows in self._rows(prompts)]
        for _ in range(self.updates_per_round):
            for rows, transitions in stored:
                for old in transitions:
                    self._match(rows, self._recomputed(rows, old), old.velocity, len(steps))
            self._take_step()

    def _take_step(self) -> None:
        """Update with the gradients of all rows."""
        for name, value in self.gradient_conflict().items():
            self.round_log.add(name, value / self.updates_per_round)
        self.round_log.add("train/gradient_norm", self.update() / self.updates_per_round)
        if self.distribution is not None:
            self.distribution.learn()

    def on_train_start(self) -> None:
        """Let a routing that chooses by measured scores see them, once."""
        prompts = self.routing.prompts_to_measure(self.seed)
        if prompts is not None and isinstance(self.teacher, TeacherSet) and self.reward is not None:
            scores = measure_teachers(self, self.teacher, self.sampler, self.reward, prompts)
            self.routing.choose(scores)

    @property
    def updates_in_round(self) -> int:
        """As ``phase.updates_per_round`` says, with those of a fake score after each."""
        return self.updates_per_round * (1 + (self.distribution.updates if self.distribution else 0))

    # The rollout.

    @property
    def _scored(self) -> bool:
        """Whether this round's images are scored for the log."""
        return self.reward is not None and self.due(self.settings.score_every_n_rounds)

    def _rows(self, prompts: Prompts) -> Iterator[MicroBatch]:
        """The round's rows, at most so many together."""
        balance = self.balance.weights(tuple(dict.fromkeys(prompts.tasks)))
        weights = row_weights(prompts.tasks, balance, sum_tasks=self.sum_tasks).to(self.device)
        for rows in self.micro_batches(prompts):
            part = prompts.select(rows)
            given = self.conditioning(part)
            target = self.target.given(part, given)
            yield MicroBatch(
                prompts=part,
                conditioning=given,
                weights=weights[rows],
                target=LastAnswer(target) if self.states_from == TEACHER else target,
                anchor=self.regulariser.given(part, given),
            )

    def _transitions(self, rows: MicroBatch, steps: Sequence[int]) -> Iterator[Transition]:
        """At the states where the loss is taken: the student's own, or others."""
        if self.states_from == ON_POLICY:
            yield from self._rollout(rows, steps)
            return
        states = off_policy_states(self, self.sampler, rows, steps, self.states_from)
        for _ in steps:
            with torch.set_grad_enabled(not self._recomputes):
                transition = next(states)
            yield transition
            del transition
        if self._scored:
            with torch.no_grad():
                *_, last = self.rollout(self.sampler, rows.prompts, rows.conditioning, self.student)
            self._score(rows.prompts, last.next_latent)

    def _rollout(self, rows: MicroBatch, steps: Sequence[int]) -> Iterator[Transition]:
        """The student's transitions, with gradients at the trained steps of a fused round.

        Ends after the last trained step, unless this round's images are to be scored.
        """
        rollout = self.rollout(self.sampler, rows.prompts, rows.conditioning, self.student)
        for step in range(self.sampler.num_steps if self._scored else steps[-1] + 1):
            with torch.set_grad_enabled(step in steps and not self._recomputes):
                transition = next(rollout)
            yield transition
            if step == self.sampler.num_steps - 1 and self._scored:
                self._score(rows.prompts, transition.next_latent)
            # Let go of the step's activations before the next step makes its own.
            del transition

    def _score(self, prompts: Prompts, clean: Tensor) -> None:
        """Add the rewards of a rollout to the log."""
        assert self.reward is not None
        images = self.images(clean)
        with finite_rewards_everywhere(self.device):
            scores = scored(self, self.reward, images, prompts, "reward")
        self.round_log.add_rewards(scores, prompts)
        self.round_log.add("train/cost/reward_calls", len(prompts) * num_processes())

    def _stored(self, rows: MicroBatch, steps: Sequence[int]) -> Iterator[StoredTransition]:
        """The trained steps of a rollout without gradients."""
        previous_clean = None
        for transition in self._transitions(rows, steps):
            if transition.step in steps:
                velocity = transition.velocity.float()
                yield StoredTransition(
                    transition.step, transition.latent, velocity, transition.next_latent, previous_clean
                )
            previous_clean = self.sampler.clean_history(transition)

    def _recomputed(self, rows: MicroBatch, old: StoredTransition) -> Transition:
        """A stored step with the velocity the student has now."""
        student = self.student.given(rows.conditioning, self.loss_guidance)
        return transition_at(
            self.sampler,
            old.step,
            old.latent,
            student(old.latent, self.sampler.sigma_at(old.step, old.latent)),
            next_latent=old.next_latent,
            previous_clean=old.previous_clean,
        )

    # What is logged of a step.

    def _anchored(self, regulariser: StateRegulariser, rows: MicroBatch, transition: Transition) -> Tensor:
        """The regulariser's weighted term per row, where it compares velocities."""
        anchor = regulariser(transition, rows.anchor(transition.latent, transition.sigma))
        share = (rows.weights * anchor.detach()).sum() * self.step_weight
        self.round_log.add("train/loss/anchor", share / self.updates_per_round)
        return regulariser.weight * anchor

    def _near_distribution(self, rows: MicroBatch, transition: Transition) -> Tensor:
        """The regulariser's weighted term per row, where it compares distributions."""
        assert self.distribution is not None
        state = (transition.latent, transition.sigma, transition.velocity)
        weights = rows.weights * self.step_weight
        return self.distribution.at(str(transition.step), rows.prompts, rows.conditioning, state, weights)

    def _add_metrics(
        self, rows: MicroBatch, step: int, metrics: Mapping[str, Tensor], num_drawn: int
    ) -> None:
        """Add one step's share: the gap per task and per step, the KL in nats (sum over steps), the ratio."""
        tasks, log = rows.prompts.tasks, self.round_log
        shares = log.shares(tasks) / self.updates_per_round
        if "kl_nats" in metrics and self.states.beta is None:  # else likely steps would count too often
            log.add("train/loss/kl_nats", (shares * metrics["kl_nats"]).sum() * self.draw_weight)
        for name, logged in (("ratio", "train/ratio"), ("clipped", "train/clip_fraction")):
            if name in metrics:
                log.add(logged, (shares * metrics[name]).sum() / num_drawn)
        log.add(f"train/step_gap/{step}", (shares * metrics["velocity_gap"]).sum())
        gap = metrics["velocity_gap"] / (num_drawn * self.updates_per_round)
        log.add_by_task("train/gap", gap, tasks)

    # Tasks and teachers.

    def _watch_balance(self, prompts: Prompts) -> None:
        """Tell the balance how far each task's student is from its teacher, when it wants to know."""
        if not self.balance.wants_gaps(self.round):
            return
        tasks = tuple(dict.fromkeys(prompts.tasks))
        gaps = averaged(torch.stack([self.round_log[f"train/gap/{task}"] for task in tasks])).tolist()
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
