"""The paper's Table 1 with your own rows: ``python -m diffopd.paper_table '+models.mine={...}'``."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below take their time
    from diffopd.host.start import begin

    begin()

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig

from diffopd.check import config_errors
from diffopd.command.program import command


@command("paper_table")
@config_errors()
def main(cfg: DictConfig) -> None:
    """Read results, set them beside the paper's, write the table."""
    run(cfg)


def run(cfg: DictConfig) -> None:
    """Make the table ``cfg`` asks for."""
    from omegaconf import OmegaConf

    from diffopd.report.comparison.paper_rows import own_row, read_reference
    from diffopd.report.comparison.paper_table import PaperTable

    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    columns = plain["columns"]
    reference = read_reference(plain["reference"]) if plain["reference"] else None
    rows = [
        own_row(name, entry["results"], columns, hours=entry["hours"])
        for name, entry in plain["models"].items()
    ]
    table = PaperTable.of(rows, reference, list(columns))
    print(table.to_markdown())
    for label, path in table.write(Path(cfg.paths.run)).items():
        print(f"{label + ':':<9} {path}")


if __name__ == "__main__":
    main()
