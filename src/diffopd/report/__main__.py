"""Any set of runs as one HTML page: ``python -m diffopd.report runs=runs/mopd_*``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command.program import command


@command("report")
@config_errors()
def main(cfg: DictConfig) -> None:
    """Read the runs, test the claims, write the page."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Make the page ``cfg`` asks for."""
    from omegaconf import OmegaConf

    from diffopd.report.methods.claims import read_claims
    from diffopd.report.methods.find import find_runs
    from diffopd.report.methods.page import PageSettings, write_page
    from diffopd.report.run.page import shown_path

    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    if not isinstance(cfg.running_mean, int) or cfg.running_mean < 1 or cfg.running_mean % 2 == 0:
        raise ValueError(f"running_mean={cfg.running_mean} must be an odd whole number of at least 1")
    if not isinstance(cfg.num_images, int) or cfg.num_images < 1:
        raise ValueError(f"num_images={cfg.num_images} must be a whole number of at least 1")
    claims = read_claims(plain["claims"] or {})
    runs = find_runs([plain["runs"]] if isinstance(plain["runs"], str) else plain["runs"])
    page, verdicts, seeds = write_page(
        runs,
        claims,
        Path(cfg.out),
        PageSettings(
            title=cfg.title,
            labels=plain["labels"] or {},
            benchmark=cfg.benchmark_name,
            window=cfg.running_mean,
            num_images=cfg.num_images,
            include_unfinished=cfg.include_unfinished,
            test=cfg.test,
            keep_data=cfg.keep_data,
        ),
    )
    for table in seeds:
        print(table.to_markdown())
    for verdict in (verdict for verdict in verdicts if not verdict.no_runs):
        at = "" if verdict.guidance is None else f", guidance {verdict.guidance:g}"
        p = "" if verdict.p is None else f"Holm p {verdict.shown_p}; "
        print(f"{verdict.claim.id}{at}: {verdict.outcome} ({p}{verdict.reason})")
    if hidden := sum(verdict.no_runs for verdict in verdicts):
        what = "one more claim is about methods" if hidden == 1 else f"{hidden} more claims are about methods"
        print(f"{what} that these runs do not have (claims=none leaves claims out)")
    for unfinished in (run for run in runs if not run.finished):
        print(f"not finished: {unfinished.folder}")
    print(f"open {shown_path(page)}")


if __name__ == "__main__":
    main()
