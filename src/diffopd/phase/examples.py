"""Where the clean latents come from that fine-tuning learns: samples of a model, or pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, final

import torch
from torch import Tensor

from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.phase.processes import num_processes
from diffopd.phase.scoring import scored
from diffopd.phase.taught import TaughtPhase
from diffopd.types import Conditioning, Picture, Prompts, VelocityFunction


class Examples(Protocol):
    """Clean latents for the rows of a micro-batch."""

    def __call__(self, prompts: Prompts, conditioning: Conditioning) -> Tensor:
        """One latent per row, in fp32 on the phase's device, without gradient."""
        ...


@final
class DrawnSamples:
    """What a model makes of each row's prompt: of several samples, the one the reward likes best.

    Args:
        phase: Has the sampler and the reward; its log is told what is made.
        drawer: The velocity of whoever draws: each row's teacher, or the base model.
        best_of_n: Samples per prompt; 1 asks for no reward.
    """

    def __init__(
        self,
        phase: TaughtPhase,
        drawer: Callable[[Prompts, Conditioning], VelocityFunction],
        best_of_n: int,
    ) -> None:
        self.phase, self.drawer, self.best_of_n = phase, drawer, best_of_n

    @torch.no_grad()
    def __call__(self, prompts: Prompts, conditioning: Conditioning) -> Tensor:
        """Roll it out."""
        phase, log = self.phase, self.phase.round_log
        made = self.best_of_n * len(prompts) * num_processes()
        candidates = torch.stack(
            [self._candidate(number, prompts, conditioning) for number in range(self.best_of_n)]
        )
        log.add("train/cost/images", made)
        if self.best_of_n == 1:
            return candidates[0]
        assert phase.reward is not None
        with finite_rewards_everywhere(phase.device):
            rewards = [
                scored(phase, phase.reward, phase.images(clean), prompts, "reward").value
                for clean in candidates
            ]
        log.add("train/cost/reward_calls", made)
        return candidates[torch.stack(rewards).argmax(0).cpu(), torch.arange(len(prompts))]

    def _candidate(self, number: int, prompts: Prompts, conditioning: Conditioning) -> Tensor:
        """One sample per prompt, from noise of its own."""
        phase = self.phase

        def fresh_noise(step: int) -> Tensor:
            return phase.noise(f"sft/candidate/{number}/step/{step}", prompts)

        start = phase.noise(f"sft/candidate/{number}/start", prompts)
        *_, last = phase.sampler.rollout(self.drawer(prompts, conditioning), start, fresh_noise)
        return last.next_latent


@final
class TargetPictures:
    """The pictures that the rows are to learn, encoded.

    Args:
        phase: Has the model.
    """

    def __init__(self, phase: TaughtPhase) -> None:
        self.phase = phase

    def __call__(self, prompts: Prompts, conditioning: Conditioning) -> Tensor:
        """Encode them, or take what is kept of an earlier round."""
        return encoded_pictures(self.phase, prompts.targets)


def encoded_pictures(phase: PolicyPhase, pictures: Sequence[Picture | None]) -> Tensor:
    """The latents of picture files of one size, in fp32 on the phase's device.

    Args:
        phase: Has the model, which keeps the latest.
        pictures: Each is one: the data was checked.
    """
    there = [picture for picture in pictures if picture is not None]
    assert len(there) == len(pictures)
    return torch.stack([phase.model.encode_picture(picture) for picture in there]).to(phase.device)
