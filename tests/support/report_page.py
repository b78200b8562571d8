"""The page of many runs, made by its command."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir

from diffopd.config.folder import config_folder
from diffopd.report.__main__ import run as report_command


def page_of(folder: Path, *overrides: str) -> str:
    """The HTML of ``diffopd report`` on all runs of a folder, in its ``page``."""
    with initialize_config_dir(config_folder(), version_base="1.3"):
        cfg = compose(
            "report",
            overrides=[f"runs=['{folder}']", f"out={folder / 'page'}", f"paths.run={folder}", *overrides],
        )
    report_command(cfg)
    return (folder / "page" / "index.html").read_text(encoding="utf-8")
