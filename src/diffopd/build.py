"""From a composed config to a built experiment: the only place that instantiates."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from diffopd.callbacks import silence_known_noise
from diffopd.checkpoint import SafetensorsCheckpointIO, latest_valid_checkpoint
from diffopd.threads import choose_num_threads

log = logging.getLogger(__name__)

PHASE_GROUPS = ("pipeline", "model", "adapter", "teacher", "sampler", "loss", "reward", "optimizer")
"""Config groups that a phase may ask for by naming them in its constructor."""


@dataclass(frozen=True)
class Experiment:
    """A phase with its data and trainer, ready to run.

    Attributes:
        phase: The training phase.
        data: Its batches, one round an epoch.
        trainer: Lightning's trainer.
        folder: The run's folder.
        resume: ``auto`` or ``never``.
        num_threads: Setting of ``trainer.num_threads``.
    """

    phase: lightning.LightningModule
    data: lightning.LightningDataModule
    trainer: lightning.Trainer
    folder: Path
    resume: str
    num_threads: str | int

    def fit(self) -> None:
        """Train from the start, or from the newest checkpoint in the run's folder."""
        checkpoint = latest_valid_checkpoint(self.folder / "checkpoints") if self.resume == "auto" else None
        choose_num_threads(self.phase.trial_step, self.num_threads)
        self.trainer.fit(self.phase, self.data, ckpt_path=checkpoint, weights_only=False)


def build(cfg: DictConfig) -> Experiment:
    """Instantiate every group the phase asks for, the data and the trainer."""
    silence_known_noise()
    folder = Path(cfg.paths.run)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    phase_class = get_class(cfg.phase._target_)
    wanted = inspect.signature(phase_class).parameters
    parts = {group: instantiate(cfg[group]) for group in PHASE_GROUPS if group in wanted}
    phase = instantiate(cfg.phase)(**parts)
    data = instantiate(cfg.data)
    settings = {key: value for key, value in cfg.trainer.items() if key != "num_threads"}
    trainer = instantiate(
        settings,
        callbacks=list(instantiate(cfg.callbacks).values()),
        logger=list(instantiate(cfg.logger).values()),
        plugins=[SafetensorsCheckpointIO()],
        reload_dataloaders_every_n_epochs=1,
    )
    return Experiment(phase, data, trainer, folder, cfg.resume, cfg.trainer.num_threads)


def plain(node: Any) -> Any:
    """A config node as dicts and lists."""
    return OmegaConf.to_container(node, resolve=True)
