"""What phases share that train an adapter on a frozen model: prompts in, rollouts, updates, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from diffopd.adapter import (
    EMA,
    LoRA,
    adapter_names,
    adapter_parameters,
    add_adapter,
    add_merged_adapter,
    add_started_adapter,
    copy_adapter,
    set_trainable,
)
from diffopd.data.prompts import PromptData
from diffopd.model import PipelineModel, guided_velocity
from diffopd.non_finite import RoundRecord
from diffopd.phase.task_gradients import TaskGradients
from diffopd.randomness import normal_rows, torch_generator
from diffopd.sampler import TransitionSampler
from diffopd.strategy.gradients import average_gradients
from diffopd.strategy.sharded import shard, without_shards
from diffopd.types import Conditioning, Prompts, Transition, VelocityFunction

log = logging.getLogger(__name__)

OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]

STUDENT = "student"
"""The adapter that is trained."""
MAX_ENCODED = 4096
"""Encoded prompts kept at most; one takes about 2 MB for Stable Diffusion 3.5."""
AVERAGE = "average"
"""Its exponential moving average, which is evaluated and exported."""


class AdaptedPhase(lightning.LightningModule):
    """Base of the phases that train one adapter; one round is one batch of prompts and one epoch.

    Optimisation is manual. Gradients never cross the network inside :meth:`add_gradient`: :meth:`update`
    averages the adapter's gradients over processes in one transfer. With ``trainer=sharded`` the backbone's
    weights are divided among processes; every process then takes as many forwards as the others.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape of the trained adapter.
        optimizer: Makes the optimiser from parameters.
        seed: Seed of the adapter's start and of every draw in training.
        ema: ``decay`` and ``update_interval`` of the average.
        gradient_clip: Largest gradient norm.
        conflict_every_n_rounds: Rounds from one measurement of the tasks' gradient conflict to the next,
            each of which costs a backward per task; 0 for never.

    Attributes:
        record: The losses since the last update, to trace a gradient that is not finite.
        round_start: Trained weights as the round began, once it applied an update and more are to come.
        encoded_rounds: Rounds whose prompts are encoded before the first; None for all that are planned.
        shards_backbone: That ``trainer=sharded`` is possible.
        sharded: Whether the backbone is in shards.
    """

    shards_backbone: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: PipelineModel,
        adapter: LoRA,
        optimizer: OptimizerFactory,
        seed: int,
        ema: Mapping[str, Any],
        gradient_clip: float,
        conflict_every_n_rounds: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold adapters, not the frozen model
        self.model = model
        self.adapter = adapter
        self.make_optimizer = optimizer
        self.seed = seed
        self.ema = EMA(**ema)
        self.gradient_clip = gradient_clip
        self.conflict_every_n_rounds = conflict_every_n_rounds
        self._task_gradients: TaskGradients | None = None
        self.record = RoundRecord()
        self.round_start: dict[str, Tensor] = {}
        self._encoded: dict[str, Conditioning] = {}
        self.sharded = False
        self.encoded_rounds: int | None = None
        self.add_trained_adapter(STUDENT)
        self.add_trained_adapter(AVERAGE)
        copy_adapter(model.transformer, STUDENT, AVERAGE)
        set_trainable(model.transformer, [STUDENT])

    @property
    def saved_adapters(self) -> tuple[str, ...]:
        """Adapters that training changes, and checkpoints hold."""
        return (STUDENT, AVERAGE)

    def trained_adapter(self, wanted: str) -> str:
        """The adapter to hand on for ``wanted``: the student in place of an average that never moved."""
        return STUDENT if wanted == AVERAGE and not self.ema.moves(self.global_step) else wanted

    @property
    def round(self) -> int:
        """The round in progress, 0 at first."""
        return self.current_epoch

    def due(self, every_n_rounds: int) -> bool:
        """Whether something that is done every so many rounds is done in this one; 0 for never."""
        return every_n_rounds > 0 and self.round % every_n_rounds == 0

    def add_trained_adapter(self, name: str) -> None:
        """Add an adapter that starts as ``adapter.start`` or ``adapter.merge`` says, or as the base model."""
        if self.adapter.merge is not None:
            error = add_merged_adapter(self.model.transformer, name, self.adapter)
            if name == STUDENT:
                log.info("adapter.merge: relative error of the mean update %s", error)
                log.debug("adapter.merge: relative error by layer %s", dict(error.layers))
            return
        if self.adapter.start is not None:
            add_started_adapter(self.model.transformer, name, self.adapter)
            return
        add_adapter(self.model.transformer, name, self.adapter, torch_generator(self.seed, "adapter/start"))

    def parameters_of(self, name: str) -> dict[str, torch.nn.Parameter]:
        """Parameters of one adapter."""
        return adapter_parameters(self.model.transformer, name)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of the trained adapter, chosen by name."""
        return self.make_optimizer(self.parameters_of(STUDENT).values())

    def on_fit_start(self) -> None:
        """Have the prompts of the planned rounds encoded before the first, if there is a cache for them."""
        data = getattr(self.trainer, "datamodule", None)
        if self.model.prompt_cache is None or not isinstance(data, PromptData):
            return
        rounds = self.encoded_rounds or self.trainer.max_epochs or 0
        self.model.encode_ahead(data.texts_of(rounds), self.trainer.global_rank, self.trainer.world_size)
        self.trainer.strategy.barrier("prompt cache")
        self.model.prompt_cache.refresh()

    def configure_model(self) -> None:
        """With ``trainer=sharded``, divide the backbones among the processes; adapters stay whole."""
        if self.device_mesh is None or self.sharded:
            return
        self.sharded = True
        mesh = self.device_mesh["data_parallel"]
        for backbone in (self.model.transformer, *self.model.backbones.transformers):
            whole = [p for n in adapter_names(backbone) for p in adapter_parameters(backbone, n).values()]
            shard(backbone, whole, mesh)
        without_shards(self)

    # What a round is made of.

    def conditioning(self, prompts: Prompts) -> Conditioning:
        """Encode prompts, each distinct text once as long as it stays among the latest ``MAX_ENCODED``.

        With a prompt cache on disk, none are kept in memory.
        """
        if self.model.prompt_cache is not None:
            return self.model.encode(prompts.texts)
        new = [text for text in dict.fromkeys(prompts.texts) if text not in self._encoded]
        if new:
            encoded = self.model.encode(new)
            for row, text in enumerate(new):
                self._encoded[text] = encoded.select([row])
        result = Conditioning.concat([self._encoded[text] for text in prompts.texts])
        while len(self._encoded) > MAX_ENCODED:
            del self._encoded[next(iter(self._encoded))]
        return result

    def noise(self, purpose: str, prompts: Prompts, round_index: int | None = None) -> Tensor:
        """Standard normal latents, each row from its own generator; of this round unless one is named."""
        number = self.round if round_index is None else round_index
        rows = normal_rows(self.seed, purpose, number, prompts.indices, self.model.latent_shape)
        return rows.to(self.device)

    def velocity(
        self,
        latent: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
        adapter: str | None,
        guidance_scale: float,
    ) -> Tensor:
        """Guided velocity under one adapter, or under the base model if ``adapter`` is None."""
        empty = self.model.unconditional()
        return guided_velocity(self.model, latent, sigma, conditioning, empty, guidance_scale, adapter)

    def policy(
        self, conditioning: Conditioning, adapter: str | None, guidance_scale: float
    ) -> VelocityFunction:
        """Guided velocity as a function of latent and sigma."""

        def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
            return self.velocity(latent, sigma, conditioning, adapter, guidance_scale)

        return velocity

    def rollout(
        self, sampler: TransitionSampler, prompts: Prompts, conditioning: Conditioning, adapter: str
    ) -> Iterator[Transition]:
        """The transitions of an adapter's rollout at the sampler's guidance, from this round's noise."""

        def fresh_noise(step: int) -> Tensor:
            return self.noise(f"rollout/step/{step}", prompts)

        policy = self.policy(conditioning, adapter, sampler.guidance_scale)
        return sampler.rollout(policy, self.noise("rollout/start", prompts), fresh_noise)

    @torch.no_grad()
    def images(self, clean: Tensor, micro_batch_size: int | None = None) -> Tensor:
        """Decode latents, at most so many at once; images in [0, 1] on the CPU."""
        parts = micro_batches(len(clean), micro_batch_size)
        return torch.cat([self.model.decode(clean[rows]).float().cpu() for rows in parts])

    # Updates.

    def add_gradient(self, losses: Tensor, prompts: Prompts, steps: int | Sequence[int] | None) -> Tensor:
        """Add the gradient of a sum of losses to the round's, on this process only.

        Args:
            losses: One per row, weighted so that their sum is the loss.
            prompts: The rows.
            steps: Their denoising steps, or the one of all; None if the loss has none.

        Returns:
            The loss, detached.
        """
        if self._task_gradients is not None:
            self._task_gradients.backward(losses, prompts.tasks, self.manual_backward)
        else:
            self.manual_backward(losses.sum())
        self.record.add(losses, prompts, steps, self.parameters_of(STUDENT).values())
        return losses.detach().sum()

    def on_train_batch_start(self, batch: Prompts, batch_index: int) -> None:
        """Begin the round's record; decide whether it measures the conflict of its tasks' gradients."""
        self.record, self.round_start = RoundRecord(), {}
        tasks, measured = list(dict.fromkeys(batch.tasks)), self.due(self.conflict_every_n_rounds)
        parameters = self.parameters_of(STUDENT).values()
        self._task_gradients = TaskGradients(tasks, parameters) if measured and len(tasks) > 1 else None

    def gradient_conflict(self) -> dict[str, Tensor]:
        """What :meth:`TaskGradients.compare` says of this update, in rounds that measure it."""
        return {} if self._task_gradients is None else self._task_gradients.compare()

    def update(self) -> Tensor:
        """One optimiser step with the gradients added so far; then move the average.

        Returns:
            Gradient norm before clipping.
        """
        norm = self.clip_adapter_gradient(STUDENT)
        optimizers = self.optimizers()
        optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers  # the student's is first
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.step()
        optimizer.zero_grad()
        # After the step, which global_step now counts: the released loops move the average so, too.
        self.ema.update(self.parameters_of(AVERAGE), self.parameters_of(STUDENT), self.global_step)
        return norm

    def clip_adapter_gradient(self, name: str) -> Tensor:
        """Average an adapter's gradient over processes and clip it.

        Returns:
            Its norm before clipping.

        Raises:
            NonFiniteError: If that is not finite, the same in all processes.
        """
        parameters = list(self.parameters_of(name).values())
        average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.gradient_clip)
        self.record.check(norm)
        if self.updates_in_round > 1 and not self.round_start:
            state = self.state_dict()
            self.round_start = {key: state[key].clone() for key in self._trained_keys(state)}
        return norm

    @property
    def updates_in_round(self) -> int:
        """Optimiser steps in a round, of all adapters."""
        return 1

    # Checkpoints and timing.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the adapters that training changes."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in self._trained_keys(state)}

    def _trained_keys(self, state: Mapping[str, Any]) -> list[str]:
        names = tuple(f".{name}." for name in self.saved_adapters)
        return [key for key in state if ".lora_" in key and any(name in key for name in names)]

    def trial_step(self, batch_size: int = 16) -> None:
        """A forward and backward of the usual shape without lasting effects, to time."""
        latent = torch.zeros(batch_size, *self.model.latent_shape, device=self.device)
        conditioning = self.model.encode([""] * batch_size)
        sigma = torch.ones(batch_size, device=self.device)
        self.model.velocity(latent, sigma, conditioning, STUDENT).square().mean().backward()
        for parameter in self.parameters_of(STUDENT).values():
            parameter.grad = None


def micro_batches(num_rows: int, size: int | None) -> list[list[int]]:
    """Row numbers in runs of at most ``size``, or in one run if it is None."""
    step = size or max(1, num_rows)
    return [list(range(start, min(start + step, num_rows))) for start in range(0, num_rows, step)]
