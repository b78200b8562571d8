"""Run the ablations side by side: ``python -m diffopd.ablations``."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command import command

INTERRUPTED = 1
"""Exit code of ablations that stopped before the last training was done."""


@command("ablations")
@config_errors()
def main(cfg: DictConfig) -> None:
    """Check every training, run what is not there yet, report."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Run the ablations ``cfg`` names; what is finished already is not trained again."""
    from diffopd.cells import index_of, jobs_of, read_cells, report_jobs
    from diffopd.files import atomic_write_json
    from diffopd.launch import TrainingFailedError, run_jobs
    from diffopd.progress_lines import ProgressLines

    folder = Path(cfg.paths.run)
    cells = read_cells(cfg, folder)
    first = {name: overrides for trainings in cfg.first.values() for name, overrides in trainings.items()}
    jobs = jobs_of(cells, first, folder)
    atomic_write_json(folder / "index.json", index_of(cells))
    print(f"{len(jobs)} trainings for {len({cell.ablation for cell in cells})} ablations", flush=True)
    try:
        done = run_jobs(
            jobs, num_processes=cfg.num_processes, watch=ProgressLines(jobs, cfg.seconds_per_line)
        ) and run_jobs(report_jobs(cells, folder), num_processes=1)
    except TrainingFailedError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
    if not done:
        print("stopped; the same command goes on from there", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
