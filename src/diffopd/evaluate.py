"""Score an adapter or the base model: ``python -m diffopd.evaluate adapter=<PEFT folder> benchmark=mini``."""

from __future__ import annotations

import os
import sys
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffopd.arguments import hydra_arguments
from diffopd.check import config_errors
from diffopd.command import REFUSED, STOPPED, command, errors_told
from diffopd.evaluated import register_evaluation_id
from diffopd.quiet import silence_known_noise

register_evaluation_id()  # conf/evaluate.yaml asks for it


@command("evaluate")
@config_errors()
def main(cfg: DictConfig) -> None:
    """Load, make images, score, write."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Evaluate as ``cfg`` asks, in this process, in new ones, or in those that torchrun started."""
    from diffopd.evaluation.processes import ALONE, check_devices, joined_by_torchrun, started_by_torchrun
    from diffopd.evaluation_run import evaluate_share

    check_devices(cfg.devices, cfg.device)
    if started_by_torchrun():
        with joined_by_torchrun() as processes:
            evaluate_share(cfg, processes)
    elif cfg.devices == 1:
        evaluate_share(cfg, ALONE)
    else:
        _run_side_by_side(cfg)


def _run_side_by_side(cfg: DictConfig) -> None:
    from diffopd.evaluation.processes import ProcessEndedError, run_processes

    try:
        run_processes(_process, cfg.devices, OmegaConf.to_container(cfg, resolve=True))
    except ProcessEndedError as error:
        if error.code in (REFUSED, STOPPED):  # with a message
            sys.exit(error.code)
        raise


def _process(rank: int, count: int, port: int, settings: dict[str, Any]) -> None:
    """One of several; started with nothing but a config."""
    silence_known_noise()
    from diffopd.evaluation.processes import joined
    from diffopd.evaluation_run import evaluate_share

    cfg = OmegaConf.create(settings)
    try:
        with errors_told(debug=cfg.debug), config_errors(), joined(rank, count, port) as processes:
            evaluate_share(cfg, processes)
    except SystemExit as end:
        # All is said. An orderly exit can abort instead (SIGABRT): threads of gloo still wait for the others.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else STOPPED)


if __name__ == "__main__":
    sys.argv[1:] = hydra_arguments(sys.argv[1:])
    main()
