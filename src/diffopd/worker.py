"""One of a training's further processes: ``trainer=ddp`` starts it, nobody else has to."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from diffopd.quiet import silence_known_noise


def main() -> None:
    """Train as the first process does, on its config."""
    silence_known_noise()
    from diffopd.build import build
    from diffopd.strategy.launcher import read_config

    cfg = OmegaConf.create(read_config())
    assert isinstance(cfg, DictConfig)
    build(cfg).run()


if __name__ == "__main__":
    main()
