"""Train any phase: ``python -m diffopd.train +experiment=mopd_ode``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command import command


@command("train")
def main(cfg: DictConfig) -> None:
    """Compose, check, build, train, report."""
    from diffopd.build import build  # heavy imports wait until the command line is known to be right
    from diffopd.resume import is_finished

    with config_errors():
        finished = is_finished(cfg, Path(cfg.paths.run))
    if finished and cfg.if_finished == "skip":
        print(f"finished already: {cfg.paths.run}")
        return
    build(cfg).run()


if __name__ == "__main__":
    main()
