"""Saves the trained adapter where other tools find it, at the end and with every checkpoint."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from diffopd.checkpoint import ADAPTER
from diffopd.model.saving import save_transformer
from diffopd.policy import LowRank, Policy, Whole
from diffopd.strategy.divided import assembled

log = logging.getLogger(__name__)

AVERAGE = "average"
"""Name of the adapter that is the moving average."""


class AdapterExport(Callback):
    """When training ends, writes one adapter as a PEFT folder and as a diffusers LoRA file.

    A policy of whole weights is written as a diffusers transformer, in the folder for PEFT.

    Each checkpoint gets the same as it is then, in its folder ``adapter``: written, verified,
    copied and removed with the checkpoint. It adds the bytes of one policy.

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

    def choice(self, phase: Any) -> Policy:
        """The policy that is written of a phase: the one asked for, unless that was never trained."""
        return phase.handed_on(self.adapter)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have the adapter written into the checkpoint's folder."""
        if hasattr(pl_module, "handed_on"):
            checkpoint[ADAPTER] = saver(self.choice(pl_module))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both forms."""
        if not hasattr(pl_module, "handed_on"):
            return
        policy = self.choice(pl_module)
        save = saver(policy)
        if not trainer.is_global_zero:
            return
        if not trainer.global_step:
            log.info("no update was made: what is saved is what the run started from")
        elif policy.name != self.adapter:
            log.warning(
                "the average has not moved yet: phase.ema.update_interval=%d, and this run made %d "
                "updates. The %s is saved instead; train longer, or set phase.ema.update_interval=1",
                cast(Any, pl_module).ema.update_interval,
                trainer.global_step,
                policy.name,
            )
        save(self.peft_folder)
        if isinstance(policy, LowRank):
            policy.export(self.lora_folder)
            log.info("adapter saved in %s (PEFT) and %s (diffusers)", self.peft_folder, self.lora_folder)
        else:
            log.info("transformer saved in %s (diffusers)", self.peft_folder)


def saver(policy: Policy) -> Callable[[Path], Any]:
    """What writes a policy as its own ``save`` does; all processes call this, one of them the result.

    Weights in shards are put together here, as they are now.
    """
    if isinstance(policy, Whole):
        return functools.partial(save_transformer, assembled(policy.transformer))
    return policy.save


def exported_adapter(phase: Any) -> str:
    """Name of the policy of a phase that is handed on: the callback's choice, or without one the average."""
    exports = [callback for callback in phase.trainer.callbacks if isinstance(callback, AdapterExport)]
    policy: Policy = exports[0].choice(phase) if exports else phase.handed_on(AVERAGE)
    assert policy.name is not None
    return policy.name
