"""Do a round again in which a number was not finite: ``python -m diffopd.replay run=<run folder>``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffopd.check import check_config, config_errors
from diffopd.command.program import command
from diffopd.config.saved import CONFIG
from diffopd.config.trust import read_saved
from diffopd.files.paths import expanded
from diffopd.host.signals import Ended

DIFFERENT = 1
"""Exit code if all numbers were finite this time."""


@command("replay")
def main(cfg: DictConfig) -> None:
    """Read the report, build the training, do the round again."""
    raise Ended(run(cfg))


def run(cfg: DictConfig) -> int:
    """Replay as ``cfg`` asks, and say what came.

    Returns:
        Exit code: 0 if a number was not finite again, 1 if all were finite this time.
    """
    import tempfile

    from diffopd.build.experiment import build
    from diffopd.non_finite import find_report
    from diffopd.non_finite.replay import replay

    folder = expanded(cfg.run)
    with config_errors(), tempfile.TemporaryDirectory(prefix="diffopd_replay_") as temporary:
        report, state = find_report(folder, cfg.round)
        training = _training(cfg, folder, Path(temporary), report.round)
        check_config(training)
        experiment = build(training)
        print(f"reported then:\n{report}\n")
        again = replay(experiment.trainer, experiment.phase, experiment.data, report, state)
    if again is None:
        print("now: every loss, gradient and reward up to that update is finite")
        return DIFFERENT
    print(f"now: {again}")
    for suspect in again.suspects:
        print(f"  {suspect}")
    return 0


def _training(cfg: DictConfig, run: Path, temporary: Path, round_number: int) -> DictConfig:
    """The run's config, in one process, for its rounds up to the one in question, writing nothing of its own.

    Raises:
        ValueError: If the folder holds no config, or one that names foreign code.
    """
    training: Any = read_saved(run / CONFIG, setting=f"run={run}", trusted=bool(cfg.trust_config))
    training = OmegaConf.merge(training, OmegaConf.from_dotlist([str(text) for text in cfg.overrides]))
    training.paths.run, training.resume = str(temporary), "never"
    training.callbacks, training.logger = {}, {}
    training.pop("report", None)
    training.pop("benchmark", None)
    alone = {"devices": 1, "num_nodes": 1, "strategy": "auto", "accelerator": cfg.device}
    training.trainer.update({**alone, "max_epochs": round_number, "default_root_dir": str(temporary)})
    return training


if __name__ == "__main__":
    main()
