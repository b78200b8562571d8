"""README's picture and the demo page's, from a run: ``python experiments/mopd_ode/strip.py runs/mopd_ode/seed0``.

The run's report has chosen the prompts (docs/report.md, "Which prompts pictures show"), so nothing is chosen here. Its
``report/samples.png`` becomes docs/images/demo_samples.png as it is; on its side, a row per model, it becomes
docs/images/demo_strip.png.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from diffopd.files.png import save_png
from diffopd.files.sample_sheet import SHEET, read_sheet

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SAMPLES, STRIP = "demo_samples.png", "demo_strip.png"


def make(run: Path, images: Path) -> None:
    """Write both pictures.

    Args:
        run: Folder of a run with a report.
        images: Folder that gets them.
    """
    sheet = read_sheet(run / "report" / SHEET)
    shutil.copyfile(run / "report" / SHEET, images / SAMPLES)
    save_png(sheet.strip(), images / STRIP)
    print(f"{images / SAMPLES}\n{images / STRIP}\n{sheet.rule}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("give the folder of a run, as in python experiments/mopd_ode/strip.py runs/mopd_ode/seed0")
    make(Path(sys.argv[1]), IMAGES)
