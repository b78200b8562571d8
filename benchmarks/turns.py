"""Ways to do a round that take turns, so that other work on the machine touches all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from comparison import Measured
from lightning.pytorch import Callback
from measured import PeakMemory, now


@dataclass(frozen=True)
class Way:
    """How a round is done.

    Attributes:
        two_pass: Store the rollout and compute each step again.
        task_by_task: One task's rows in a forward.
        encode_anew: Encode the round's prompts in the round; otherwise they are known from before.
        blocks: ``model.fused_blocks``.
    """

    two_pass: bool = False
    task_by_task: bool = False
    encode_anew: bool = False
    blocks: str | None = None

    def prepare(self, phase: Any, prompts: Any, rows_per_task: int) -> None:
        """Have ``phase`` do its next round this way."""
        phase.two_pass = self.two_pass
        size = rows_per_task if self.task_by_task else None
        phase.settings = dataclasses.replace(phase.settings, micro_batch_size=size)
        phase.model._fused = phase.model._fused_blocks(self.blocks, False)
        phase.conditioning(prompts)
        if self.encode_anew:
            phase._encoded.clear()


class TakeTurns(Callback):
    """Does one round each way in turn: a turn to warm up, ``repeats`` timed ones, and one that is weighed."""

    def __init__(self, ways: dict[str, Way], repeats: int, rows_per_task: int) -> None:
        self.ways, self.repeats, self.rows_per_task = ways, repeats, rows_per_task
        self.found = {name: Measured() for name in ways}
        self.memory, self.began = PeakMemory(), 0.0

    @property
    def rounds(self) -> int:
        """How long a training has to be for it."""
        return len(self.ways) * (self.repeats + 2)

    def _place(self, trainer: Any) -> tuple[str, bool, bool]:
        """The round's way, and whether it is timed, or weighed."""
        turn, place = divmod(trainer.current_epoch, len(self.ways))
        return list(self.ways)[place], 0 < turn <= self.repeats, turn > self.repeats

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        name, _timed, weighed = self._place(trainer)
        self.ways[name].prepare(pl_module, batch, self.rows_per_task)
        if weighed:
            self.memory.start()
        self.began = now()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        seconds = now() - self.began
        name, timed, weighed = self._place(trainer)
        if timed:
            self.found[name].seconds.append(seconds)
        if weighed:
            self.found[name].peak_bytes = self.memory.stop()


def take_turns(ways: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, Measured]:
    """Time small things in turn, the first turn to warm up; then weigh each."""
    found = {name: Measured() for name in ways}
    for turn in range(repeats + 1):
        for name, do in ways.items():
            began = now()
            do()
            if turn > 0:
                found[name].seconds.append(now() - began)
    for name, do in ways.items():
        found[name].peak_bytes = peak(do)
    return found


def peak(run: Callable[[], None]) -> int:
    """Bytes that ``run`` takes beyond what is there."""
    memory = PeakMemory()
    memory.start()
    run()
    return memory.stop()
