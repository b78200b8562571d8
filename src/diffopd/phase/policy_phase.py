"""What phases share that train a policy on a model: prompts in, rollouts, updates, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from diffopd.adapter import EMA, Shape, adapter_names, adapter_parameters
from diffopd.data.rounds import RoundData
from diffopd.model import PipelineModel
from diffopd.non_finite import RoundRecord
from diffopd.phase.micro_batch import micro_batches, micro_batches_by_size
from diffopd.phase.processes import num_processes
from diffopd.phase.round_log import RoundLog
from diffopd.phase.schedule import CONSTANT, learning_rate_factor
from diffopd.phase.settings import TrainSettings
from diffopd.phase.task_gradients import TaskGradients
from diffopd.policy import Fixed, OptimizerFactory, Policy, new_policy
from diffopd.randomness import normal_rows
from diffopd.sampler import TransitionSampler
from diffopd.strategy.divided import leave_out_parts, load_into_parts, whole_value
from diffopd.strategy.gradients import average_gradients
from diffopd.strategy.sharded import shard
from diffopd.types import Conditioning, Prompts, Transition
from diffopd.types.size import Size

MAX_ENCODED = 4096
"""Encoded prompts kept at most; one takes about 2 MB for Stable Diffusion 3.5."""


class PolicyPhase(lightning.LightningModule):
    """Base of the phases that train one policy; one round is one batch of prompts and one epoch.

    Optimization is manual. Gradients never cross the network inside :meth:`add_gradient`: :meth:`update`
    averages the policy's gradients over processes in one transfer. With ``trainer=sharded`` the backbone's
    weights are divided among processes; every process then takes as many forwards as the others.

    Args:
        model: The frozen text-to-image model.
        adapter: Shape of the trained policy: low-rank, or whole weights.
        optimizer: Makes the optimizer from parameters.
        settings: What all such phases are told alike.

    Attributes:
        settings_type: Type of ``settings``; a config has its fields among its phase's own.
        student: The policy that is trained.
        average: Its exponential moving average, which is evaluated and exported.
        base: The model as it was loaded.
        policies: All that training changes and checkpoints hold, by name.
        round_log: What the round in progress logs.
        record: The losses since the last update, to trace a gradient that is not finite.
        round_start: Trained weights as the round began, once it applied an update and more are to come.
        encoded_rounds: Rounds whose prompts are encoded before the first; None for all that are planned.
        shards_backbone: That ``trainer=sharded`` is possible.
        takes_buckets: That a round may have pictures of several sizes.
        sharded: Whether the backbone is in shards.
    """

    settings_type: ClassVar[type[TrainSettings]] = TrainSettings
    shards_backbone: ClassVar[bool] = True
    takes_buckets: ClassVar[bool] = False
    device: torch.device

    def __init__(
        self, *, model: PipelineModel, adapter: Shape, optimizer: OptimizerFactory, settings: TrainSettings
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold what is trained, not the frozen model
        self.model, self.adapter = model, adapter
        self.make_optimizer = optimizer
        self.settings, self.seed = settings, settings.seed
        self.ema = EMA(**settings.ema)
        self.policies: dict[str, Policy] = {}
        self.base = Fixed(model, None)
        self.student = self.add_policy("student")
        self.average = self.add_policy("average")
        self.average.copy_from(self.student)
        self.student.set_trained(True)
        self.round_log = RoundLog((), torch.device("cpu"))
        self.record = RoundRecord()
        self.round_start: dict[str, Tensor] = {}
        self._task_gradients: TaskGradients | None = None
        self._encoded: dict[Any, Conditioning] = {}
        self._forwards_before = 0
        self._followers: list[Callable[[], None]] = []
        self._beside: list[tuple[Policy, OptimizerFactory]] = []
        self.sharded = False
        self.encoded_rounds: int | None = None
        self._learning_rates: list[float] = []

    def add_policy(self, name: str) -> Policy:
        """Add a policy of the trained shape, frozen as yet; training changes it and checkpoints hold it."""
        first = not self.policies
        self.policies[name] = new_policy(self.model, name, self.adapter, self.seed, tell=first)
        return self.policies[name]

    def after_update(self, move: Callable[[], None]) -> None:
        """Have ``move`` called after every update of the student."""
        self._followers.append(move)

    def handed_on(self, wanted: str) -> Policy:
        """The policy to hand on for ``wanted``: the student in place of an average that never moved."""
        policy = self.policies[wanted]
        moved = policy is not self.average or self.ema.moves(self.global_step)
        return policy if moved else self.student

    @property
    def round(self) -> int:
        """The round in progress, 0 at first."""
        return self.current_epoch

    def due(self, every_n_rounds: int) -> bool:
        """Whether something that is done every so many rounds is done in this one; 0 for never."""
        return every_n_rounds > 0 and self.round % every_n_rounds == 0

    def train_beside(self, policy: Policy, optimizer: OptimizerFactory) -> None:
        """Have a policy trained beside the student, by an optimizer of its own: :meth:`update_beside`."""
        policy.set_trained(True)
        self._beside.append((policy, optimizer))

    def configure_optimizers(self) -> Any:
        """The optimizer of the trained policy's weights, then those of policies trained beside it."""
        first = self.make_optimizer(self.student.weights().values())
        self._learning_rates = [group["lr"] for group in first.param_groups]
        others = [make(policy.weights().values()) for policy, make in self._beside]
        return [first, *others] if others else first

    def on_fit_start(self) -> None:
        """Have the prompts of the planned rounds encoded before the first, if there is a cache for them.

        Raises:
            ValueError: If a picture's size does not fit the model.
        """
        data = getattr(self.trainer, "datamodule", None)
        for size in getattr(data, "sizes", ()):
            self.model.check_size(size, "data.image_size, data.bucket_step: a picture's size")
        if self.model.prompt_cache is None or not isinstance(data, RoundData):
            return
        rounds = self.encoded_rounds or self.trainer.max_epochs or 0
        self.model.encode_ahead(data.texts_of(rounds), self.trainer.global_rank, self.trainer.world_size)
        self.trainer.strategy.barrier("prompt cache")
        self.model.prompt_cache.refresh()

    def configure_model(self) -> None:
        """With ``trainer=sharded``, divide the backbones among the processes, also those that are trained.

        Adapters stay whole.
        """
        if self.device_mesh is None or self.sharded:
            return
        self.sharded = True
        mesh = self.device_mesh["data_parallel"]
        for backbone in (self.model.transformer, *self.model.backbones.transformers):
            whole = [p for n in adapter_names(backbone) for p in adapter_parameters(backbone, n).values()]
            shard(backbone, whole, mesh)
        leave_out_parts(self, but=self._is_trained)
        load_into_parts(self)

    # What a round is made of.

    def conditioning(self, prompts: Prompts) -> Conditioning:
        """Encode prompts, each distinct one once as long as it stays among the latest ``MAX_ENCODED``.

        With a prompt cache on disk, none are kept in memory.
        """
        if self.model.prompt_cache is not None:
            return self.model.condition(prompts)
        keys = [prompts.key(row) for row in range(len(prompts))]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        new = sorted(row for key, row in first.items() if key not in self._encoded)
        # Captions of pictures come again in every pass. Encoded alone they do not depend on what else was new
        # then, which differs in a resumed run.
        alone = any(target is not None for target in prompts.targets)
        for rows in [[row] for row in new] if alone else [new] * bool(new):
            encoded = self.model.condition(prompts.select(rows))
            for place, row in enumerate(rows):
                self._encoded[keys[row]] = encoded.select([place])
        result = Conditioning.concat([self._encoded[key] for key in keys])
        while len(self._encoded) > MAX_ENCODED:
            del self._encoded[next(iter(self._encoded))]
        return result

    def noise(self, purpose: str, prompts: Prompts, round_index: int | None = None) -> Tensor:
        """Standard normal latents, each row from its own generator; of this round unless one is named."""
        number = self.round if round_index is None else round_index
        rows = normal_rows(self.seed, purpose, number, prompts.indices, self.latent_shape(prompts))
        return rows.to(self.device)

    def latent_shape(self, prompts: Prompts) -> tuple[int, ...]:
        """Shape of the rows' latents: as of the pictures that they are to learn, or as the model draws."""
        sizes = set(self._sizes(prompts))
        assert len(sizes) == 1, f"rows of several sizes in one micro-batch: {sorted(sizes)}"
        return self.model.latent_shape_at(*sizes)

    def _sizes(self, prompts: Prompts) -> list[Size]:
        """Height and width in pixels of each row."""
        return [self.model.size if target is None else target.size for target in prompts.targets]

    def micro_batches(self, rows: int | Prompts) -> list[list[int]]:
        """Row numbers, at most ``phase.micro_batch_size`` together; of prompts, those of one picture size."""
        size = self.settings.micro_batch_size
        return (
            micro_batches(rows, size)
            if isinstance(rows, int)
            else micro_batches_by_size(self._sizes(rows), size, in_step=self.sharded)
        )

    def rollout(
        self, sampler: TransitionSampler, prompts: Prompts, conditioning: Conditioning, policy: Policy
    ) -> Iterator[Transition]:
        """The transitions of a policy's rollout at the sampler's guidance, from this round's noise."""

        def fresh_noise(step: int) -> Tensor:
            return self.noise(f"rollout/step/{step}", prompts)

        velocity = policy.given(conditioning, sampler.guidance_scale)
        return sampler.rollout(velocity, self.noise("rollout/start", prompts), fresh_noise)

    @torch.no_grad()
    def images(self, clean: Tensor) -> Tensor:
        """Decode latents; images in [0, 1] on the CPU."""
        return self.model.decode(clean).float().cpu()

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
        self.record.add(losses, prompts, steps, self.student.weights().values())
        return losses.detach().sum()

    def on_train_batch_start(self, batch: Prompts, batch_index: int) -> None:
        """Begin the round's log and record; decide whether it compares its tasks' gradients."""
        self.round_log = RoundLog(batch.tasks, self.device)
        self.record, self.round_start = RoundRecord(), {}
        self._forwards_before = self.model.num_forwards
        tasks = list(dict.fromkeys(batch.tasks))
        measured = self.due(self.settings.conflict_every_n_rounds)
        parameters = self.student.weights().values()
        self._task_gradients = TaskGradients(tasks, parameters) if measured and len(tasks) > 1 else None

    def gradient_conflict(self) -> dict[str, Tensor]:
        """What :meth:`TaskGradients.compare` says of this update, in rounds that measure it."""
        return {} if self._task_gradients is None else self._task_gradients.compare()

    def update(self) -> Tensor:
        """One optimizer step with the gradients added so far; then move the average.

        Returns:
            Gradient norm before clipping.
        """
        norm = self.clip_gradient(self.student)
        optimizers = self.optimizers()
        optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers  # the student's is first
        assert isinstance(optimizer, LightningOptimizer)
        self._follow_schedule(optimizer.optimizer)
        optimizer.step()
        optimizer.zero_grad()
        # After the step, which global_step now counts: the released loops move the average so, too.
        self.ema.update(self.average.weights(), self.student.weights(), self.global_step)
        for move in self._followers:
            move()
        return norm

    def _follow_schedule(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the round's learning rate, which follows from its number alone: a resumed run has it, too."""
        schedule, warmup = self.settings.lr_schedule, self.settings.warmup_rounds
        if schedule == CONSTANT and warmup == 0:
            return
        rounds = self.trainer.max_epochs or 0
        factor = learning_rate_factor(schedule, self.round, total=rounds, warmup=warmup)
        for group, peak in zip(optimizer.param_groups, self._learning_rates, strict=True):
            group["lr"] = peak * factor
        self.round_log.put(
            {"train/learning_rate": torch.tensor(factor * self._learning_rates[0], device=self.device)}
        )

    def update_beside(self, policy: Policy) -> Tensor:
        """One step of the optimizer of a policy beside the student, which ``global_step`` does not count.

        Returns:
            Gradient norm before clipping.
        """
        norm = self.clip_gradient(policy)
        optimizers = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizers, list)
        place = 1 + next(number for number, (beside, _) in enumerate(self._beside) if beside is policy)
        optimizers[place].step()
        optimizers[place].zero_grad()
        return norm

    def clip_gradient(self, policy: Policy) -> Tensor:
        """Average a policy's gradient over processes and clip it.

        Returns:
            Its norm before clipping.

        Raises:
            NonFiniteError: If that is not finite, the same in all processes.
        """
        parameters = list(policy.weights().values())
        average_gradients(parameters)
        norm = whole_value(nn.utils.clip_grad_norm_(parameters, self.settings.gradient_clip))
        self.record.check(norm)
        if self.updates_in_round > 1 and not self.round_start:
            state = self.state_dict()
            self.round_start = {key: state[key].clone() for key in self._trained_keys(state)}
        return norm

    @property
    def updates_in_round(self) -> int:
        """Optimizer steps in a round, of all policies."""
        return 1

    def log_round(self, prompts: Prompts) -> None:
        """Log what the round added up, as means over processes, and the forwards of all of them."""
        forwards = (self.model.num_forwards - self._forwards_before) * num_processes()
        self.round_log.put({"train/cost/forwards": torch.tensor(float(forwards), device=self.device)})
        self.log_dict(self.round_log.values(), sync_dist=True, batch_size=len(prompts))

    # Checkpoints and timing.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the policies that training changes."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in self._trained_keys(state)}

    def _trained_keys(self, state: Mapping[str, Any]) -> list[str]:
        return [key for key in state if self._is_trained(key)]

    def _is_trained(self, key: str) -> bool:
        return any(policy.owns(key) for policy in self.policies.values())

    def trial_step(self, batch_size: int = 16) -> None:
        """A forward and backward of the usual shape without lasting effects, to time."""
        latent = torch.zeros(batch_size, *self.model.latent_shape, device=self.device)
        conditioning = self.model.encode([""] * batch_size)
        sigma = torch.ones(batch_size, device=self.device)
        self.student.velocity(latent, sigma, conditioning, 1.0).square().mean().backward()
        for parameter in self.student.weights().values():
            parameter.grad = None
