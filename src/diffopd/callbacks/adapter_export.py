"""Saves the trained adapter where other tools find it."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from diffopd.adapter import export_lora, save_adapter

log = logging.getLogger(__name__)


class AdapterExport(Callback):
    """When training ends, writes one adapter as a PEFT folder and as a diffusers LoRA file.

    Does nothing for phases that train no adapter.
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

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both forms."""
        model = getattr(pl_module, "model", None)
        if model is None or not trainer.is_global_zero:
            return
        save_adapter(model.transformer, self.adapter, self.peft_folder)
        export_lora(model.transformer, self.adapter, self.lora_folder)
        log.info("adapter saved in %s (PEFT) and %s (diffusers)", self.peft_folder, self.lora_folder)
