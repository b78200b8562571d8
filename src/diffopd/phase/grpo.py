"""Policy gradient on an SDE's transitions: Flow-GRPO, and with its loss exchanged GRPO-Guard."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.loss import PolicyGradient
from diffopd.model import PipelineModel
from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.processes import largest, num_processes
from diffopd.phase.reward_learning import Judged, RewardPhase
from diffopd.phase.round_scoring import RoundScoring
from diffopd.phase.settings import RewardSettings
from diffopd.phase.stored import StoredTransition
from diffopd.phase.within_round import within_round
from diffopd.policy import OptimizerFactory
from diffopd.randomness import numpy_generator, torch_generator
from diffopd.sampler import NoiseWindow, TransitionSampler, transition_at
from diffopd.types import Conditioning, Prompts, Reward, Transition

RATIO_TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-3}
"""How far from 1 the ratio may be before the first update, by the backbone's precision: rounding alone, as
training may see other batch shapes than the rollout. With ``reduction=sum`` it grows with the latent."""


@final
class GRPOPhase(RewardPhase):
    """A teacher by policy gradient (Flow-GRPO, GRPO-Guard).

    A round: the policy samples several images of each prompt with a stochastic sampler and every visited
    transition is stored; rewards become advantages within each prompt's group; samples of advantage 0 are
    dropped; the rest is shared among a few updates, each on the transitions of its samples.

    Args:
        model: The frozen text-to-image model; it is the KL reference.
        adapter: Shape of the trained policy.
        sampler: A stochastic sampler; its guidance scale is that of samples.
        loss: Flow-GRPO's or GRPO-Guard's loss.
        reward: What to maximize.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases that learn from rewards.
        train_steps: ``all``, or ``all_but_last``.
        noise_window: ``size`` of a window of noisy steps, placed at random each round within the steps
            ``first`` to ``last``, the others being ODE steps; size null for noise in every step. Only noisy
            steps are trained.
        updates_per_round: Optimizer steps in a round; the samples are shared among them.
        loss_guidance_scale: Guidance of the networks in the loss; null = the sampler's. Another one asks the
            policy once more at every trained state of the rollout, as the ratio compares it at this one.

    Attributes:
        supervision: What its loss learns from.
        round_kind: What a round takes, for ``doctor``.
    """

    supervision: ClassVar[str] = "transition_advantage"
    round_kind: ClassVar[str] = "reward_learning"

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        sampler: TransitionSampler,
        loss: PolicyGradient,
        reward: Reward,
        optimizer: OptimizerFactory,
        settings: RewardSettings,
        train_steps: Literal["all", "all_but_last"],
        noise_window: Mapping[str, Any],
        updates_per_round: int,
        loss_guidance_scale: int | float | None = None,  # not in the configs that earlier runs saved
    ) -> None:
        super().__init__(
            model=model,
            adapter=adapter,
            sampler=sampler,
            reward=reward,
            optimizer=optimizer,
            settings=settings,
            advantage_clip=loss.advantage_clip,
            loss_guidance_scale=loss_guidance_scale,
        )
        self.loss = loss
        self.train_steps = range(sampler.num_steps - (train_steps == "all_but_last"))
        self.noise_window = noise_window
        self.updates_per_round = updates_per_round
        size, first, last = (noise_window[key] for key in ("size", "first", "last"))
        fits = size is None or (first >= 0 and 1 <= size <= last - first + 1 and last in self.train_steps)
        if not fits:
            raise ValueError(
                f"phase.noise_window: size={size}, first={first}, last={last} must be a window of at least "
                f"one step within the trained steps 0 to {self.train_steps[-1]}; null = noise in every step"
            )

    @property
    def updates_in_round(self) -> int:
        """As ``phase.updates_per_round`` says."""
        return self.updates_per_round

    @within_round
    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round of policy gradient."""
        conditioning, sampler = self.conditioning(prompts), self._round_sampler()
        with finite_rewards_everywhere(self.device), self.scoring(prompts) as scoring:
            visits, clean = self._rollout(sampler, prompts, conditioning, scoring)
            found = scoring.result()
        judged = self.judge(clean, prompts, found)
        self.round_log.add("train/advantage/dropped", (judged.advantages == 0).sum())
        advantage = judged.of(prompts).to(self.device)

        updates = list(self._updates(judged, prompts))
        if updates:
            self._name_metrics([visit.step for visit in visits])
        worst = torch.zeros((), device=self.device)
        for number, (kept, weights) in enumerate(updates):
            for rows in self.micro_batches(len(kept)):
                chosen, weight = [kept[row] for row in rows], weights[rows].to(self.device)
                given, part = conditioning.select(chosen), prompts.select(chosen)
                for visit in visits:
                    term = self._loss(sampler, visit, chosen, given, advantage[chosen])
                    loss = self.add_gradient(weight * term.value / len(visits), part, visit.step)
                    self.round_log.add("train/loss/policy", loss / len(updates))
                    self._add_metrics(visit.step, weight / len(updates), term.metrics, len(visits))
                    if number == 0:
                        worst = torch.maximum(worst, (term.metrics["ratio"] - 1).abs().max())
            self.round_log.put(self.gradient_conflict())
            self.round_log.add("train/gradient_norm", self.update() / len(updates))
        self._check_ratio(worst)
        self.log_round(prompts)

    def _name_metrics(self, steps: Sequence[int]) -> None:
        """Have all processes log the same names, one that has no samples to train on among them."""
        names = ["train/loss/policy", "train/gradient_norm"]
        names += [f"train/{what}/step_{step}" for what in ("ratio", "clip_fraction") for step in steps]
        names += ["train/loss/kl_reference"] if self.loss.needs_reference else []
        self.round_log.expect(names)

    def _add_metrics(self, step: int, weight: Tensor, metrics: Mapping[str, Tensor], num_visits: int) -> None:
        """Add some rows' share of the ratio and clip fraction of their step, and of the mean KL."""
        log = self.round_log
        log.add(f"train/ratio/step_{step}", (weight * metrics["ratio"]).sum())
        log.add(f"train/clip_fraction/step_{step}", (weight * metrics["clipped"]).sum())
        if "kl_reference" in metrics:
            log.add("train/loss/kl_reference", (weight * metrics["kl_reference"]).sum() / num_visits)

    def _round_sampler(self) -> TransitionSampler:
        """The sampler, its noise confined to this round's window if there is one."""
        size, first, last = (self.noise_window[key] for key in ("size", "first", "last"))
        if size is None:
            return self.sampler
        generator = numpy_generator(self.seed, "grpo/window", self.round)
        start = int(generator.integers(first, last - size + 2))
        return NoiseWindow(self.sampler, range(start, start + size))

    @torch.no_grad()
    def _rollout(
        self,
        sampler: TransitionSampler,
        prompts: Prompts,
        conditioning: Conditioning,
        scoring: RoundScoring,
    ) -> tuple[list[StoredTransition], Tensor]:
        """The trained transitions of all rows, and the clean latents; their images are given to be scored."""
        parts: list[list[StoredTransition]] = []
        clean = []
        for rows in self.micro_batches(len(prompts)):
            visited, latent = [], torch.empty(0)
            given = conditioning.select(rows)
            for transition in self.rollout(sampler, prompts.select(rows), given, self.student):
                latent = transition.next_latent
                if transition.step in self.train_steps and transition.stochastic:
                    velocity = self._compared_velocity(sampler, transition, given)
                    visited.append(
                        StoredTransition(transition.step, transition.latent, velocity, latent, None)
                    )
            parts.append(visited)
            clean.append(latent)
            scoring.add(self.images(latent))
        visits = [
            StoredTransition(
                same[0].step,
                torch.cat([visit.latent for visit in same]),
                torch.cat([visit.velocity for visit in same]),
                torch.cat([visit.next_latent for visit in same]),
                None,
            )
            for same in zip(*parts, strict=True)
        ]
        return visits, torch.cat(clean)

    def _compared_velocity(
        self, sampler: TransitionSampler, transition: Transition, conditioning: Conditioning
    ) -> Tensor:
        """The policy's velocity at a visited state, at the guidance at which the ratio compares it."""
        if self.loss_guidance == sampler.guidance_scale:
            return transition.velocity.float()
        sigma = sampler.sigma_at(transition.step, transition.latent)
        return self.student.velocity(transition.latent, sigma, conditioning, self.loss_guidance)

    def _updates(self, judged: Judged, prompts: Prompts) -> Iterator[tuple[list[int], Tensor]]:
        """For each update this process's rows and their weights.

        Every process shares the kept samples of all processes among the updates in one way, so updates do not
        depend on the number of processes. Within an update the weights average over the samples of a task,
        then over tasks.
        """
        mine = {index: row for row, index in enumerate(prompts.indices)}
        kept: dict[str, list[int]] = {}
        for task, index, advantage in zip(
            judged.tasks, judged.indices, judged.advantages.tolist(), strict=True
        ):
            if advantage != 0:
                kept.setdefault(task, []).append(index)
        orders = {task: self._shuffled(task, sorted(indices)) for task, indices in kept.items()}
        for update in range(self.updates_per_round):
            shares = {task: order[update :: self.updates_per_round] for task, order in orders.items()}
            shares = {task: share for task, share in shares.items() if share}
            rows, weights = [], []
            for share in shares.values():
                own = [mine[index] for index in sorted(share) if index in mine]
                rows += own
                weights += [num_processes() / (len(shares) * len(share))] * len(own)
            if shares:
                yield self._evened(rows, weights)

    def _evened(self, rows: list[int], weights: list[float]) -> tuple[list[int], Tensor]:
        """Rows and weights; with a sharded backbone as many as every process has, further ones weigh nothing.

        A shard's forwards need all processes, and one may have fewer samples left to train on than another.
        """
        missing = largest(len(rows)) - len(rows) if self.sharded else 0
        return rows + [0] * missing, torch.tensor([*weights, *[0.0] * missing])

    def _shuffled(self, task: str, indices: list[int]) -> list[int]:
        generator = torch_generator(self.seed, f"grpo/updates/{task}", self.round)
        return [indices[place] for place in torch.randperm(len(indices), generator=generator).tolist()]

    def _loss(
        self,
        sampler: TransitionSampler,
        visit: StoredTransition,
        rows: list[int],
        conditioning: Conditioning,
        advantage: Tensor,
    ) -> Any:
        """The policy loss of some rows at one stored transition."""
        latent, scale = visit.latent[rows], self.loss_guidance
        sigma = sampler.sigma_at(visit.step, latent)
        reference = None
        if self.loss.needs_reference:
            with torch.no_grad():
                reference = self.base.velocity(latent, sigma, conditioning, scale)
        velocity = self.student.velocity(latent, sigma, conditioning, scale)
        transition = transition_at(sampler, visit.step, latent, velocity, next_latent=visit.next_latent[rows])
        return self.loss(transition, visit.velocity[rows], reference, advantage)

    def _check_ratio(self, worst: Tensor) -> None:
        """Before the first update of a round old and new policy are one."""
        backbone = next(self.model.transformer.parameters()).dtype
        size = math.prod(self.model.latent_shape) if self.loss.reduction == "sum" else 1
        allowed = RATIO_TOLERANCE.get(backbone, 1e-3) * size
        if not worst <= allowed:
            raise RuntimeError(
                f"the ratio of new to old policy was {worst.item():.2e} away from 1 before the first update "
                f"of round {self.round + 1}, more than rounding in {backbone} explains ({allowed:.0e}): "
                "rollout and update do not use the same model (dropout, another guidance or precision?)"
            )
