"""Train and score models side by side: ``python -m diffopd.table rows=table1``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from diffopd.check import config_errors
from diffopd.command.program import command


@command("table")
@config_errors()
def main(cfg: DictConfig) -> None:
    """Check every row, train and score what is not there yet, compare."""
    from diffopd.run.lock import locked

    with locked(Path(cfg.paths.run)):
        run(cfg)


def run(cfg: DictConfig) -> None:
    """Make the table ``cfg`` asks for."""
    from diffopd.jobs.comparison import check_rows, collect, jobs_of, read_rows, runs_of
    from diffopd.jobs.side_by_side import finish

    folder = Path(cfg.paths.run)
    rows = read_rows(cfg, folder)
    check_rows(rows)
    from diffopd.jobs.elsewhere import read_elsewhere, with_elsewhere
    from diffopd.report.comparison.comparison import (  # heavy: after the rows are known to be right
        page_tables,
        write_comparison,
    )
    from diffopd.report.comparison.wins import judge_rows, read_conditions
    from diffopd.report.methods.archive import archive_runs
    from diffopd.report.methods.page import DATA

    wins = cast(dict[str, Any], OmegaConf.to_container(cfg.get("wins") or OmegaConf.create({})))
    conditions = read_conditions(wins, list(dict.fromkeys(run.row for run in rows)))

    elsewhere = read_elsewhere(list(cfg.also))
    jobs = jobs_of(rows, cfg)
    finish(jobs, num_processes=cfg.num_processes, seconds_per_line=cfg.seconds_per_line)
    compared, runs = with_elsewhere(collect(rows, list(cfg.benchmarks)), runs_of(rows), elsewhere)
    archive_runs(runs, folder / DATA)
    write_comparison(compared, runs, folder, num_shown=cfg.num_shown)
    from diffopd.report.comparison.claims import write_claims

    write_claims(
        runs,
        cast(dict[str, Any], OmegaConf.to_container(cfg.get("claims") or OmegaConf.create({}))),
        folder / "claims.md",
        benchmark=cfg.benchmarks[0],
    )
    if conditions:
        from diffopd.report.comparison.wins_files import write_wins

        helpers = {row for run in rows for row in run.adapters.values()}
        trained = dict.fromkeys(run.row for run in rows if run.command is not None and run.row not in helpers)
        write_wins(
            conditions,
            judge_rows(conditions, runs, list(trained), benchmark=cfg.benchmarks[0]),
            folder,
            title=cfg.name,
            tables=page_tables(compared),
            pictures=[(folder / "images.png", "the same prompts and noise for every row")],
        )


if __name__ == "__main__":
    main()
