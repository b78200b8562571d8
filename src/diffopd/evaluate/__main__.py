"""Score an adapter or the base model: ``python -m diffopd.evaluate adapter=<PEFT folder> benchmark=mini``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

import os
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffopd.check import config_errors
from diffopd.command.program import REFUSED, STOPPED, command, errors_told, interrupted
from diffopd.config.arguments import ADAPTER, hydra_arguments
from diffopd.evaluate.settings import register_evaluation_id
from diffopd.host.quiet import silence_known_noise
from diffopd.host.signals import INTERRUPTED, REQUESTS_TO_END, Ended
from diffopd.host.start import begin

register_evaluation_id()  # conf/evaluate.yaml asks for it


def evaluate_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments for Hydra.

    Raises:
        ValueError: If there are none: minutes of work on the base model are rarely what was meant.
    """
    if not arguments:
        raise ValueError(
            "nothing says what to evaluate; give adapter=<PEFT folder>, or benchmark=mini alone for the base "
            "model (--help lists the benchmarks)"
        )
    return hydra_arguments(arguments)


@command("evaluate", arguments=evaluate_arguments, short=ADAPTER)
@config_errors()
def main(cfg: DictConfig) -> None:
    """Load, make images, score, write."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Evaluate as ``cfg`` asks, in this process, in new ones, or in those that torchrun started."""
    from diffopd.evaluate.run import evaluate_share
    from diffopd.evaluation.processes import ALONE, check_devices, joined_by_torchrun, started_by_torchrun

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
        if error.code == INTERRUPTED or -error.code in REQUESTS_TO_END:
            interrupted("one of the processes was stopped by a signal")
        if error.code in (REFUSED, STOPPED):  # with a message
            raise Ended(error.code) from error
        raise


def _process(rank: int, count: int, port: int, settings: dict[str, Any]) -> None:
    """One of several; started with nothing but a config."""
    begin(label=f"[process {rank}] " if rank else "", speaks=False)  # the process that started it speaks
    silence_known_noise()
    from diffopd.evaluate.run import evaluate_share
    from diffopd.evaluation.processes import joined

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
    main()
