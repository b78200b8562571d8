"""A training once more from the config that its run saved: ``python -m diffopd.train from=<run folder>``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

CONFIG = "config.yaml"
FROM = "from="
PRIMARY = "train_from"


def from_arguments(arguments: Sequence[str], folder: Path) -> list[str]:
    """Arguments for Hydra, with ``from=<run folder>`` turned into a primary config made of the saved one.

    Everything is as it was saved, except where things are written: that follows from ``paths``, ``name`` and
    ``run_id`` as ever.

    Args:
        arguments: As on the command line.
        folder: Gets the primary config, if there is a ``from=``.

    Raises:
        ValueError: If the run's folder holds no config, or one that is no config.
    """
    given = [argument for argument in arguments if argument.startswith(FROM)]
    if not given:
        return list(arguments)
    run = Path(given[-1].removeprefix(FROM)).expanduser()
    file = run if run.is_file() else run / CONFIG
    if not file.is_file():
        raise ValueError(f"from={run}: there is no {file}; give the folder of a run")
    saved: Any = OmegaConf.to_container(OmegaConf.load(file))
    if not isinstance(saved, dict) or not isinstance(saved.get("paths"), dict):
        raise ValueError(f"from={run}: {file} is not the config of a run")
    primary = {
        "defaults": ["_self_", {"hydra": "default"}, {"override hydra/help": "train"}],
        **_moved(saved, str(saved["paths"].get("run")), "${paths.run}"),
    }
    primary["paths"] |= {"run": "${hydra:runtime.output_dir}", "checkpoints": "${.run}/checkpoints"}
    OmegaConf.save(OmegaConf.create(primary), folder / f"{PRIMARY}.yaml")
    others = [argument for argument in arguments if argument not in given]
    return ["--config-dir", str(folder), "--config-name", PRIMARY, *others]


def _moved(node: Any, old: str, new: str) -> Any:
    """The node with every path in the old run's folder in the new one's."""
    if isinstance(node, Mapping):
        return {key: _moved(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(f"{old}/")):
        return new + node.removeprefix(old)
    return node
