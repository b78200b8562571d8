"""Saves a trained transformer as a whole stock pipeline, ready to be loaded by its library alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from diffopd.callbacks.adapter_export import exported_adapter
from diffopd.model.saving import save_pipeline
from diffopd.policy import Whole
from diffopd.strategy.divided import assembled

log = logging.getLogger(__name__)


class PipelineExport(Callback):
    """When training ends, writes the base model's pipeline with the trained transformer in it.

    For runs with ``adapter=full``; which weights are written is :class:`AdapterExport`'s choice. Only a
    family that tells guidance-distilled models apart (``is_distilled`` in ``model_index.json``) is told so.
    """

    def __init__(self, *, folder: str, step_distilled: bool) -> None:
        """Configure where it goes.

        Args:
            folder: For the pipeline.
            step_distilled: Whether what was trained takes no guidance any more.
        """
        self.folder, self.step_distilled = Path(folder), step_distilled

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what has no transformer of its own.

        Raises:
            ValueError: If the run trains an adapter, or none.
        """
        policy = getattr(pl_module, "policies", {}).get("student")
        if not isinstance(policy, Whole):
            raise ValueError(
                "callbacks.pipeline_export writes a trained transformer, which this run has not; set "
                "adapter=full, or export the adapter afterwards: python -m diffopd.export format=merged"
            )

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        phase = cast(Any, pl_module)
        transformer = assembled(phase.policies[exported_adapter(phase)].transformer)
        if not trainer.is_global_zero:
            return
        stock = phase.model.pipeline
        pipeline = type(stock)(**{**stock.components, "transformer": transformer})
        if "is_distilled" in stock.config:
            pipeline.register_to_config(is_distilled=self.step_distilled)
        save_pipeline(pipeline, self.folder)
        log.info("pipeline saved in %s", self.folder)
