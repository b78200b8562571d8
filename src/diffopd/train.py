"""Train any phase: ``python -m diffopd.train +experiment=mopd_ode``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from diffopd.configs import config_folder


@hydra.main(version_base="1.3", config_path=config_folder(), config_name="train")
def main(cfg: DictConfig) -> None:
    """Compose, check, build, train, report."""
    from diffopd.build import build  # heavy imports wait until the command line is known to be right

    experiment = build(cfg)
    experiment.fit()


if __name__ == "__main__":
    main()
