"""What DMD and TDM share: a second trained policy that models the student's own distribution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.flow import velocity_to_clean, velocity_to_noise
from diffopd.loss import velocity_gap
from diffopd.model import PipelineModel
from diffopd.phase.guidance import loss_guidance
from diffopd.phase.processes import num_processes
from diffopd.phase.settings import StudentSettings
from diffopd.phase.taught import TaughtPhase
from diffopd.phase.within_round import within_round
from diffopd.policy import OptimizerFactory
from diffopd.randomness import uniform_rows
from diffopd.sampler import TransitionSampler
from diffopd.teacher import Target
from diffopd.types import Conditioning, LossTerm, Prompts, Reward


@runtime_checkable
class DistributionLoss(Protocol):
    """A loss between the student's distribution and its teachers'."""

    def __call__(self, clean: Tensor, clean_real: Tensor, clean_fake: Tensor) -> LossTerm:
        """Loss of the student per sample; gradients reach ``clean`` alone."""
        ...

    def fake(self, velocity: Tensor, latent: Tensor, sigma: Tensor, clean: Tensor, fresh: Tensor) -> LossTerm:
        """Loss of the model of the student's distribution per sample; gradients reach ``velocity`` alone."""
        ...


@dataclass(frozen=True)
class Predicted:
    """A state of the student's rollout and what the student predicts there.

    Attributes:
        prompts: One row per state.
        conditioning: Their encodings.
        latent: The states, constants.
        sigma: Their noise.
        velocity: The student's velocity; carries the gradient until :meth:`detached`.
    """

    prompts: Prompts
    conditioning: Conditioning
    latent: Tensor
    sigma: Tensor
    velocity: Tensor

    @property
    def clean(self) -> Tensor:
        """The student's clean prediction."""
        return velocity_to_clean(self.latent, self.velocity, self.sigma)

    @property
    def noise(self) -> Tensor:
        """The student's noise prediction."""
        return velocity_to_noise(self.latent, self.velocity, self.sigma)

    def detached(self) -> Predicted:
        """The same without gradient."""
        return replace(self, velocity=self.velocity.detach())


@dataclass(frozen=True)
class Noised:
    """The student's predictions at random noise levels, where the two scores are compared.

    Attributes:
        latent: Noised states, constants.
        sigma: Their noise.
        fresh: The noise that was added.
    """

    latent: Tensor
    sigma: Tensor
    fresh: Tensor


