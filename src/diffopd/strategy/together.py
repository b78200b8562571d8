"""What the strategies share: how processes start, meet, average gradients and end together."""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.strategies.parallel import ParallelStrategy
from typing_extensions import override

from diffopd.strategy.gradients import average_gradients
from diffopd.strategy.launcher import ProcessLauncher
from diffopd.strategy.lifeline import Lifeline

StartMethod = Literal["popen", "fork"]


class Together(ParallelStrategy):
    """Base of the strategies.

    Gradients are averaged once per update, in one transfer: by the phase that optimizes by itself, here for
    one whose optimization is Lightning's. Nothing else of the model is sent.

    Args:
        start_method: ``popen``: each process starts its own Python; ``fork``: copies of this one when
            training begins, on CPUs, for tests and notebooks. Without effect under torchrun and SLURM.
        timeout_minutes: How long a process waits for the others at most.
        arguments: Of Lightning's strategy.
    """

    _timeout: timedelta | None
    num_processes: int
    num_nodes: int

    def __init__(self, *, start_method: StartMethod, timeout_minutes: int | float, **arguments: Any) -> None:
        super().__init__(**arguments)
        if start_method not in ("popen", "fork"):
            raise ValueError(
                f"trainer.strategy.start_method={start_method} is not known; choose popen or fork"
            )
        if not timeout_minutes > 0:
            raise ValueError(f"trainer.strategy.timeout_minutes={timeout_minutes} must be above 0")
        self._timeout = timedelta(minutes=timeout_minutes)
        self.start_method = start_method
        self._lifeline: Lifeline | None = None
        self._met = False
        self._environment_before: dict[str, str | None] = {}

    # Start and end.

    @override
    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        if self.start_method == "fork":
            self._launcher = _MultiProcessingLauncher(self, start_method="fork")
        elif not self.cluster_environment.creates_processes_externally:
            self._launcher = ProcessLauncher(
                num_processes=self.num_processes, environment=self._environment_of_others
            )

    def _environment_of_others(self) -> Mapping[str, str]:
        assert self.cluster_environment is not None
        return {
            "MASTER_ADDR": self.cluster_environment.main_address,
            "MASTER_PORT": str(self.cluster_environment.main_port),
            "NODE_RANK": str(self.node_rank),
        }

    def gather(self, config: Callable[[], str]) -> None:
        """Start the other processes, unless somebody else has, and meet them; all processes call this.

        Args:
            config: Makes the config that started processes get, resolved, as YAML.
        """
        if self.start_method == "fork" or self._met:  # forked processes meet when they are made
            return
        if isinstance(self.launcher, ProcessLauncher):
            self.launcher.start(config())
        self._meet()

    def _meet(self) -> None:
        """Connect to all other processes, once."""
        if self._met:
            return
        assert self.cluster_environment is not None
        self._environment_before = {name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")}
        assert self.accelerator is not None
        self.accelerator.setup_device(self.root_device)
        self._connect()
        self._lifeline = Lifeline.tie(
            self.global_rank, self.world_size, self.cluster_environment.main_address, self.broadcast
        )
        self._met = True

    @abstractmethod
    def _connect(self) -> None:
        """Make the process group."""

    @override
    def on_exception(self, exception: BaseException) -> None:
        """Let the others know at once."""
        super().on_exception(exception)
        if self._lifeline is not None:
            self._lifeline.fail()

    @override
    def teardown(self) -> None:
        """Let go of the model; forked processes end here."""
        if self.start_method == "fork" and self._lifeline is not None:
            self._lifeline.close()
        super().teardown()

    def part(self) -> None:
        """End the connections after a training that went well, so that the next one starts from nothing."""
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
        if isinstance(self.launcher, ProcessLauncher):
            self.launcher.close()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in self._environment_before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self._met = False

    # Gradients.

    @override
    def optimizer_step(
        self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **arguments: Any
    ) -> Any:
        """Step; with Lightning's own optimization, average the gradients between backward and clipping."""
        assert self.lightning_module is not None
        if not self.lightning_module.automatic_optimization:
            return super().optimizer_step(optimizer, closure, model, **arguments)

        def averaged() -> Any:
            result = closure()
            average_gradients([p for group in optimizer.param_groups for p in group["params"]])
            return result

        return super().optimizer_step(optimizer, averaged, model, **arguments)


@contextlib.contextmanager
def together(trainer: Trainer) -> Iterator[None]:
    """After what is inside, its processes part; if it fails, they are left to end each other."""
    yield
    if isinstance(trainer.strategy, Together):
        trainer.strategy.part()


def gather(trainer: Trainer, config: Callable[[], str]) -> None:
    """Start and meet the other processes of a training, if there are to be any.

    Raises:
        ValueError: If there are, with a strategy of Lightning's.
    """
    if isinstance(trainer.strategy, Together):
        trainer.strategy.gather(config)
    elif trainer.world_size > 1:
        raise ValueError(
            f"{trainer.world_size} processes need trainer=ddp or trainer=sharded, got "
            f"{type(trainer.strategy).__name__}; for one process set trainer.devices=1"
        )
