"""Score an adapter or the base model: ``python -m diffopd.evaluate adapter=<PEFT folder> benchmark=mini``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from diffopd.check import config_errors
from diffopd.command.program import REFUSED, STOPPED, command, interrupted
from diffopd.config.arguments import ADAPTER, hydra_arguments
from diffopd.evaluate.settings import register_evaluation_id, taken_adapter
from diffopd.host.signals import INTERRUPTED, REQUESTS_TO_END, Ended

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
    from diffopd.host.device import device_of_model

    device_of_model(cfg.device)  # one that cannot be used is told before anything is fetched or scored
    check_devices(cfg.devices, cfg.device)
    if started_by_torchrun():
        with joined_by_torchrun() as processes:
            evaluate_share(cfg, processes)
    elif cfg.devices == 1:
        evaluate_share(cfg, ALONE)
    else:
        _run_side_by_side(cfg)


def _run_side_by_side(cfg: DictConfig) -> None:
    from diffopd.evaluate.process import evaluate_in_process
    from diffopd.evaluation.processes import ProcessEndedError, run_processes

    if cfg.adapter_path is not None:  # before the processes get a copy, which forgets what was found
        cfg.adapter_path = taken_adapter(cfg, cfg.adapter_path)
    try:
        run_processes(evaluate_in_process, cfg.devices, OmegaConf.to_container(cfg, resolve=True))
    except ProcessEndedError as error:
        if error.code == INTERRUPTED or -error.code in REQUESTS_TO_END:
            interrupted("one of the processes was stopped by a signal")
        if error.code in (REFUSED, STOPPED):  # with a message
            raise Ended(error.code) from error
        raise


if __name__ == "__main__":
    main()
