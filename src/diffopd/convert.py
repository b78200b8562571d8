"""Released weights as a folder: ``python -m diffopd.convert reward=<name> from=<file> to=<folder>``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

import functools
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command.program import command
from diffopd.config.arguments import hydra_arguments

TERMS: dict[str, Any] = {"short": {"reward": "reward_name"}, "whole": ("from", "to", "tokenizer")}
"""``reward`` is a config group too, so the setting has another name; places are taken as they are."""


@command("convert", arguments=functools.partial(hydra_arguments, **TERMS), short=TERMS["short"])
@config_errors()
def main(cfg: DictConfig) -> None:
    """Read, rename, write."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Convert as ``cfg`` asks, and say how the folder is used."""
    from diffopd.files.paths import resolve_path
    from diffopd.host.quiet import silence_known_noise
    from diffopd.reward.learned.conversion import convert

    silence_known_noise()
    source, target = (Path(resolve_path(cfg[key])) for key in ("from", "to"))
    folder = convert(cfg.reward_name, source, target, tokenizer=cfg.tokenizer)
    path = "reward.distance.path" if cfg.reward_name == "lpips_nearness" else "reward.path"
    print(f"{folder}\nuse it with reward={cfg.reward_name} {path}={folder}")


if __name__ == "__main__":
    main()
