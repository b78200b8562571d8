"""A training: its config, its parts, its run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from diffopd.api.given import Place, listed
from diffopd.check import ConfigError
from diffopd.command.called import call_command, compose_command, equivalent_arguments
from diffopd.config.guidance import trained_guidance
from diffopd.config.saved import CONFIG, read_config

if TYPE_CHECKING:
    from diffopd.build.experiment import Experiment
    from diffopd.evaluation import EvaluationResult

# What brings torch is imported inside functions: composing and checking a config does without.


@dataclass(frozen=True)
class Run:
    """A training run's folder and what is in it.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))  # a text is what users have

    @property
    def config(self) -> DictConfig:
        """The resolved config.

        Raises:
            ValueError: If the folder is not a run's.
        """
        if not (self.folder / CONFIG).is_file():
            raise ValueError(f"{self.folder.absolute()} holds no {CONFIG}; give the folder of a run")
        return read_config(self.folder / CONFIG)

    @property
    def adapter(self) -> Path:
        """The trained adapter, a PEFT folder.

        Raises:
            ValueError: If there is none: the run is not finished, or trained a whole pipeline.
        """
        if not (self.folder / "adapter").is_dir():
            raise ValueError(
                f"{self.folder} holds no adapter: the run is not finished, or it trained a whole pipeline, "
                "which is in its pipeline folder"
            )
        return self.folder / "adapter"

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its end and reported."""
        from diffopd.run.finished import read_finished

        return read_finished(self.folder) is not None

    @property
    def metrics(self) -> list[dict[str, float]]:
        """What each round logged, by name, e.g. ``train/loss/opd``."""
        from diffopd.run.metrics_csv import METRICS, read_rows

        return [{name: float(text) for name, text in row.items()} for row in read_rows(self.folder / METRICS)]

    @property
    def result(self) -> EvaluationResult | None:
        """Scores of the report at the guidance of the training; None without a report (``~report``)."""
        from diffopd.evaluation import EvaluationResult

        config = self.config
        names = []
        if (scale := trained_guidance(config)) is not None:
            names.append(f"student_guidance_{scale:g}.json")
        if config.get("benchmark"):
            names.append(f"{config.benchmark.name}.json")
        files = [self.folder / "report" / name for name in names]
        return next((EvaluationResult.load(file) for file in files if file.is_file()), None)

    @property
    def scores(self) -> dict[str, float]:
        """Task -> mean reward of the report; empty without a report."""
        return {} if self.result is None else self.result.means


def compose(
    experiment: str | None = None,
    overrides: Sequence[str] = (),
    *,
    config_dir: Place | None = None,
) -> DictConfig:
    """The config of a training, as ``diffopd train`` composes it.

    It may be changed before it is used; ``paths.run``, the run's folder, follows ``paths.root``, ``name`` and
    ``run_id``. Nothing is checked or written yet.

    Args:
        experiment: A file of ``conf/experiment``, e.g. ``mopd_ode``; None: ``overrides`` name all.
        overrides: As on the command line: ``["trainer.max_epochs=2", "sampler=cps"]``. A sweep takes the
            command line.
        config_dir: A folder with configs of your own beside the package's.

    Returns:
        The composed config.

    Raises:
        ConfigError: If there is no such experiment or setting, with what was probably meant.
    """
    if experiment is not None and "=" in experiment:
        name = experiment.rpartition("=")[2]
        raise ConfigError(f"experiment={experiment!r} must be the name alone, as in compose({name!r})")
    chosen = [] if experiment is None else [f"+experiment={experiment}"]
    return compose_command("train", [*chosen, *listed(overrides)], config_dir=config_dir)


def build_experiment(config: DictConfig) -> Experiment:
    """The phase, data and trainer of a config, with weights loaded, ready to run.

    For looking at the parts and for loops of your own. :func:`train_model` is what keeps other processes out
    of the run's folder.

    Args:
        config: Of :func:`compose`.

    Returns:
        The built experiment.

    Raises:
        ConfigError: If the config cannot work.
    """
    from diffopd.build.experiment import build

    _check_composed(config)
    return build(copy.deepcopy(config))


def train_model(config: DictConfig) -> Run:
    """Train as ``diffopd train`` does: alone in the run's folder, resumed, checked, reported.

    A run of the same settings in the folder is resumed (``resume=auto``); a finished one is reported again,
    or left as it is with ``if_finished=skip``. SIGTERM and Ctrl-C let the round end and save a checkpoint.

    Args:
        config: Of :func:`compose`.

    Returns:
        The finished run.

    Raises:
        ConfigError: If the config cannot work, or the folder holds a run with other settings.
        StoppedError: If it was asked to end before it was done; the same call resumes it.
    """
    from diffopd.run.recorded import typed
    from diffopd.train import train

    _check_composed(config)
    with typed(equivalent_arguments(config)):
        call_command(train, copy.deepcopy(config), "train")
    return Run(Path(config.paths.run))


def _check_composed(config: object) -> None:
    """Whether it is what :func:`compose` returns, with a name for its folder."""
    if not isinstance(config, DictConfig) or "paths" not in config:
        raise ConfigError(
            f"config must be what diffopd.compose(...) returns, got a {type(config).__name__}; "
            'as in train_model(compose("mopd_ode"))'
        )
    if OmegaConf.is_missing(config, "name"):
        raise ConfigError('name is required; start from an experiment, compose("mopd_ode"), or give name=...')
