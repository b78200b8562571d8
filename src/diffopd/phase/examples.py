"""Where the clean latents come from that fine-tuning learns: samples of teachers, or pictures."""

from __future__ import annotations

from typing import Protocol, final

import torch
from torch import Tensor

from diffopd.phase.agreement import finite_rewards_everywhere
from diffopd.phase.processes import num_processes
from diffopd.phase.scoring import scored
from diffopd.phase.taught import TaughtPhase
from diffopd.types import Conditioning, Prompts


class Examples(Protocol):
    """Clean latents for the rows of a micro-batch."""

    def __call__(self, prompts: Prompts, conditioning: Conditioning) -> Tensor:
        """One latent per row, in fp32 on the phase's device, without gradient."""
        ...


@final
class TeacherSamples:
    """What each row's teacher makes of its prompt: of several samples, the one the reward likes best.

    Args:
        phase: Has the teachers, the sampler and the reward; its log is told what is made.
        best_of_n: Samples per prompt; 1 asks for no reward.
    """

    def __init__(self, phase: TaughtPhase, best_of_n: int) -> None:
        self.phase, self.best_of_n = phase, best_of_n

    @torch.no_grad()
    def __call__(self, prompts: Prompts, conditioning: Conditioning) -> Tensor:
        """Roll the teachers out."""
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
        assert phase.teacher is not None

        def fresh_noise(step: int) -> Tensor:
            return phase.noise(f"sft/candidate/{number}/step/{step}", prompts)

        start = phase.noise(f"sft/candidate/{number}/start", prompts)
        *_, last = phase.sampler.rollout(phase.teacher.given(prompts, conditioning), start, fresh_noise)
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
        phase = self.phase
        pictures = [picture for picture in prompts.targets if picture is not None]
        assert len(pictures) == len(prompts)
        return torch.stack([phase.model.encode_picture(picture) for picture in pictures]).to(phase.device)