class FakeScorePhase(TaughtPhase, ABC):
    """Base of the phases that match distributions.

    A round: roll the student out to some state; predict clean data there, with gradient; noise it again;
    compare the teacher's clean prediction with that of the policy ``fake``, and update the student; then
    train ``fake`` a few times on the same predictions with fresh noise.

    ``global_step`` counts the student's updates alone, as in every other phase: the fake score's optimizer
    steps without Lightning's counter.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape of the student, and of ``fake``, which starts as the student does.
        teacher: The teachers, one per task.
        sampler: The student's sampler; its guidance scale is the student's.
        loss: Losses of the student and of the fake score.
        reward: Scores the student's samples for the log; None scores none.
        optimizer: Makes the student's optimizer.
        fake_optimizer: Makes that of the fake score.
        settings: Shared with other phases that have teachers; the average counts student updates.
        fake_updates_per_round: Updates of the fake score for one of the student, at least 1.
        loss_guidance_scale: Guidance of the student where it is trained; null = the sampler's.

    Attributes:
        method: Its name in what is logged.
        round_kind: What a round takes, for ``doctor``.
        fake: The policy that models the student's distribution, of all tasks; its score is the fake score.
    """

    method: ClassVar[str]
    round_kind: ClassVar[str] = "distribution_matching"
    takes_buckets: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        teacher: Target,
        sampler: TransitionSampler,
        loss: DistributionLoss,
        reward: Reward | None,
        optimizer: OptimizerFactory,
        fake_optimizer: OptimizerFactory,
        settings: StudentSettings,
        fake_updates_per_round: int,
        loss_guidance_scale: int | float | None,
    ) -> None:
        if fake_updates_per_round < 1:
            raise ValueError(
                f"phase.fake_updates_per_round={fake_updates_per_round} must be at least 1: without "
                "a score of the student's distribution there is nothing to compare the teacher's with"
            )
        super().__init__(
            model=model,
            adapter=adapter,
            teacher=teacher,
            sampler=sampler,
            reward=reward,
            optimizer=optimizer,
            settings=settings,
        )
        self.loss, self.loss_guidance = loss, loss_guidance(loss_guidance_scale, sampler)
        self.fake_updates_per_round = fake_updates_per_round
        self.fake = self.add_policy("fake")
        self.train_beside(self.fake, fake_optimizer)

    @property
    def updates_in_round(self) -> int:
        """One of the student, then those of the fake score."""
        return 1 + self.fake_updates_per_round

    # What differs between the methods.

    @abstractmethod
    def denoising_steps(self, prompts: Prompts) -> list[int]:
        """The step of the rollout at which each row is trained."""

    @abstractmethod
    def state(self, prompts: Prompts, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """A state of the student's rollout for each row, and its noise; without gradient."""

    @abstractmethod
    def noised(self, predicted: Predicted, purpose: str, *, for_fake: bool) -> Noised:
        """Noise the student's predictions; ``purpose`` names the draws.

        Args:
            predicted: The predictions.
            purpose: Name of the draws.
            for_fake: Whether the fake score is trained there, rather than compared with the teacher's.
        """

    # What does not.

    @within_round
    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round: one update of the student, then ``fake_updates_per_round`` of the fake score."""
        self.score_student(prompts)
        weights = self.round_log.shares(prompts.tasks)
        visited: list[tuple[Predicted, Tensor]] = []
        for rows in self.micro_batches(prompts):
            predicted = self._predicted(prompts.select(rows))  # where the student is, and predicts
            losses = weights[rows] * self._compared(predicted)  # real against fake score, at a fresh level
            steps = self.denoising_steps(predicted.prompts)
            loss = self.add_gradient(losses, predicted.prompts, steps)
            self.round_log.add(f"train/loss/{self.method}", loss)
            visited.append((predicted.detached(), weights[rows]))
            del predicted, losses
        self.round_log.put(self.gradient_conflict())
        self.round_log.add("train/gradient_norm", self.update())
        for number in range(self.fake_updates_per_round):
            for predicted, share in visited:  # the fake score learns what the student predicted
                self._add_fake_gradient(predicted, share, f"{self.method}/fake/{number}")
            norm = self.update_beside(self.fake)
            self.round_log.add("train/fake_gradient_norm", norm / self.fake_updates_per_round)
        self.round_log.add("train/cost/images", len(prompts) * num_processes())
        self.log_round(prompts)

    def _predicted(self, prompts: Prompts) -> Predicted:
        """The student's velocity at a state of its rollout, with gradient."""
        conditioning = self.conditioning(prompts)
        latent, sigma = self.state(prompts, conditioning)
        velocity = self.student.velocity(latent, sigma, conditioning, self.loss_guidance)
        return Predicted(prompts, conditioning, latent, sigma, velocity)

    def _compared(self, predicted: Predicted) -> Tensor:
        """The student's loss per row: its clean prediction against the teacher's and the fake score's."""
        prompts, conditioning = predicted.prompts, predicted.conditioning
        assert self.teacher is not None
        with torch.no_grad():
            at = self.noised(predicted.detached(), f"{self.method}/student", for_fake=False)
            real = self.teacher.given(prompts, conditioning)(at.latent, at.sigma)
            fake = self.fake.velocity(at.latent, at.sigma, conditioning, 1.0)
            gap = velocity_gap(fake, real, reduction="mean")
        self.round_log.add_by_task("train/score_gap", gap, prompts.tasks)
        exact = (at.latent.double(), at.sigma.double())
        clean_real, clean_fake = (
            velocity_to_clean(exact[0], velocity.double(), exact[1]) for velocity in (real, fake)
        )
        return self.loss(predicted.clean, clean_real, clean_fake).value

    def _add_fake_gradient(self, predicted: Predicted, weights: Tensor, purpose: str) -> None:
        """Add the gradient of the fake score's loss, on this process only."""
        at = self.noised(predicted, purpose, for_fake=True)
        velocity = self.fake.velocity(at.latent, at.sigma, predicted.conditioning, 1.0)
        term = self.loss.fake(velocity, at.latent, at.sigma, predicted.clean, at.fresh)
        losses = weights * term.value
        loss = losses.sum()
        self.manual_backward(loss)
        steps = self.denoising_steps(predicted.prompts)
        self.record.add(losses, predicted.prompts, steps, self.fake.weights().values())
        self.round_log.add("train/loss/fake", loss.detach() / self.fake_updates_per_round)
        for name, value in term.metrics.items():
            self.round_log.add(f"train/{name}", (weights * value).sum() / self.fake_updates_per_round)

    @torch.no_grad()
    def states(self, prompts: Prompts, conditioning: Conditioning) -> Iterator[Tensor]:
        """The states of the student's rollout one by one, pure noise first."""
        yield self.noise("rollout/start", prompts)
        for transition in self.rollout(self.sampler, prompts, conditioning, self.student):
            yield transition.next_latent

    def uniform(self, purpose: str, prompts: Prompts) -> Tensor:
        """Uniform numbers in [0, 1), each row from its own generator."""
        return uniform_rows(self.seed, purpose, self.round, prompts.indices, (1,))[:, 0].to(self.device)
