"""Self-OPD: a model teaches itself, by branches of its own states that end in better samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.loss import SelfOPD
from diffopd.model import PipelineModel
from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.round_scoring import RoundScoring, Scored
from diffopd.phase.scored_phase import REWARD, ScoredPhase
from diffopd.phase.settings import ScoredSettings
from diffopd.phase.within_round import within_round
from diffopd.policy import OptimizerFactory
from diffopd.randomness import numpy_generator
from diffopd.sampler import TransitionSampler, transition_at
from diffopd.types import Conditioning, LossTerm, Prompts, Reward, Transition


@dataclass(frozen=True)
class Branched:
    """Some rows at one state of their rollout, and where its branches went.

    Attributes:
        step: Position of the state in the grid.
        latent: The states.
        mean: Mean of the transition that the branches were drawn from.
        branches: Next states, ``(rows, branches, *latent)``.
        clean: Finished samples of the branches and, last, of the ODE, ``(rows, branches + 1, *latent)``.
    """

    step: int
    latent: Tensor
    mean: Tensor
    branches: Tensor
    clean: Tensor


@final
class SelfOPDPhase(ScoredPhase):
    """On-policy distillation without a teacher.

    A round: the student rolls out by its SDE as far as the last of a few drawn states; from each it draws
    several next states and finishes all of them, and the ODE's next state, by the ODE; rewards of the
    finished samples say which branches the student's step should have taken. All branches of a state share
    the rollout up to it and the forward there. Then one update with the gradients of all states.

    Rewards that are logged are those of the ODE's samples from the earliest state of the round.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape of the student.
        sampler: A stochastic sampler; its guidance scale is that of rollouts and branches.
        loss: The Self-OPD loss.
        reward: What decides between branches.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases whose samples are scored.
        num_branches: Branches of a state, at least 2.
        num_states: States of a rollout that are trained, drawn again each round, the same for all samples.
        state_weights: How likely each step is to be drawn, in the order of the grid; null = all but the last
            alike.
        loss_guidance_scale: Guidance of the student's velocity in the loss; null = the sampler's.

    Attributes:
        supervision: What its loss learns from.
        round_kind: What a round takes, for ``doctor``.

    References:
        Zhang et al., "Self-OPD: On-Policy Distillation for Flow Matching Models without Teacher", 2026,
        arXiv:2608.26872, and its released code. That code also finishes and scores every SDE rollout, to
        leave out samples whose group scored alike, and takes two updates a round.
    """

    supervision: ClassVar[str] = "branches"
    round_kind: ClassVar[str] = "branching"

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        sampler: TransitionSampler,
        loss: SelfOPD,
        reward: Reward,
        optimizer: OptimizerFactory,
        settings: ScoredSettings,
        num_branches: int,
        num_states: int,
        state_weights: Sequence[int | float] | None,
        loss_guidance_scale: int | float | None = None,
    ) -> None:
        if num_branches < 2:
            raise ValueError(
                f"phase.num_branches={num_branches} must be at least 2: a branch is compared with others"
            )
        weights = list(state_weights or [1.0] * max(1, sampler.num_steps - 1))
        if len(weights) > sampler.num_steps or any(weight < 0 for weight in weights):
            raise ValueError(
                f"phase.state_weights={weights} must be at most sampler.num_steps={sampler.num_steps} "
                "numbers of at least 0; null = all but the last step alike"
            )
        possible = [step for step, weight in enumerate(weights) if weight > 0]
        if not 1 <= num_states <= len(possible):
            raise ValueError(
                f"phase.num_states={num_states} must be from 1 to {len(possible)}, the number of "
                "phase.state_weights above 0"
            )
        silent = [step for step in possible if not sampler.stochastic(step)]
        if silent:
            raise ValueError(
                f"phase.state_weights may draw step {silent[0]} (counted from 0), which has no noise to "
                f"branch by with sampler.noise_level={sampler.noise_level:g}; set its weight to 0, or "
                "sampler.noise_level=0.7"
            )
        super().__init__(
            model=model,
            adapter=adapter,
            sampler=sampler,
            reward=reward,
            optimizer=optimizer,
            settings=settings,
            loss_guidance_scale=loss_guidance_scale,
        )
        self.loss = loss
        self.num_branches, self.num_states = num_branches, num_states
        self.state_weights = torch.tensor(weights, dtype=torch.float64)
        self.ode = sampler.at_noise_level(0)

    @within_round
    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round: states, their branches, rewards of the finished samples, one update."""
        conditioning, steps = self.conditioning(prompts), self.steps()
        samples = len(steps) * (self.num_branches + 1)
        judged = prompts.select([row for row in range(len(prompts)) for _ in range(samples)])
        with finite_rewards_everywhere(self.device), self.scoring(judged) as scoring:
            states = self._branch(prompts, conditioning, steps, scoring)
            found = scoring.result()
        rewards = found.scores[REWARD].value.float().view(len(prompts), len(steps), self.num_branches + 1)
        own = [row * samples + self.num_branches for row in range(len(prompts))]  # by the ODE, earliest state
        scores = {name: every.select(own) for name, every in found.scores.items()}
        self.watch(states[0].clean[:, -1], prompts, Scored(found.images[own], scores), len(judged))

        weights = self.round_log.shares(prompts.tasks) / len(steps)
        for number, state in enumerate(states):
            ends = rewards[:, number].to(self.device)
            for rows in self.micro_batches(len(prompts)):
                part, chosen = prompts.select(rows), weights[rows]
                term = self._loss(state, rows, conditioning.select(rows), ends[rows])
                loss = self.add_gradient(chosen * term.value, part, state.step)
                self.round_log.add("train/loss/self_opd", loss)
                for name, values in term.metrics.items():
                    self.round_log.add(f"train/branch/{name}", (chosen * values).sum())
        self.round_log.put(self.gradient_conflict())
        self.round_log.add("train/gradient_norm", self.update())
        self.log_round(prompts)

    def steps(self) -> list[int]:
        """The steps whose states are trained in this round, the same in every process."""
        generator = numpy_generator(self.seed, "self_opd/states", self.round)
        share = (self.state_weights / self.state_weights.sum()).numpy()
        return sorted(generator.choice(len(share), size=self.num_states, replace=False, p=share).tolist())

    @torch.no_grad()
    def _branch(
        self, prompts: Prompts, conditioning: Conditioning, steps: Sequence[int], scoring: RoundScoring
    ) -> list[Branched]:
        """The states of all rows, branched and finished; their images are given to be scored, row by row."""
        parts: list[list[Branched]] = []
        for rows in self.micro_batches(len(prompts)):
            part, given = prompts.select(rows), conditioning.select(rows)
            found, rollout = [], self.rollout(self.sampler, part, given, self.student)
            for _ in range(steps[-1] + 1):  # no further than the last state
                transition = next(rollout)
                if transition.step in steps:
                    found.append(self._branched(transition, part, given))
            parts.append(found)
            clean = torch.stack([state.clean for state in found], dim=1).flatten(0, 2)
            for some in self.micro_batches(len(clean)):
                scoring.add(self.images(clean[some]))
        return [
            Branched(
                same[0].step,
                *(
                    torch.cat([getattr(state, name) for state in same])
                    for name in ("latent", "mean", "branches", "clean")
                ),
            )
            for same in zip(*parts, strict=True)
        ]

    def _branched(self, transition: Transition, prompts: Prompts, conditioning: Conditioning) -> Branched:
        """Branches of one state, by the velocity that the rollout had there, and the ODE's own next state."""
        step, latent, velocity = transition.step, transition.latent, transition.velocity
        drawn = [
            self.sampler.transition(
                step, latent, velocity, noise=self.noise(f"self_opd/branch/{step}/{number}", prompts)
            ).next_latent
            for number in range(self.num_branches)
        ]
        straight = self.ode.transition(step, latent, velocity).next_latent
        every = torch.stack([*drawn, straight], dim=1)
        rows = [row for row in range(len(prompts)) for _ in range(self.num_branches + 1)]
        clean = every.flatten(0, 1)
        finished = [
            self._finished(clean[some], step + 1, conditioning.select([rows[place] for place in some]))
            for some in self.micro_batches(len(rows))
        ]
        return Branched(step, latent, transition.mean, every[:, :-1], torch.cat(finished).view(every.shape))

    def _finished(self, latent: Tensor, step: int, conditioning: Conditioning) -> Tensor:
        """Samples that the ODE makes from these states of a step."""
        velocity = self.student.given(conditioning, self.sampler.guidance_scale)
        for transition in self.ode.rollout(velocity, latent, self._no_noise, first_step=step):
            latent = transition.next_latent
        return latent

    @staticmethod
    def _no_noise(step: int) -> Tensor:
        raise AssertionError(f"the ODE asked for noise at step {step}")

    def _loss(
        self, state: Branched, rows: Sequence[int], conditioning: Conditioning, rewards: Tensor
    ) -> LossTerm:
        """The loss of some rows at one state."""
        latent = state.latent[rows]
        sigma = self.sampler.sigma_at(state.step, latent)
        velocity = self.student.velocity(latent, sigma, conditioning, self.loss_guidance)
        student = transition_at(self.sampler, state.step, latent, velocity)
        return self.loss(student, state.mean[rows], state.branches[rows], rewards[:, :-1], rewards[:, -1])
