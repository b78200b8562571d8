"""Run the ablations side by side: ``python -m diffopd.ablations``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

from pathlib import Path

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command.program import command


@command("ablations")
@config_errors()
def main(cfg: DictConfig) -> None:
    """Check every training, run what is not there yet, report."""
    from diffopd.run.lock import locked

    with locked(Path(cfg.paths.run)):
        run(cfg)


def run(cfg: DictConfig) -> None:
    """Run the ablations ``cfg`` names; what is finished already is not trained again."""
    from diffopd.files.atomic import atomic_write_json
    from diffopd.jobs.cells import index_of, jobs_of, read_cells, report_jobs, scoring_jobs
    from diffopd.jobs.side_by_side import finish

    folder = Path(cfg.paths.run)
    cells = read_cells(cfg, folder)
    first = {name: overrides for trainings in cfg.first.values() for name, overrides in trainings.items()}
    jobs = jobs_of(cells, first, folder)
    atomic_write_json(folder / "index.json", index_of(cells))
    print(f"{len(jobs)} runs for {len({cell.ablation for cell in cells})} ablations", flush=True)
    lines = cfg.seconds_per_line
    finish(jobs, num_processes=cfg.num_processes, seconds_per_line=lines)
    benchmarks = list(cfg.more_benchmarks)
    scorings = scoring_jobs(cells, benchmarks, list(cfg.guidance), cfg.threads_each)
    finish(scorings, num_processes=cfg.num_processes, seconds_per_line=lines)
    reports = report_jobs(
        cells, folder, benchmark=benchmarks[0] if benchmarks else "mini", running_mean=cfg.running_mean
    )
    finish(reports, num_processes=1, seconds_per_line=lines)


if __name__ == "__main__":
    main()
