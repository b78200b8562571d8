"""Train any phase: ``python -m diffopd.train +experiment=mopd_ode``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

import contextlib
import logging
from pathlib import Path

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command.program import command, interrupted
from diffopd.config.saved import from_arguments
from diffopd.host.rank import is_first_process
from diffopd.run.recorded import note_command

log = logging.getLogger(__name__)


@command("train", arguments=from_arguments)
def main(cfg: DictConfig) -> None:
    """Compose, check, build, warn, train, report; ``from=<run folder>`` takes the config that a run saved."""
    train(cfg)


def train(cfg: DictConfig) -> None:
    """Train as ``cfg`` asks, alone in the run's folder.

    Raises:
        SystemExit: If the training was asked to end before it was done.
    """
    from diffopd.run.lock import locked

    with contextlib.ExitStack() as stack:
        if is_first_process():
            with config_errors():
                for place in _places(cfg):
                    stack.enter_context(locked(place))
        train_in_folder(cfg)


def _places(cfg: DictConfig) -> list[Path]:
    """The run's folder, and that of its checkpoints where it is another."""
    from omegaconf import OmegaConf

    from diffopd.checkpoint.place import checkpoints_folder

    run, values = Path(cfg.paths.run), OmegaConf.to_container(cfg, resolve=True)
    checkpoints = checkpoints_folder(values, run)  # type: ignore[arg-type]
    return [run] if checkpoints.is_relative_to(run) else [run, checkpoints]


def train_in_folder(cfg: DictConfig) -> None:
    """Train as ``cfg`` asks in a folder that no other run uses meanwhile, unless that is done already.

    Raises:
        SystemExit: If the training was asked to end before it was done.
    """
    # Heavy imports wait until the command line is known to be right, and the heaviest until there is work.
    from diffopd.run.resume import is_finished

    with config_errors():
        finished = is_finished(cfg, Path(cfg.paths.run))
    if finished and cfg.if_finished == "skip":
        if is_first_process():
            print(f"already finished: {cfg.paths.run}")
            print_pipeline(Path(cfg.paths.run))
        return
    if is_first_process():
        note_command("diffopd.train", Path(cfg.paths.run))
    from diffopd.build.experiment import build
    from diffopd.doctor.checks import cheap_findings
    from diffopd.doctor.finding import Level

    experiment = build(cfg)
    if experiment.trainer.is_global_zero:
        for finding in cheap_findings(cfg, experiment.phase):
            if finding.level >= Level.WARNING:
                log.warning("%s: %s", finding.about, finding.text)
    finished = experiment.run()
    if not finished and experiment.trainer.is_global_zero:  # one process speaks for all; the others end well
        interrupted("a checkpoint is saved")
    if experiment.trainer.is_global_zero:
        print_pipeline(experiment.folder)


def print_pipeline(folder: Path) -> None:
    """Say where the pipeline is that a finished run trained, if it trained one, and how to use it."""
    from diffopd.files.names import INDEX
    from diffopd.run.finished import read_finished
    from diffopd.weights.files import read_json

    pipeline = folder / "pipeline"
    if pipeline.is_dir() and read_finished(folder) is not None:
        index = read_json(pipeline / INDEX, str(pipeline / INDEX))
        choice = ""  # the default
        if index.get("_class_name") == "Flux2KleinPipeline":
            choice = "model=mini_klein " if index.get("is_distilled") else "model=mini_klein_base "
        print(f"pipeline: {pipeline}")
        print(f"use it:   python -m diffopd.sample {choice}model.path={pipeline} prompt='a large red circle'")


if __name__ == "__main__":
    main()
