"""Data parallel: every process holds the whole model and takes its share of each round's batch."""

from __future__ import annotations

from typing import final

from lightning.pytorch.strategies import DDPStrategy
from typing_extensions import override

from diffopd.strategy.together import StartMethod, Together


@final
class DataParallel(Together, DDPStrategy):
    """Lightning's strategy without the wrapper around the model.

    The wrapper would send all weights once and all buffers in every round, and gradients while they are
    computed: Stable Diffusion 3's table of positions alone has more values than its adapter. All processes
    load the same files and draw the same adapter from one seed instead.

    Args:
        start_method: As for :class:`~diffopd.strategy.together.Together`.
        timeout_minutes: The same.
    """

    def __init__(self, *, start_method: StartMethod, timeout_minutes: int | float) -> None:
        super().__init__(start_method=start_method, timeout_minutes=timeout_minutes)

    @override
    def configure_ddp(self) -> None:
        """Leave the model as it is."""

    @override
    def setup_environment(self) -> None:
        self._meet()

    @override
    def _connect(self) -> None:
        self.setup_distributed()
