"""When a training is killed: at a moment, or at a file operation on its checkpoints."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffopd.checkpoint import folder as checkpoint_folder
from diffopd.checkpoint import tensor_files


@dataclass(frozen=True)
class KillPoint:
    """When a training is killed.

    Attributes:
        share: Share of the training's time, for a moment.
        operation: Number of a file operation on checkpoints, or None for a moment.
        half: Whether that operation is done half.
    """

    share: float
    operation: int | None
    half: bool

    @staticmethod
    def of(seed: int, phase: str, trial: int, num_operations: int) -> KillPoint:
        """The kill point of one trial; every third is at a file operation."""
        name = f"{seed}/{phase}/{trial}".encode()
        draw = random.Random(hashlib.sha256(name).hexdigest())
        share, operation, half = draw.random(), draw.randrange(max(1, num_operations)), draw.random() < 0.5
        return KillPoint(share, operation if trial % 3 == 2 and num_operations else None, half)

    def __str__(self) -> str:
        if self.operation is None:
            return f"at {self.share:.0%} of the time"
        return f"{'in' if self.half else 'before'} file operation {self.operation}"


class Operations:
    """Counts the file operations on checkpoints of this process, and ends it at one of them.

    Args:
        kill: Where to end.
    """

    def __init__(self, kill: KillPoint | None) -> None:
        self.count = 0
        self._at = kill.operation if kill else None
        self._half = kill is not None and kill.half

    def install(self) -> None:
        """Watch the modules that write checkpoints."""
        module: Any = checkpoint_folder
        write_text = Path.write_text

        def half_written(path: Path, text: str) -> None:
            write_text(path, text[: len(text) // 2])

        def half_saved(save: Callable[..., None], tensors: Any, path: Path) -> None:
            save(tensors, path)
            os.truncate(path, path.stat().st_size // 2)

        def half_removed(folder: Path) -> None:
            for file in list(Path(folder).iterdir())[:1]:
                file.unlink()

        def watched_write_text(path: Path, text: str, *rest: Any, **named: Any) -> int:
            if path.parent.name.endswith(".writing"):
                self._at_one(lambda: half_written(path, text))
            return write_text(path, text, *rest, **named)

        def watch(
            function: Callable[..., Any], half: Callable[..., None] | None = None
        ) -> Callable[..., Any]:
            def watched(*arguments: Any, **named: Any) -> Any:
                self._at_one(lambda: half(*arguments) if half else None)
                return function(*arguments, **named)

            return watched

        files: Any = tensor_files
        save = files.save_file
        Path.write_text = watched_write_text  # type: ignore[assignment,method-assign]
        files.save_file = watch(save, lambda tensors, path, *_: half_saved(save, tensors, path))
        module._fingerprint = watch(module._fingerprint)
        module.flush = watch(module.flush)
        module.os = SimpleNamespace(**vars(os) | {"rename": watch(os.rename)})
        module.shutil = SimpleNamespace(**vars(shutil) | {"rmtree": watch(shutil.rmtree, half_removed)})

    def _at_one(self, half: Callable[[], None]) -> None:
        if self.count == self._at:
            if self._half:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1
