"""Train and score models side by side: ``python -m diffopd.table rows=table1``."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command import command

INTERRUPTED = 1
"""Exit code of a table that stopped before its last row was done."""


@command("table")
@config_errors()
def main(cfg: DictConfig) -> None:
    """Check every row, train and score what is not there yet, compare."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Make the table ``cfg`` asks for."""
    from diffopd.comparison import check_rows, collect, jobs_of, read_rows
    from diffopd.launch import TrainingFailedError, run_jobs
    from diffopd.progress_lines import ProgressLines
    from diffopd.report.comparison import write_comparison

    folder = Path(cfg.paths.run)
    rows = read_rows(cfg, folder)
    check_rows(rows)
    jobs = jobs_of(rows, cfg)
    try:
        progress = ProgressLines(jobs, cfg.seconds_per_line)
        done = run_jobs(jobs, num_processes=cfg.num_processes, watch=progress)
    except TrainingFailedError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
    if not done:
        print("stopped; the same command goes on from there", file=sys.stderr)
        sys.exit(INTERRUPTED)
    write_comparison(collect(rows, list(cfg.benchmarks)), folder, num_shown=cfg.num_shown)


if __name__ == "__main__":
    main()
