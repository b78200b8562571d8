"""How much a distillation gradient varies with the drawn action, measured at a fixed student."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.estimator import Estimator, GradientMoments
from diffopd.loss import ReverseKL
from diffopd.model import PipelineModel
from diffopd.phase.by_task import task_weights
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.phase.processes import num_processes
from diffopd.phase.settings import TrainSettings
from diffopd.phase.variance_entry import ALL_STEPS, headline, squared_norm, variance_entry
from diffopd.phase.within_round import within_round
from diffopd.sampler import TransitionSampler
from diffopd.teacher import TeacherSet
from diffopd.types import Prompts, TransitionLoss


@dataclass(frozen=True)
class _State:
    """One visited state with the student's graph there.

    Attributes:
        step: Position in the grid.
        latent: The state.
        velocity: The student's velocity, with the graph that led to it.
        target: The teachers' velocity.
    """

    step: int
    latent: Tensor
    velocity: Tensor
    target: Tensor


class GradientVariancePhase(PolicyPhase):
    """Moments of each estimator's gradient over the drawn action; nothing is trained.

    A round is one noise level. The student rolls out once; at the chosen steps of that rollout the states are
    kept, then the steps' actions are drawn again and again. A draw's gradient is that of a round of
    distillation which trains these steps: mean over rows within tasks, over tasks, and over steps. State and
    student are fixed, so a forward per step serves all draws, and a draw costs one backward per step. Prompts
    and the rollout's noise are the same at all noise levels, so that levels differ in nothing else.

    Memory is that of one forward with gradients for each chosen step, and of several vectors of the adapter's
    size, in float64, for each estimator and step.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape of the student's adapter; ``adapter.start`` is where a trained student comes from.
        teacher: The teachers, one per task.
        sampler: The student's sampler; its noise level is replaced.
        loss: The KL in nats, which all estimators are compared with.
        seed: Seed of every draw.
        noise_levels: One per round, above 0.
        steps: Steps of the rollout whose gradient is measured, counted from 0.
        num_draws: Actions drawn at each state; a multiple of all ``group_sizes``, and at least twice each.
        group_sizes: Numbers of draws whose average's variance is measured.
        estimators: name -> estimator. Names are free.

    Attributes:
        supervision: What its loss learns from.
        round_kind: What a round takes, for ``doctor``.
        one_process: That it cannot share its work.
        levels: What was measured: one mapping of plain numbers for each noise level done.
    """

    supervision: ClassVar[str] = "teacher"
    round_kind: ClassVar[str] = "measurement"
    one_process: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        teacher: TeacherSet,
        sampler: TransitionSampler,
        loss: TransitionLoss,
        seed: int,
        noise_levels: Sequence[float],
        steps: Sequence[int],
        num_draws: int,
        group_sizes: Sequence[int],
        estimators: Mapping[str, Estimator],
    ) -> None:
        _check_draws(num_draws, group_sizes)
        samplers = [_checked_sampler(sampler, level, steps) for level in noise_levels]
        if not samplers:
            raise ValueError("phase.noise_levels is empty; name at least one, as in [0.7]")
        _check_loss(loss)
        if not estimators:
            raise ValueError("phase.estimators is empty; it needs at least one")
        for name, estimator in estimators.items():
            if not callable(getattr(estimator, "expected_scale", None)):  # as Hydra wraps it
                raise ValueError(f"phase.estimators.{name} is no estimator; phase._convert_=all keeps it one")
        super().__init__(
            model=model,
            adapter=adapter,
            optimizer=partial(torch.optim.SGD, lr=0.0),  # Lightning wants one; it never steps
            settings=TrainSettings(
                seed=seed,
                ema={"decay": 0.0, "update_interval": 1},
                gradient_clip=1.0,
                micro_batch_size=None,
                conflict_every_n_rounds=0,
            ),
        )
        teacher.join(self)
        self.teacher = teacher
        self.samplers = samplers
        self.loss = loss
        self.steps = tuple(sorted(set(steps)))
        self.num_draws = num_draws
        self.group_sizes = tuple(sorted(set(group_sizes)))
        self.estimators = dict(estimators)
        self.levels: list[dict[str, Any]] = []

    def setup(self, stage: str) -> None:
        """Check that rounds and noise levels are as many.

        Raises:
            ValueError: If not, or if there is more than one process.
        """
        rounds, levels = self.trainer.max_epochs, len(self.samplers)
        if rounds != levels:
            raise ValueError(
                f"trainer.max_epochs={rounds} must be the number of phase.noise_levels, {levels}: a round "
                f"measures one of them; set trainer.max_epochs={levels}"
            )
        if self.trainer.world_size > 1:
            raise ValueError("phase=gradient_variance measures in one process; set trainer=default")

    @within_round
    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """Measure one noise level."""
        prompts = cast(Any, self.trainer).datamodule.batch(0)  # the first round's, at every level
        sampler = self.samplers[self.round]
        states = self._states(sampler, prompts)
        weights = torch.tensor(task_weights(prompts.tasks), device=self.device) / len(self.steps)
        nothing = {state.step: torch.zeros_like(state.latent) for state in states}
        exact, kl = self._exact(sampler, states, weights, nothing)
        moments = self._moments(exact)
        for draw in range(self.num_draws):
            noise = {step: self._action_noise(prompts, step, draw) for step in self.steps}
            for name, estimator in self.estimators.items():
                gradients = {
                    state.step: self._gradient(estimator, sampler, state, weights, noise[state.step])
                    for state in states
                }
                self._add(moments[name], gradients)
        self.levels.append(self._level(sampler, prompts, exact, kl, moments))
        self._log(self.levels[-1], len(prompts))

    # What is held fixed.

    def _states(self, sampler: TransitionSampler, prompts: Prompts) -> list[_State]:
        """The chosen steps of one rollout, with the student's graph and the teachers' answers."""
        conditioning, states = self.conditioning(prompts), []
        policy = self.student.given(conditioning, sampler.guidance_scale)
        teacher = self.teacher.given(prompts, conditioning)
        start = self._fixed_noise("rollout/start", prompts)
        rollout = sampler.rollout(
            policy, start, lambda step: self._fixed_noise(f"rollout/step/{step}", prompts)
        )
        for step in range(self.steps[-1] + 1):
            with torch.set_grad_enabled(step in self.steps):
                transition = next(rollout)
            if step in self.steps:
                target = teacher(transition.latent, transition.sigma)
                states.append(_State(step, transition.latent, transition.velocity, target))
        return states

    def _fixed_noise(self, purpose: str, prompts: Prompts) -> Tensor:
        """The first round's noise, at every noise level."""
        return self.noise(purpose, prompts, 0)

    def _action_noise(self, prompts: Prompts, step: int, draw: int) -> Tensor:
        """Fresh noise of one draw."""
        return self.noise(f"gradient_variance/step/{step}/draw/{draw}", prompts)

    def _exact(
        self,
        sampler: TransitionSampler,
        states: Sequence[_State],
        weights: Tensor,
        noise: Mapping[int, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Gradient of the loss itself and its KL in nats, by step and for all of them."""
        gradients, kl = {}, {}
        for state in states:
            leaf = state.velocity.detach().requires_grad_()
            transition = sampler.transition(state.step, state.latent, leaf, noise=noise[state.step])
            term = self.loss(transition, state.target)
            gradients[str(state.step)] = self._through_network(state, (weights * term.value).sum(), leaf)
            kl[str(state.step)] = float((weights * term.metrics["kl_nats"]).sum() * len(self.steps))
        gradients[ALL_STEPS] = torch.stack(list(gradients.values())).sum(0)
        kl[ALL_STEPS] = sum(kl.values()) / len(self.steps)
        return gradients, kl

    def _moments(self, exact: Mapping[str, Tensor]) -> dict[str, dict[str, GradientMoments]]:
        """No draws yet: estimator -> step -> moments about what its mean should be."""
        size = math.prod(self.model.latent_shape)
        return {
            name: {
                step: GradientMoments(
                    gradient * estimator.expected_scale(size), gradient, group_sizes=self.group_sizes
                )
                for step, gradient in exact.items()
            }
            for name, estimator in self.estimators.items()
        }

    # One draw.

    def _gradient(
        self, estimator: Estimator, sampler: TransitionSampler, state: _State, weights: Tensor, noise: Tensor
    ) -> Tensor:
        """An estimator's gradient at one state for one action, with respect to the student's adapter."""
        leaf, old = state.velocity.detach().requires_grad_(), state.velocity.detach()
        transition = sampler.transition(state.step, state.latent, leaf, noise=noise)
        term = estimator(self.loss, transition, old, state.target)
        return self._through_network(state, (weights * term.value).sum(), leaf)

    def _through_network(self, state: _State, value: Tensor, leaf: Tensor) -> Tensor:
        """Gradient of a function of the velocity, carried on through the state's graph, which is kept."""
        (by_velocity,) = torch.autograd.grad(value, leaf)
        gradients = torch.autograd.grad(
            state.velocity,
            list(self.student.weights().values()),
            by_velocity,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([gradient.flatten() for gradient in gradients])

    @staticmethod
    def _add(moments: Mapping[str, GradientMoments], gradients: Mapping[int, Tensor]) -> None:
        for step, gradient in gradients.items():
            moments[str(step)].add(gradient)
        moments[ALL_STEPS].add(torch.stack(list(gradients.values())).sum(0))

    # Results.

    def _level(
        self,
        sampler: TransitionSampler,
        prompts: Prompts,
        exact: Mapping[str, Tensor],
        kl: Mapping[str, float],
        moments: Mapping[str, Mapping[str, GradientMoments]],
    ) -> dict[str, Any]:
        """One noise level's numbers."""
        size = math.prod(self.model.latent_shape)
        return {
            "noise_level": sampler.noise_level,
            "num_draws": self.num_draws,
            "num_rows": len(prompts),
            "latent_size": size,
            "num_parameters": len(exact[ALL_STEPS]),
            "kl_nats": dict(kl),
            "squared_gradient": {step: squared_norm(gradient) for step, gradient in exact.items()},
            "estimators": {
                name: {
                    step: variance_entry(self.estimators[name], size, squared_norm(exact[step]), found)
                    for step, found in by_step.items()
                }
                for name, by_step in moments.items()
            },
        }

    def _log(self, level: Mapping[str, Any], num_rows: int) -> None:
        """Log the numbers of all steps together."""
        logged = headline(level)
        known = {
            f"train/gradient_variance/{key}": value for key, value in logged.items() if value is not None
        }
        self.log_dict(known | {"train/cost/images": float(num_rows * num_processes())}, batch_size=num_rows)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was measured."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["gradient_variance"] = self.levels

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on after the noise levels that are done."""
        self.levels = list(checkpoint["gradient_variance"])


def _check_loss(loss: TransitionLoss) -> None:
    """The estimators' expected gradients are known in units of the KL's in nats."""
    if not isinstance(loss, ReverseKL) or loss.reduction != "sum" or loss.normalize:
        raise ValueError(
            "phase=gradient_variance compares with the gradient of the KL in nats; choose loss=reverse_kl, "
            "loss.reduction=sum and loss.normalize=false"
        )


def _check_draws(num_draws: int, group_sizes: Sequence[int]) -> None:
    if not group_sizes or min(group_sizes) < 1:
        raise ValueError(f"phase.group_sizes must be whole numbers of at least 1, got {list(group_sizes)}")
    for size in group_sizes:
        if num_draws % (2 * size) or num_draws < 2:
            raise ValueError(
                f"phase.num_draws={num_draws} must be a multiple of twice every one of phase.group_sizes, "
                f"which has {size}: a variance needs at least two averages, and draws are also paired"
            )


def _checked_sampler(sampler: TransitionSampler, level: float, steps: Sequence[int]) -> TransitionSampler:
    if not level > 0:
        raise ValueError(
            f"phase.noise_levels has {level}; at 0 no action is drawn, so only above 0 is allowed"
        )
    noisy = sampler.at_noise_level(level)
    allowed = [step for step in range(noisy.num_steps) if noisy.stochastic(step)]
    for step in steps:
        if step not in allowed:
            raise ValueError(
                f"phase.steps has {step}; steps with noise, counted from 0, are {allowed[0]} to {allowed[-1]}"
            )
    if not steps:
        raise ValueError(f"phase.steps is empty; name steps from {allowed[0]} to {allowed[-1]}")
    return noisy
