"""A further process of a data-parallel run, started by ``trainer=ddp``; not meant to be run by hand."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

from omegaconf import DictConfig, OmegaConf

from diffopd.command.program import ending_when_asked, errors_told
from diffopd.host.quiet import say_only_what_is_new, silence_known_noise


def main() -> None:
    """Train as the first process does, on its config."""
    say_only_what_is_new()
    silence_known_noise()
    with ending_when_asked():
        from diffopd.build.experiment import build
        from diffopd.strategy.launcher import read_config

        cfg = OmegaConf.create(read_config())
        assert isinstance(cfg, DictConfig)
        with errors_told(debug=bool(cfg.get("debug"))):
            build(cfg).run()


if __name__ == "__main__":
    main()
