"""Train in stages, one after the other: ``python -m diffopd.cascade stages=nft``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command.program import command, interrupted
from diffopd.host.signals import Ended


def cascade_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments for Hydra.

    Raises:
        ValueError: If there are none: hours of training are rarely what was meant.
    """
    if not arguments:
        raise ValueError(
            "nothing says what to train; give stages=nft, or other stages (--help lists them; "
            "--cfg job prints all settings)"
        )
    return list(arguments)


@command("cascade", arguments=cascade_arguments)
@config_errors()
def main(cfg: DictConfig) -> None:
    """Check every stage, train them in turn, report."""
    from diffopd.run.lock import locked

    with locked(Path(cfg.paths.run)):
        run(cfg)


def run(cfg: DictConfig) -> None:
    """Train as ``cfg`` asks; what is finished already is not trained again."""
    from diffopd.config.saved import CONFIG, read_config
    from diffopd.jobs.launch import TrainingFailedError
    from diffopd.jobs.stages import check_stage, read_stages, train_stage

    folder = Path(cfg.paths.run)
    stages = read_stages(cfg, folder)
    for stage in stages:
        check_stage(stage)
    from diffopd.report.run.cascade import report_cascade  # heavy: after the stages are known to be right

    for number, stage in enumerate(stages):
        print(f"stage {number + 1} of {len(stages)}: {stage.name}, {stage.experiment}", flush=True)
        before = stages[number - 1].folder / "adapter" if number else None
        try:
            finished = train_stage(stage, before)
        except TrainingFailedError as error:
            print(f"stages.{stage.name}: {error}", file=sys.stderr)
            raise Ended(error.code) from error
        if not finished:
            interrupted(f"stopped by a signal in stage {stage.name}")
    model_path = read_config(stages[-1].folder / CONFIG).model.path
    report_cascade(
        folder, {stage.name: stage.folder for stage in stages}, name=cfg.name, model_path=model_path
    )


if __name__ == "__main__":
    main()
