"""Supervised fine-tuning on examples: what teachers or the base model generate, or your own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from diffopd.adapter import Shape
from diffopd.flow import interpolate
from diffopd.loss import FlowMatching, velocity_gap
from diffopd.model import PipelineModel
from diffopd.phase.assisted import Assisted
from diffopd.phase.class_pictures import ClassPictures
from diffopd.phase.examples import DrawnSamples, Examples, TargetPictures
from diffopd.phase.noise_levels import logit_normal_levels
from diffopd.phase.settings import StudentSettings
from diffopd.phase.taught import TaughtPhase
from diffopd.phase.within_round import within_round
from diffopd.policy import OptimizerFactory
from diffopd.randomness import uniform_rows
from diffopd.sampler import TransitionSampler
from diffopd.teacher import Target
from diffopd.types import Conditioning, Prompts, Reward, VelocityFunction


@final
class SFTPhase(TaughtPhase):
    """Flow matching on samples that a teacher or the base model makes during training, or on pictures.

    A round: each prompt's example is made or read; the student learns its velocity at random noise levels and
    is updated once. Of teachers each rolls out at its own guidance, the tasks mixed in one batch, and the
    best of several samples is kept. Pictures are the targets of the data's rows, encoded.

    The student's velocity is conditional, without guidance. Of teachers it learns the guided samples
    themselves, and guidance in evaluation then guides twice.

    With a class prompt each row has a second example: what the base model drew of the class before the first
    round (DreamBooth's prior preservation). With an assistant the student is trained on top of a frozen
    adapter, which nothing else sees: neither its samples nor what is saved of it.

    Args:
        model: The frozen text-to-image model; without adapter it is the KL reference.
        adapter: Shape of the student.
        teacher: The teachers, one per task; None if the examples are others.
        sampler: Sampler of the teachers' rollouts, and whose grid the noise levels follow. Its guidance scale
            is that of the scored student.
        loss: Flow matching.
        reward: Chooses the best samples, and scores the student's for the log; None for neither.
        optimizer: Makes the optimizer from parameters.
        settings: Shared with other phases that have teachers.
        num_timesteps: Noise levels each sample is trained at in a round, at least 1.
        sigma_location: Mean of the normal whose logistic is the noise level before the grid's shift.
        sigma_scale: Its standard deviation, above 0.
        caption_dropout: Share of prompts replaced by the empty one, in [0, 1].
        best_of_n: Samples per prompt, of which the one with the highest reward is kept; 1 asks for no reward.
        kl_weight: Weight of the squared distance to the base model's velocity; 0 saves its forward.
        examples: ``teacher``: what the teachers generate; ``base``: what the base model does; ``pictures``:
            the targets of the data's rows.
        assistant: A saved LoRA that is active while the student is trained; None for none.
        class_prompt: Prompt of the class pictures; None for none.
        num_class_pictures: How many the base model draws, at least 1.
        prior_weight: Weight of the loss on them, at least 0.

    Attributes:
        supervision: What its loss learns from.
        takes_examples: That ``phase.examples`` says where they come from.
        round_kind: What a round takes, for ``doctor``.

    References:
        The fine-tuning of Flow-GRPO's code (logit-normal levels, best of n) and Flow-OPD's (the KL term);
        Esser et al., 2024, arXiv:2403.03206, for the noise levels; Ruiz et al., 2022, arXiv:2208.12242, for
        class pictures.
    """

    supervision: ClassVar[str] = "data"
    takes_buckets: ClassVar[bool] = True
    round_kind: ClassVar[str] = "fine_tuning"
    takes_examples: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: Shape,
        teacher: Target | None = None,
        sampler: TransitionSampler,
        loss: FlowMatching,
        reward: Reward | None = None,
        optimizer: OptimizerFactory,
        settings: StudentSettings,
        num_timesteps: int,
        sigma_location: int | float,
        sigma_scale: int | float,
        caption_dropout: int | float,
        best_of_n: int,
        kl_weight: int | float,
        examples: Literal["teacher", "base", "pictures"] = "teacher",  # earlier runs' configs lack these
        assistant: str | None = None,
        class_prompt: str | None = None,
        num_class_pictures: int = 100,
        prior_weight: int | float = 1.0,
    ) -> None:
        counts = {
            "num_timesteps": num_timesteps,
            "best_of_n": best_of_n,
            "num_class_pictures": num_class_pictures,
        }
        for setting, value in counts.items():
            if value < 1:
                raise ValueError(f"phase.{setting}={value} must be at least 1")
        if not sigma_scale > 0:
            raise ValueError(f"phase.sigma_scale={sigma_scale} must be above 0")
        if prior_weight < 0:
            raise ValueError(f"phase.prior_weight={prior_weight} must be at least 0")
        super().__init__(
            model=model,
            adapter=adapter,
            teacher=teacher,
            sampler=sampler,
            reward=reward,
            optimizer=optimizer,
            settings=settings,
        )
        self.loss = loss
        self.num_timesteps = num_timesteps
        self.sigma_location, self.sigma_scale = sigma_location, sigma_scale
        self.caption_dropout = caption_dropout
        self.kl_weight = kl_weight
        self.examples = self._source(examples, best_of_n)
        self.class_pictures = (
            None if class_prompt is None else ClassPictures(self, class_prompt, num_class_pictures)
        )
        self.prior_weight = prior_weight
        self.assisted = Assisted.by(self.student, assistant)

    def _source(self, examples: str, best_of_n: int) -> Examples:
        if examples == "pictures":
            return TargetPictures(self)
        if examples == "base":

            def base(prompts: Prompts, conditioning: Conditioning) -> VelocityFunction:
                return self.base.given(conditioning, self.sampler.guidance_scale)

            return DrawnSamples(self, base, best_of_n)
        assert self.teacher is not None
        return DrawnSamples(self, self.teacher.given, best_of_n)

    def on_train_start(self) -> None:
        """Have the class pictures drawn, or read."""
        if self.class_pictures is not None:
            self.class_pictures.prepare(Path(self.trainer.default_root_dir))

    @within_round
    def training_step(self, prompts: Prompts, batch_index: int) -> None:
        """One round: the examples, then one update on them."""
        self.score_student(prompts)
        weights = self.round_log.shares(prompts.tasks)
        for rows in self.micro_batches(prompts):
            part = prompts.select(rows)
            conditioning = self.conditioning(part)
            clean = self.examples(part, conditioning)
            for number in range(self.num_timesteps):
                losses = self._losses(part, conditioning, clean, weights[rows], number)
                self.add_gradient(losses, part, None)
        self._remember_the_class(prompts, weights)
        self.round_log.put(self.gradient_conflict())
        self.round_log.add("train/gradient_norm", self.update())
        self.log_round(prompts)

    def _losses(
        self, prompts: Prompts, conditioning: Conditioning, clean: Tensor, weights: Tensor, number: int
    ) -> Tensor:
        """Weighted losses of some rows, each at a noise level of its own with fresh noise."""
        share = weights / self.num_timesteps
        sigma, noise = self.sigmas(number, prompts), self.noise(f"sft/noise/{number}", prompts)
        latent = interpolate(clean, noise, sigma)
        given = self._with_empty(prompts, conditioning, number)
        velocity = self.assisted.student.velocity(latent, sigma, given, 1.0)
        losses = share * self.loss(velocity, clean, noise).value
        self.round_log.add("train/loss/sft", losses.detach().sum())
        if self.kl_weight > 0:
            with torch.no_grad():
                reference = self.assisted.base.velocity(latent, sigma, given, 1.0)
            kl = share * velocity_gap(velocity, reference, reduction="mean")
            self.round_log.add("train/loss/kl_reference", kl.detach().sum())
            losses = losses + self.kl_weight * kl
        gap = velocity_gap(velocity.detach(), noise - clean, reduction="mean")
        self.round_log.add_by_task("train/sample_gap", gap / self.num_timesteps, prompts.tasks)
        return losses

    def _remember_the_class(self, prompts: Prompts, weights: Tensor) -> None:
        """Add the gradient on class pictures, one for each row."""
        if self.class_pictures is None:
            return
        for rows in self.micro_batches(len(prompts)):
            part, clean = self.class_pictures.beside(prompts.select(rows), len(prompts))
            conditioning, share = self.conditioning(part), weights[rows] / self.num_timesteps
            for number in range(self.num_timesteps):
                sigma, noise = self.sigmas(number, part, "prior"), self.noise(f"prior/noise/{number}", part)
                latent = interpolate(clean, noise, sigma)
                velocity = self.assisted.student.velocity(latent, sigma, conditioning, 1.0)
                losses = share * self.loss(velocity, clean, noise).value
                self.round_log.add("train/loss/prior", losses.detach().sum())
                self.add_gradient(self.prior_weight * losses, part, None)

    def sigmas(self, number: int, prompts: Prompts, of: str = "sft") -> Tensor:
        """Logit-normal noise levels, moved by the grid's shift."""
        levels = logit_normal_levels(
            self.seed,
            f"{of}/sigma/{number}",
            self.round,
            prompts.indices,
            location=self.sigma_location,
            scale=self.sigma_scale,
            shift=self.sampler.shift,
        )
        return levels.to(self.device)

    def _with_empty(self, prompts: Prompts, conditioning: Conditioning, number: int) -> Conditioning:
        """The conditioning with the dropped rows' prompts replaced by the empty one."""
        if self.caption_dropout == 0:
            return conditioning
        draws = uniform_rows(self.seed, f"sft/dropout/{number}", self.round, prompts.indices, (1,))[:, 0]
        # The empty prompt comes last.
        rows = torch.where(draws < self.caption_dropout, len(prompts), torch.arange(len(prompts)))
        return Conditioning.concat([conditioning, self.model.unconditional()]).select(rows)
