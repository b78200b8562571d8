"""A phase's part in regularization towards a distribution: draws, memory of a round, updates of the score."""

from __future__ import annotations

from torch import Tensor

from diffopd.flow import velocity_to_clean
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.randomness import uniform_rows
from diffopd.teacher import Distribution
from diffopd.types import Conditioning, Prompts


class DistributionTerm:
    """Adds the term where the student is trained, and lets the fake score learn what was seen there.

    Args:
        phase: The phase; the fake score is trained beside its student.
        regulariser: What it adds.
        updates_per_round: Of the student, over which what is logged is a mean.
    """

    def __init__(self, phase: PolicyPhase, regulariser: Distribution, updates_per_round: int) -> None:
        self._phase, self._regulariser, self._per_round = phase, regulariser, updates_per_round
        self._seen: list[tuple[str, Prompts, Conditioning, Tensor, Tensor]] = []
        phase.train_beside(regulariser.fake, regulariser.fake_optimizer)

    @property
    def updates(self) -> int:
        """Updates of the fake score for one of the student."""
        return self._regulariser.fake_updates_per_round

    def at(
        self,
        place: str,
        prompts: Prompts,
        conditioning: Conditioning,
        state: tuple[Tensor, Tensor, Tensor],
        weights: Tensor,
    ) -> Tensor:
        """The weighted term of some rows, to be added to their losses.

        Args:
            place: Names the draws within a round: a step, or a column of noise levels.
            prompts: The rows.
            conditioning: What they are told.
            state: Their latents, noise levels, and the student's velocities with gradient.
            weights: What their losses are multiplied by in this update.
        """
        latent, sigma, velocity = state
        clean = velocity_to_clean(latent.detach(), velocity, sigma)
        purpose = f"distribution/{self._phase.global_step}/{place}"
        term = self._regulariser.term(clean, conditioning, *self._draws(f"{purpose}/student", prompts))
        share = (weights * term.detach()).sum()
        self._phase.round_log.add("train/loss/distribution", share / self._per_round)
        self._seen.append((purpose, prompts, conditioning, clean.detach(), weights))
        return self._regulariser.weight * term

    def learn(self) -> None:
        """Update the fake score on all that was seen since the last time."""
        phase = self._phase
        for number in range(self.updates):
            for purpose, prompts, conditioning, clean, weights in self._seen:
                draws = self._draws(f"{purpose}/fake/{number}", prompts)
                losses = weights * self._regulariser.fake_loss(clean, conditioning, *draws)
                loss = losses.sum()
                phase.manual_backward(loss)
                phase.record.add(losses, prompts, None, self._regulariser.fake.weights().values())
                phase.round_log.add("train/loss/fake", loss.detach() / (self.updates * self._per_round))
            norm = phase.update_beside(self._regulariser.fake)
            phase.round_log.add("train/fake_gradient_norm", norm / (self.updates * self._per_round))
        self._seen.clear()

    def _draws(self, purpose: str, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Uniform numbers for the noise levels, and fresh noise."""
        phase = self._phase
        share = uniform_rows(phase.seed, f"{purpose}/tau", phase.round, prompts.indices, (1,))[:, 0]
        return share.to(phase.device), phase.noise(f"{purpose}/noise", prompts)
