"""Train any phase: ``python -m diffopd.train +experiment=mopd_ode``."""

from __future__ import annotations

from omegaconf import DictConfig

from diffopd.command import command


@command("train")
def main(cfg: DictConfig) -> None:
    """Compose, check, build, train, report."""
    from diffopd.build import build  # heavy imports wait until the command line is known to be right

    experiment = build(cfg)
    experiment.run()


if __name__ == "__main__":
    main()
