"""Preflight check of a run: ``python -m diffopd.doctor +experiment=mopd_ode``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

from omegaconf import DictConfig

from diffopd.command.program import command
from diffopd.host.signals import Ended


@command("doctor")
def main(cfg: DictConfig) -> None:
    """Compose, check, plan, score, measure, judge."""
    from diffopd.doctor.examine import examine  # heavy imports wait until the config is known to be right

    raise Ended(examine(cfg))


if __name__ == "__main__":
    main()
