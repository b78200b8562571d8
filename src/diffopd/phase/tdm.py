"""TDM: the student's distribution matches its teachers' on every segment of its trajectory."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.flow import interpolate
from diffopd.loss import TDM, renoise
from diffopd.model import PipelineModel
from diffopd.phase.fake_score import FakeScorePhase, Noised, Predicted
from diffopd.phase.settings import StudentSettings
from diffopd.policy import OptimizerFactory
from diffopd.randomness import torch_generator
from diffopd.sampler import TransitionSampler
from diffopd.teacher import Target
from diffopd.types import Conditioning, Prompts, Reward


@final
class TDMPhase(FakeScorePhase):
    """Trajectory distribution matching for a multi-step flow student.

    The grid is cut into ``num_segments`` of equally many steps. A round: the student rolls out; each row
    draws a segment, and at its start the student predicts clean data and noise; the prediction jumps to the
    segment's end in one step and is carried on by the forward process to a random level, where the clean
    predictions of the teacher and of ``fake`` are compared; ``fake`` learns the student's clean predictions.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape of the student and of ``fake``.
        teacher: The teachers, one per task, each at its own guidance.
        sampler: The student's sampler; its guidance scale is the student's.
        loss: The TDM losses.
        reward: Scores the student's samples for the log; None scores none.
        optimizer: Makes the student's optimizer.
        fake_optimizer: Makes that of the fake score.
        settings: Shared with other phases that have teachers.
        fake_updates_per_round: Updates of the fake score for one of the student.
        num_segments: Segments of the grid; ``sampler.num_steps`` must be a multiple.
        midpoint: Where the jump ends: ``end`` of the segment, or ``random`` within it.
        tau_window: Levels at which scores are compared, from where the jump ended: ``segment`` = up to the
            segment's start (``use_separate`` in the released code), ``to_noise`` = up to pure noise.
        tau_min: Smallest such level, above 0.
        tau_margin: Distance of the largest from the segment's start, or from pure noise.

    Attributes:
        supervision: What its loss learns from.
        method: Its name in what is logged.

    References:
        Luo et al., "Learning Few-Step Diffusion Models by Trajectory Distribution Matching", 2025,
        arXiv:2503.06674; several teachers and the flow student are this project's.
    """

    supervision: ClassVar[str] = "trajectory_distribution"
    method: ClassVar[str] = "tdm"

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        teacher: Target,
        sampler: TransitionSampler,
        loss: TDM,
        reward: Reward | None = None,
        optimizer: OptimizerFactory,
        fake_optimizer: OptimizerFactory,
        settings: StudentSettings,
        fake_updates_per_round: int,
        num_segments: int,
        midpoint: Literal["end", "random"],
        tau_window: Literal["segment", "to_noise"],
        tau_min: int | float,
        tau_margin: int | float,
    ) -> None:
        for setting, value, allowed in (
            ("midpoint", midpoint, ("end", "random")),
            ("tau_window", tau_window, ("segment", "to_noise")),
        ):
            if value not in allowed:
                raise ValueError(f"phase.{setting}={value} is not known; choose one of {', '.join(allowed)}")
        if num_segments < 1 or sampler.num_steps % num_segments:
            raise ValueError(
                f"phase.num_segments={num_segments} must divide sampler.num_steps={sampler.num_steps}: "
                "segments have equally many steps"
            )
        if not (tau_min > 0 and tau_margin > 0):
            raise ValueError(
                f"phase.tau_min={tau_min} and phase.tau_margin={tau_margin} must be above 0, as noise levels "
                "0 and 1 have no score to compare"
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
        self.steps_per_segment = sampler.num_steps // num_segments
        self.bounds = sampler.sigmas()[:: self.steps_per_segment]
        self.midpoint, self.tau_window = midpoint, tau_window
        self.tau_min, self.tau_margin = tau_min, tau_margin
        self._check_windows()

    def _check_windows(self) -> None:
        """Every segment has levels to compare at."""
        start, end = self.bounds[:-1], self.bounds[1:]
        lowest, highest = self._window(start, end, end)
        for segment in (highest <= lowest).nonzero().flatten().tolist():
            raise ValueError(
                f"segment {segment} of phase.num_segments={len(start)} runs from sigma "
                f"{float(start[segment]):.4f} to {float(end[segment]):.4f}, which leaves no noise level "
                f"above phase.tau_min={self.tau_min} and phase.tau_margin={self.tau_margin} below its "
                "start; choose fewer segments, phase.tau_window=to_noise, or smaller margins"
            )

    def _window(self, start: Tensor, end: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest level for jumps from ``start`` to ``middle``."""
        highest = (start if self.tau_window == "segment" else torch.ones_like(start)) - self.tau_margin
        return middle.clamp_min(self.tau_min), highest

    def segments(self, prompts: Prompts) -> Tensor:
        """The segment each row draws in this round, 0 = from pure noise; on the CPU."""
        generators = [
            torch_generator(self.seed, "tdm/segment", self.round, index) for index in prompts.indices
        ]
        draws = [torch.randint(len(self.bounds) - 1, (), generator=generator) for generator in generators]
        return torch.stack(draws)

    def denoising_steps(self, prompts: Prompts) -> list[int]:
        """The first step of each row's segment."""
        return (self.segments(prompts) * self.steps_per_segment).tolist()

    def state(self, prompts: Prompts, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """The student's states at the starts of the rows' segments."""
        segments = self.segments(prompts)
        steps = segments * self.steps_per_segment
        rollout = self.states(prompts, conditioning)
        latent = next(rollout).clone()
        for step in range(1, int(steps.max()) + 1):
            reached, rows = next(rollout), steps == step
            latent[rows] = reached[rows]
        return latent, self.bounds[segments].to(self.device)

    def noised(self, predicted: Predicted, purpose: str, *, for_fake: bool) -> Noised:
        """Jump along the segment, then forward to a level drawn again for each sample, for either network."""
        segments, prompts = self.segments(predicted.prompts), predicted.prompts
        start, end = self.bounds[segments].to(self.device), self.bounds[segments + 1].to(self.device)
        middle = end
        if self.midpoint == "random":
            # Not so far up that no level is left above it.
            room = (self._window(start, end, end)[1].minimum(start) - end).clamp_min(0)
            middle = end + self.uniform(f"{purpose}/middle", prompts) * room
        lowest, highest = self._window(start, end, middle)
        tau = lowest + self.uniform(f"{purpose}/tau", prompts) * (highest - lowest)
        reached = interpolate(predicted.clean, predicted.noise, middle)
        fresh = self.noise(f"{purpose}/noise", prompts)
        return Noised(renoise(reached, fresh, middle, tau), tau, fresh)
