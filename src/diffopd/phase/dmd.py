"""DMD: the student's distribution matches its teachers', by the difference of two scores."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar, final

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.flow import interpolate, shift_sigma
from diffopd.loss import DMD
from diffopd.model import PipelineModel
from diffopd.phase.fake_score import FakeScorePhase, Noised, Predicted
from diffopd.phase.settings import StudentSettings
from diffopd.policy import OptimizerFactory
from diffopd.randomness import torch_generator
from diffopd.sampler import TransitionSampler
from diffopd.teacher import Target
from diffopd.types import Conditioning, Prompts, Reward


@final
class DMDPhase(FakeScorePhase):
    """DMD2 for a multi-step flow student, without discriminator and real images.

    A round: the student rolls out to an exit step, one for all rows and processes, and predicts clean data
    there; the prediction is noised to random levels; the difference of the scores of the task's teacher, at
    its own guidance, and of the policy ``fake`` is the student's gradient; ``fake`` learns the predictions.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape of the student and of ``fake``.
        teacher: The teachers, one per task.
        sampler: The student's sampler; its guidance scale is the student's.
        loss: The DMD loss.
        reward: Scores the student's samples for the log; None scores none.
        optimizer: Makes the student's optimizer.
        fake_optimizer: Makes that of the fake score.
        settings: Shared with other phases that have teachers.
        fake_updates_per_round: Updates of the fake score for one of the student.
        first_exit_step: First step of the rollout that may be the exit, 0 = pure noise.
        last_exit_step: Last one; null for the last but one of the grid.
        tau_min: Smallest noise level at which scores are compared, above 0.
        tau_max: Largest, below 1.
        tau_shift: Shift of the uniformly drawn level towards noise, also of the fake score's; 1 for none.
        fake_tau_min: Smallest noise level at which the fake score is trained, at least 0.
        fake_tau_max: Largest, at most 1.

    Attributes:
        supervision: What its loss learns from.
        method: Its name in what is logged.

    References:
        Yin et al., "Improved Distribution Matching Distillation for Fast Image Synthesis", 2024,
        arXiv:2405.14867; several teachers and the flow student are this project's.
    """

    supervision: ClassVar[str] = "distribution"
    method: ClassVar[str] = "dmd"

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        teacher: Target,
        sampler: TransitionSampler,
        loss: DMD,
        reward: Reward | None = None,
        optimizer: OptimizerFactory,
        fake_optimizer: OptimizerFactory,
        settings: StudentSettings,
        fake_updates_per_round: int,
        first_exit_step: int,
        last_exit_step: int | None,
        tau_min: int | float,
        tau_max: int | float,
        tau_shift: int | float,
        fake_tau_min: int | float,
        fake_tau_max: int | float,
    ) -> None:
        last = max(0, sampler.num_steps - 2) if last_exit_step is None else last_exit_step
        if not 0 <= first_exit_step <= last < sampler.num_steps:
            raise ValueError(
                f"phase.first_exit_step={first_exit_step} and phase.last_exit_step={last_exit_step} must be "
                f"steps of the rollout in this order, 0 to sampler.num_steps - 1 = {sampler.num_steps - 1}"
            )
        if not 0 < tau_min <= tau_max < 1 or not tau_shift > 0:
            raise ValueError(
                f"phase.tau_min={tau_min} and phase.tau_max={tau_max} must lie between 0 and 1 in this order "
                f"(both exclusive), and phase.tau_shift={tau_shift} above 0"
            )
        if not 0 <= fake_tau_min < fake_tau_max <= 1:
            raise ValueError(
                f"phase.fake_tau_min={fake_tau_min} and phase.fake_tau_max={fake_tau_max} must lie "
                "in [0, 1], the first below the second"
            )
        super().__init__(
            model=model,
            adapter=adapter,
            teacher=teacher,
            sampler=sampler,
            loss=loss,
            reward=reward,
            optimizer=optimizer,
            fake_optimizer=fake_optimizer,
            settings=settings,
            fake_updates_per_round=fake_updates_per_round,
        )
        self.exit_steps = range(first_exit_step, last + 1)
        self.tau_range, self.fake_tau_range = (tau_min, tau_max), (fake_tau_min, fake_tau_max)
        self.tau_shift = tau_shift

    def exit_step(self) -> int:
        """The step at which this round's rollout ends, the same in every process."""
        generator = torch_generator(self.seed, "dmd/exit", self.round)
        place = torch.randint(len(self.exit_steps), (), generator=generator)
        return self.exit_steps[int(place)]

    def denoising_steps(self, prompts: Prompts) -> list[int]:
        """The exit step, for every row."""
        return [self.exit_step()] * len(prompts)

    def state(self, prompts: Prompts, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """The student's state at the exit step."""
        step = self.exit_step()
        latent = next(islice(self.states(prompts, conditioning), step, None))
        return latent, self.sampler.sigma_at(step, latent)

    def noised(self, predicted: Predicted, purpose: str, *, for_fake: bool) -> Noised:
        """The clean predictions, noised to levels drawn again for each sample."""
        lowest, highest = self.fake_tau_range if for_fake else self.tau_range
        share = self.uniform(f"{purpose}/tau", predicted.prompts)
        tau = shift_sigma(lowest + (highest - lowest) * share, self.tau_shift)
        fresh = self.noise(f"{purpose}/noise", predicted.prompts)
        return Noised(interpolate(predicted.clean, fresh, tau), tau, fresh)
