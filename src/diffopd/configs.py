"""Where the configs are: in the wheel beside the code, in a checkout at the top level."""

from __future__ import annotations

from pathlib import Path


def config_folder() -> str:
    """Absolute path of ``conf/``."""
    package = Path(__file__).resolve().parent
    candidates = (package / "conf", package.parents[1] / "conf")
    found = next((folder for folder in candidates if (folder / "train.yaml").is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no train.yaml in {' or '.join(map(str, candidates))}; reinstall diffopd")
    return str(found)
