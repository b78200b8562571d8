"""Saves the trained adapter where other tools find it, at the end and with every checkpoint."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from diffopd.adapter import export_lora, save_adapter
from diffopd.checkpoint import ADAPTER

log = logging.getLogger(__name__)

AVERAGE = "average"
"""Name of the adapter that is the moving average."""


class AdapterExport(Callback):
    """When training ends, writes one adapter as a PEFT folder and as a diffusers LoRA file.

    Each checkpoint gets the same adapter as it is then, as a PEFT folder ``adapter``: written, verified,
    copied and removed with the checkpoint. It adds the bytes of one adapter.

    An average that has not moved once is the untrained adapter; the student is written in its place, with a
    warning. Does nothing for phases that train no adapter.
    """

    def __init__(self, *, adapter: str, peft_folder: str, lora_folder: str) -> None:
        """Configure what goes where.

        Args:
            adapter: Which adapter: ``average``, the moving average, or ``student``, the last weights.
            peft_folder: Folder for PEFT, and for ``adapter=`` and ``teacher=`` here.
            lora_folder: Folder for the stock pipeline's ``load_lora_weights``.
        """
        self.adapter = adapter
        self.peft_folder = Path(peft_folder)
        self.lora_folder = Path(lora_folder)

    def choice(self, phase: Any) -> str:
        """The adapter that is written of a phase: the one asked for, unless that was never trained."""
        trained = getattr(phase, "trained_adapter", None)
        return self.adapter if trained is None else trained(self.adapter)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have the adapter written into the checkpoint's folder."""
        model = getattr(pl_module, "model", None)
        if model is not None:
            checkpoint[ADAPTER] = functools.partial(save_adapter, model.transformer, self.choice(pl_module))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both forms."""
        model = getattr(pl_module, "model", None)
        if model is None or not trainer.is_global_zero:
            return
        name = self.choice(pl_module)
        if name != self.adapter:
            log.warning(
                "the average has not moved yet: phase.ema.update_interval=%d, and this run made %d updates. "
                "The %s is saved instead; train longer, or set phase.ema.update_interval=1",
                cast(Any, pl_module).ema.update_interval,
                trainer.global_step,
                name,
            )
        save_adapter(model.transformer, name, self.peft_folder)
        export_lora(model.transformer, name, self.lora_folder)
        log.info("adapter saved in %s (PEFT) and %s (diffusers)", self.peft_folder, self.lora_folder)


def exported_adapter(phase: Any) -> str:
    """The adapter of a phase that is handed on: the callback's choice, or without one the average."""
    exports = [callback for callback in phase.trainer.callbacks if isinstance(callback, AdapterExport)]
    return exports[0].choice(phase) if exports else phase.trained_adapter(AVERAGE)
