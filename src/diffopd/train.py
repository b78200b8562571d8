"""Train any phase: ``python -m diffopd.train +experiment=mopd_ode``."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command import command, ending_when_asked, interrupted

log = logging.getLogger(__name__)


@command("train")
def main(cfg: DictConfig) -> None:
    """Compose, check, build, warn, train, report."""
    with ending_when_asked():
        train(cfg)


def train(cfg: DictConfig) -> None:
    """Train as ``cfg`` asks, unless that is done already.

    Raises:
        SystemExit: If the training was asked to end before it was done.
    """
    from diffopd.build import build  # heavy imports wait until the command line is known to be right
    from diffopd.doctor import Level, cheap_findings
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
    finished = experiment.run()
    if not finished and experiment.trainer.is_global_zero:  # one process speaks for all; the others end well
        interrupted("a checkpoint is saved")


if __name__ == "__main__":
    main()
