"""Backbones in shards, one on each process: frozen ones, and with ``adapter=full`` those that are trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, final

from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from typing_extensions import override

from diffopd.strategy.divided import gather_state_dict, gathered, optimizer_state_in_parts
from diffopd.strategy.together import StartMethod, Together


@final
class Sharded(Together, ModelParallelStrategy):
    """Lightning's model-parallel strategy for phases that shard their backbone in ``configure_model``.

    Adapters stay whole on every process, so their gradients, optimizers and checkpoints are those of data
    parallel training. Whole weights that are trained are divided, and with them their gradients and the
    optimizer's means. Checkpoints are written in this project's format by the first process, which puts
    together what is divided, so one process or data parallel training resumes them, too.

    Args:
        start_method: As for :class:`~diffopd.strategy.together.Together`.
        timeout_minutes: The same.
    """

    divides_backbone: ClassVar[bool] = True

    def __init__(self, *, start_method: StartMethod, timeout_minutes: int | float) -> None:
        super().__init__(
            start_method=start_method, timeout_minutes=timeout_minutes, save_distributed_checkpoint=False
        )

    @override
    def setup_environment(self) -> None:
        self._meet()
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1
        super().setup_environment()

    @override
    def _connect(self) -> None:
        self._setup_distributed()

    @override
    def teardown(self) -> None:
        """Let go of the model; the process that forked this one is then given whole weights."""
        if self.start_method == "fork" and self.lightning_module is not None:
            gather_state_dict(self.lightning_module)
        super().teardown()

    # Lightning's plain ways serve, around which what is in shards is put together and taken apart.

    @property
    @override
    def lightning_restore_optimizer(self) -> bool:
        return True

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        return gathered(Strategy.lightning_module_state_dict(self))

    @override
    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return gathered(Strategy.optimizer_state(self, optimizer))

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        kept = zip(checkpoint["optimizer_states"], self.optimizers, strict=True)
        states = [optimizer_state_in_parts(state, optimizer) for state, optimizer in kept]
        Strategy.load_optimizer_state_dict(self, {**checkpoint, "optimizer_states": states})


def shard(backbone: Any, whole: Collection[nn.Parameter], mesh: DeviceMesh) -> None:
    """Divide a backbone's weights among processes, block by block.

    A block's weights are gathered while it computes, in both directions, and let go of after it. The gradient
    of weights that are trained is averaged over processes in each backward, and each process keeps its part.

    Args:
        backbone: Its repeated blocks are those in its ``_no_split_modules`` or ``_repeated_blocks``.
        whole: Parameters that stay whole on every process: the adapters'.
        mesh: The processes.
    """
    names = {*(getattr(backbone, "_repeated_blocks", None) or ()), *(backbone._no_split_modules or ())}
    kept = set[nn.Parameter](whole)
    for module in [module for module in backbone.modules() if type(module).__name__ in names]:
        fully_shard(module, mesh=mesh, ignored_params=kept)
    fully_shard(backbone, mesh=mesh, ignored_params=kept, reshard_after_forward=True)
    for module in backbone.modules():
        if isinstance(module, FSDPModule):  # not all backends average
            module.set_force_sum_reduction_for_comms(True)
