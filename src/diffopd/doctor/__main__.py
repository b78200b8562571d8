"""Look at a training before hours are spent: ``python -m diffopd.doctor +experiment=mopd_ode``."""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from diffopd.command import command


@command("doctor")
def main(cfg: DictConfig) -> None:
    """Compose, check, plan, score, measure, judge."""
    from diffopd.doctor.examine import examine  # heavy imports wait until the config is known to be right

    sys.exit(examine(cfg))


if __name__ == "__main__":
    main()
