"""Lightning's checkpoints in our format: give it to ``Trainer(plugins=[SafetensorsCheckpointIO()])``."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from typing_extensions import override

from diffopd.checkpoint.folder import (
    ADAPTER,
    INPUTS,
    SETTINGS,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from diffopd.checkpoint.tensor_files import LARGEST_FILE


class SafetensorsCheckpointIO(CheckpointIO):
    """Saves, verifies and loads what Lightning calls a checkpoint, as a folder of safetensors and JSON.

    It keeps nothing between calls but what it adds to every checkpoint. Unlike Lightning's own, it writes
    atomically, reaches the disk before it returns, needs no second copy of the tensors in memory and never
    unpickles.

    Args:
        inputs: Fingerprints of the files a training learns from, kept in every checkpoint as ``inputs``.
        settings: What of its config affects the result, kept in every checkpoint as ``settings``.

    Attributes:
        largest_file: Bytes of tensors in one file of a checkpoint at most.
    """

    def __init__(
        self, inputs: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.largest_file = LARGEST_FILE
        self.kept = {INPUTS: dict(inputs or {})} | ({} if settings is None else {SETTINGS: dict(settings)})

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write the checkpoint; an interrupted call leaves ``path`` as it was.

        What a callback put under ``adapter`` is no state: it is called with the folder for an adapter.

        Raises:
            TypeError: If the checkpoint holds more than tensors and plain data, or with storage options.
        """
        if storage_options is not None:
            raise TypeError("SafetensorsCheckpointIO takes no storage_options: it writes to a local folder")
        state = {**checkpoint, **self.kept}
        write_adapter = state.pop(ADAPTER, None)
        parts = {} if write_adapter is None else {ADAPTER: write_adapter}
        write_checkpoint(state, path, parts, largest_file=self.largest_file)

    @override
    def load_checkpoint(
        self, path: str | PathLike[str], map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint after verifying it.

        Args:
            path: The checkpoint's folder.
            map_location: A device or its name; the CPU when None.
            weights_only: Without effect: no code is ever loaded.

        Raises:
            CheckpointError: If the checkpoint is absent, incomplete or altered.
        """
        device = "cpu" if map_location is None else str(torch.device(map_location))
        return read_checkpoint(path, device)

    @override
    def remove_checkpoint(self, path: str | PathLike[str]) -> None:
        """Remove the checkpoint's folder, if it is there."""
        remove_checkpoint(path)
