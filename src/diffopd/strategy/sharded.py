"""The frozen backbone in shards, one on each process, for models larger than one GPU."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, final

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from typing_extensions import override

from diffopd.strategy.together import StartMethod, Together


@final
class Sharded(Together, ModelParallelStrategy):
    """Lightning's model-parallel strategy for phases that shard their backbone in ``configure_model``.

    Adapters stay whole on every process, so their gradients, optimizers and checkpoints are those of data
    parallel training; checkpoints are written in this project's format by the first process.

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

    # Checkpoints hold what is whole on every process, see without_shards, so Lightning's plain ways serve.

    @property
    @override
    def lightning_restore_optimizer(self) -> bool:
        return True

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        return Strategy.lightning_module_state_dict(self)

    @override
    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return Strategy.optimizer_state(self, optimizer)

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
        Strategy.load_optimizer_state_dict(self, checkpoint)


def shard(backbone: Any, whole: Collection[nn.Parameter], mesh: DeviceMesh) -> None:
    """Divide a backbone's weights among processes, block by block.

    A block's weights are gathered while it computes, in both directions, and let go of after it.

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


def without_shards(module: nn.Module) -> None:
    """Leave a module's shards out of its state, as no process has the whole of them."""

    def leave_out(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
        for name in [name for name, value in state.items() if isinstance(value, DTensor)]:
            del state[name]

    module.register_state_dict_post_hook(leave_out)


def bytes_held(module: nn.Module) -> int:
    """Bytes of a module's parameters that lie on this process."""
    parts = (p.to_local() if isinstance(p, DTensor) else p for p in module.parameters())
    return sum(part.numel() * part.element_size() for part in parts if isinstance(part, torch.Tensor))
