"""Train any phase: ``python -m diffopd.train +experiment=mopd_ode``."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command import command, refuse
from diffopd.saved_config import from_arguments

log = logging.getLogger(__name__)


@command("train")
def main(cfg: DictConfig) -> None:
    """Compose, check, build, warn, train, report."""
    from diffopd.build import build  # heavy imports wait until the command line is known to be right
    from diffopd.doctor.checks import cheap_findings
    from diffopd.doctor.finding import Level
    from diffopd.resume import is_finished

    with config_errors():
        finished = is_finished(cfg, Path(cfg.paths.run))
    if finished and cfg.if_finished == "skip":
        print(f"finished already: {cfg.paths.run}")
        return
    experiment = build(cfg)
    if experiment.trainer.is_global_zero:
        for finding in cheap_findings(cfg, experiment.phase):
            if finding.level >= Level.WARNING:
                log.warning("%s: %s", finding.about, finding.text)
    experiment.run()


def program() -> None:
    """The command line: ``from=<run folder>`` takes the config that a run saved."""
    with tempfile.TemporaryDirectory(prefix="diffopd_from_") as folder:
        try:
            sys.argv[1:] = from_arguments(sys.argv[1:], Path(folder))
        except ValueError as error:
            refuse(str(error))
        main()


if __name__ == "__main__":
    program()
