"""What a rehearsal needs of disk and memory, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from random_teachers import TASKS
from rehearsal_sizes import Size, lora_shapes, shapes_on_disk
from rehearsal_steps import ROUNDS
from rehearsal_table import amount

HALF, FULL = 2, 4
"""Bytes of a number in bf16 and in fp32."""


@dataclass(frozen=True)
class Estimate:
    """Counted numbers and what follows from them.

    Attributes:
        parts: Part of the pipeline -> numbers in its files.
        lora: Numbers of one LoRA.
        layers: Layers it is on.
        rounds: Of the training, one checkpoint each.
    """

    parts: Mapping[str, int]
    lora: int
    layers: int
    rounds: int

    @classmethod
    def of(cls, model: str, *, with_t5: bool) -> Estimate:
        """Count a model's shapes."""
        parts: Mapping[str, Any] = Size.of(model).without_weights(with_t5=with_t5)
        lora = lora_shapes(parts["transformer"])
        counts = {name: _numbers(shapes_on_disk(part)) for name, part in parts.items()}
        return cls(counts, _numbers(lora), len(lora) // 2, ROUNDS[model])

    @property
    def pipeline(self) -> int:
        """Bytes of its weights on disk."""
        return HALF * sum(self.parts.values())

    @property
    def lora_file(self) -> int:
        """Bytes of one LoRA."""
        return FULL * self.lora

    @property
    def checkpoint(self) -> int:
        """Bytes: student, average and the optimiser's two means."""
        return 4 * self.lora_file

    @property
    def disk(self) -> int:
        """Bytes when all is done: the pipeline, also merged, teachers, checkpoints, the student."""
        loras = len(TASKS) + 5  # left by the training in two forms, exported in three
        return 2 * self.pipeline + loras * self.lora_file + self.rounds * self.checkpoint

    @property
    def memory(self) -> int:
        """Bytes of weights that are no part of a file in the largest step, an export or the training.

        An export compares transformers in fp32, one at a time, beside the autoencoder in fp32. The prompt is
        encoded before, when all weights but the autoencoder's are as their files have them.
        """
        return max(FULL * (self.parts["transformer"] + self.parts["vae"]), self.training)

    @property
    def training(self) -> int:
        """The same in training: autoencoder, teachers, student, its average, gradient and two means."""
        return FULL * self.parts["vae"] + (len(TASKS) + 5) * self.lora_file

    def markdown(self) -> str:
        """As a table."""
        rows = [
            (f"{name}, {numbers:,} numbers in bf16", HALF * numbers) for name, numbers in self.parts.items()
        ]
        rows += [
            ("pipeline on disk", self.pipeline),
            (f"a LoRA on {self.layers} layers, {self.lora:,} numbers in fp32", self.lora_file),
            ("a checkpoint", self.checkpoint),
            ("**disk that is needed**, merged pipeline included", self.disk),
            ("weights in training that are no part of a file", self.training),
            ("**memory that is needed**, most: export, one transformer in fp32", self.memory),
            ("mapped from files beside it, which the system can drop", self.pipeline),
        ]
        lines = [
            "| Quantity | Size |",
            "|---|---:|",
            *(f"| {name} | {amount(size)} |" for name, size in rows),
        ]
        return "\n".join(lines)


def _numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
