"""From a composed config to a built experiment: the only place that instantiates a training run."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import lightning
from hydra.utils import get_class, instantiate
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from diffopd.build.pin import pin_model
from diffopd.callbacks import Samples
from diffopd.check import (
    ConfigError,
    check_config,
    check_fit,
    check_prompts,
    config_errors,
    reward_is_asked,
)
from diffopd.check.trial import check_optimizers
from diffopd.checkpoint import SafetensorsCheckpointIO, round_of
from diffopd.evaluation import Benchmark
from diffopd.host.device import check_accelerator
from diffopd.host.quiet import silence_known_noise
from diffopd.host.rank import is_first_process
from diffopd.host.threads import choose_num_threads
from diffopd.report.run.run_files import RunFiles
from diffopd.run.finished import Finished, outputs_of, remove_finished, write_finished
from diffopd.run.inputs import inputs_of
from diffopd.run.metrics_csv import METRICS
from diffopd.run.recorded import recorded_command
from diffopd.run.resume import find_checkpoint
from diffopd.run.settings import result_settings
from diffopd.strategy import Sharded
from diffopd.strategy.together import gather, together
from diffopd.weights.hub import tell_at_once

log = logging.getLogger(__name__)

LIGHT_GROUPS = (
    "adapter",
    "teacher",
    "routing",
    "sampler",
    "states",
    "loss",
    "estimator",
    "regulariser",
    "balance",
    "reward",
    "optimizer",
)
"""Config groups that a phase may ask for by naming them in its constructor."""
HEAVY_GROUPS = ("pipeline", "model")
"""The same, with weights to load: they wait until everything else is known to be right."""


@dataclass(frozen=True)
class Experiment:
    """A phase with its data and trainer, ready to run.

    Attributes:
        phase: The training phase.
        data: Its batches, one round an epoch.
        trainer: Lightning's trainer.
        folder: The run's folder.
        checkpoint: Where to resume from, or None.
        inputs: Fingerprints of the files it learns from; in the first process alone.
        num_threads: Setting of ``trainer.num_threads``.
        report: What to do with the trained phase, or None.
        benchmark: What the report measures, or None.
        files: Where the run's files are.
    """

    phase: lightning.LightningModule
    data: lightning.LightningDataModule
    trainer: lightning.Trainer
    folder: Path
    checkpoint: Path | None
    inputs: Mapping[str, str]
    num_threads: str | int
    report: Callable[[Any, Any, RunFiles], None] | None
    benchmark: Benchmark | None
    files: RunFiles

    def run(self) -> bool:
        """Train, then report in the first process alone, unless the training was interrupted.

        Returns:
            Whether it was trained to its end.

        Raises:
            ConfigError: If no batch was seen, as the trainer's limits leave none.
        """
        to_train = self.checkpoint is None or round_of(self.checkpoint) < cast(int, self.trainer.max_epochs)
        if to_train and self.trainer.is_global_zero:
            remove_finished(self.folder)  # until these rounds are done and reported, too
        began = time.perf_counter()
        with together(self.trainer):
            self.fit()
        files = dataclasses.replace(self.files, fit_minutes=(time.perf_counter() - began) / 60)
        if any(getattr(callback, "interrupted", False) for callback in cast(Any, self.trainer).callbacks):
            return False
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        if not progress.completed:
            raise ConfigError(
                f"no batch was trained in {self.folder}: trainer.limit_train_batches, trainer.max_steps, "
                "trainer.max_time or data allow none"
            )
        if not self.trainer.is_global_zero:
            return True
        if self.report is not None and isinstance(self.trainer.strategy, Sharded):
            log.warning("no report: no process holds the whole model; evaluate the saved adapter")
        elif self.report is not None:
            self.report(self.phase, self.benchmark, files)
        known = (self.folder / METRICS).is_file()
        recipe = dataclasses.asdict(files.recipe) if known else {}
        note = Finished(
            rounds=self.trainer.current_epoch,
            max_rounds=cast(int, self.trainer.max_epochs),
            recipe=recipe,
            inputs=self.inputs,
            outputs=outputs_of(self.folder),
        )
        write_finished(self.folder, note)
        return True

    def fit(self) -> None:
        """Train from the start, or from the newest checkpoint in the run's folder.

        Raises:
            ConfigError: If a part finds an error in its settings before the first batch.
        """
        on_cpu = isinstance(self.trainer.accelerator, CPUAccelerator)
        if on_cpu or self.num_threads != "auto":  # beside a GPU the number of threads hardly matters
            choose_num_threads(cast(Any, self.phase).trial_step, self.num_threads)
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        before = progress.started
        try:
            self.trainer.fit(self.phase, self.data, ckpt_path=self.checkpoint, weights_only=False)
        except (ValueError, MisconfigurationException) as error:
            if progress.started != before:
                raise
            # What is refused while everything is set up is the config's, as no batch was seen.
            raise ConfigError(str(error)) from error
        if self.checkpoint is not None and round_of(self.checkpoint) >= cast(int, self.trainer.max_epochs):
            self._follow_up()

    def _follow_up(self) -> None:
        """Do again what comes before the first round and after the last.

        Where nothing is left to train Lightning does neither, and an earlier process may have been cut
        between its last checkpoint and its end.
        """
        callbacks = cast(Any, self.trainer).callbacks
        for callback in callbacks:
            callback.on_train_start(self.trainer, self.phase)
        for callback in callbacks:
            callback.on_train_end(self.trainer, self.phase)
        self.phase.on_train_end()


@config_errors()
def build(cfg: DictConfig) -> Experiment:
    """Instantiate every group the phase asks for, the data and the trainer.

    Raises:
        ConfigError: If the config cannot work; nearly all of it is found before weights load.
    """
    silence_known_noise()
    tell_at_once()
    check_config(cfg)
    check_accelerator(str(cfg.trainer.accelerator))
    folder = Path(cfg.paths.run)
    phase_class = get_class(cfg.phase._target_)
    wanted = inspect.signature(phase_class).parameters
    if "model" in wanted:
        pin_model(cfg)  # before the config is saved
    checkpoint = find_checkpoint(cfg, folder) if is_first_process() else None
    chosen = [group for group in LIGHT_GROUPS if group in wanted and cfg.get(group) is not None]
    parts = {group: instantiate(cfg[group]) for group in chosen}
    check_optimizers(_optimizers(cfg, parts), named=getattr(phase_class, "names_parameters", False))
    check_fit(cfg, parts)
    report = instantiate(cfg.report) if cfg.get("report") else None
    if report is not None and hasattr(report, "check"):
        report.check(parts)
    data = instantiate(cfg.data)
    asked = parts.get("reward") if reward_is_asked(cfg) else None
    check_prompts(getattr(data, "tasks", None), cfg.data, asked)
    values = cast(Any, OmegaConf.to_container(cfg, resolve=True))
    groups = [group for group in (*LIGHT_GROUPS, *HEAVY_GROUPS) if group in wanted]
    inputs = inputs_of(values, groups) if is_first_process() else {}  # which writes the checkpoints
    settings = {key: value for key, value in cfg.trainer.items() if key != "num_threads"}
    trainer = instantiate(
        settings,
        callbacks=_of_kind("callbacks", instantiate(cfg.callbacks), lightning.Callback),
        logger=_of_kind("logger", instantiate(cfg.logger), Logger),
        plugins=[SafetensorsCheckpointIO(inputs, result_settings(cfg))],
        reload_dataloaders_every_n_epochs=1,
    )
    gather(trainer, lambda: OmegaConf.to_yaml(cfg, resolve=True))
    checkpoint = trainer.strategy.broadcast(checkpoint)
    for logger in trainer.loggers:
        logger.log_hyperparams(values)
    parts |= {group: instantiate(cfg[group]) for group in HEAVY_GROUPS if group in wanted}
    phase = _phase(phase_class, instantiate(cfg.phase).keywords | parts)
    benchmark = _benchmark(cfg) if cfg.get("benchmark") else None
    for callback in cast(Any, trainer).callbacks:
        if isinstance(callback, Samples):
            callback.benchmark = benchmark
    return Experiment(
        phase=phase,
        data=data,
        trainer=trainer,
        folder=folder,
        checkpoint=checkpoint,
        inputs=inputs,
        num_threads=cfg.trainer.num_threads,
        report=report,
        benchmark=benchmark,
        files=RunFiles(
            folder=folder,
            name=str(cfg.name),
            command=recorded_command("diffopd.train", folder),
            seed=cfg.seed,
        ),
    )


def _phase(phase_class: Any, given: dict[str, Any]) -> Any:
    """Build a phase; what its type of settings names is handed over as one such object."""
    if "settings" in inspect.signature(phase_class).parameters:
        kind = phase_class.settings_type
        names = [field.name for field in dataclasses.fields(kind)]
        given["settings"] = kind(**{name: given.pop(name) for name in names if name in given})
    return phase_class(**given)


def _benchmark(cfg: DictConfig) -> Benchmark:
    """With its config, which scores are kept with."""
    settings: Any = OmegaConf.to_container(cfg.benchmark, resolve=True)
    return dataclasses.replace(instantiate(cfg.benchmark), settings=settings)


def _optimizers(cfg: DictConfig, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Config path -> what makes an optimizer."""
    found = {"optimizer": parts["optimizer"]} if "optimizer" in parts else {}
    if "fake_optimizer" in cfg.phase:
        found["phase.fake_optimizer"] = instantiate(cfg.phase.fake_optimizer)
    beside = getattr(parts.get("regulariser"), "fake_optimizer", None)
    if beside is not None:
        found["regulariser.fake_optimizer"] = beside
    return found


def _of_kind(group: str, parts: Mapping[str, Any], kind: type) -> list[Any]:
    """The built parts of a group.

    Raises:
        ConfigError: If one is of another kind; its source did not say so.
    """
    for name, part in parts.items():
        if not isinstance(part, kind):
            raise ConfigError(f"{group}.{name} makes a {type(part).__name__}, which is no {kind.__name__}")
    return list(parts.values())
