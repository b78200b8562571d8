"""Whether a run goes on from what its folder holds, or is finished already."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffopd.checkpoint import latest_valid_checkpoint
from diffopd.configs import flat_settings
from diffopd.files import atomic_write_json

log = logging.getLogger(__name__)

MODES = ("auto", "never")
CONFIG = "config.yaml"
FINISHED = "finished.json"
_HARMLESS = (
    "callbacks",
    "logger",
    "paths",
    "report",
    "benchmark",
    "resume",
    "if_finished",
    "debug",
    "trainer",
    "hardware",  # what it sets counts where it is set
    "run_id",
    "name",
)
_HARMLESS_SETTINGS = ("phase.score_in_background", "model.prompt_cache")
HOW_TO_ASK = (
    "address",
    "token_variable",
    "timeout",
    "retries",
    "backoff",
    "concurrency",
    "images_per_request",
)
"""Settings of a reward that a server computes: a server that moves is still the same scorer."""
_KEPT_ASIDE = (
    "checkpoints",
    "metrics.csv",
    "tensorboard",
    "adapter",
    "lora",
    "report",
    "pipeline",
    CONFIG,
    FINISHED,
)

_ADDED = {
    "model.embedded_guidance": None,
    "model.step_distilled": False,
    "model.attention_backend": None,
    "model.compile": False,
    "model.vae_tiling": False,
    "model.offload_text_encoders": False,
}
"""Settings that came later -> what they were in a run whose config does not have them."""
_REPEATED = ("model.lora_modules",)
"""Settings that act through another one, which is compared."""


def find_checkpoint(cfg: DictConfig, folder: Path) -> Path | None:
    """The checkpoint to go on from, if any; then save the config of this run.

    With ``resume=auto`` the newest valid checkpoint in the run's folder is used, if it was made with the
    same settings. With ``resume=never`` what the folder holds is moved to ``previous_1``, ``previous_2``, ...

    Args:
        cfg: The composed config.
        folder: The run's folder.

    Raises:
        ValueError: If the folder holds a run whose settings differ in what affects the result.
    """
    if cfg.resume not in MODES:
        raise ValueError(f"resume={cfg.resume} is not known; choose auto or never")
    checkpoint = latest_valid_checkpoint(folder / "checkpoints")
    if checkpoint is not None and cfg.resume == "never":
        keep_aside(folder)
        checkpoint = None
    if checkpoint is not None:
        _check_same_settings(cfg, folder)
        log.info("going on from %s", checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / CONFIG, resolve=True)
    return checkpoint


def mark_finished(folder: Path, max_rounds: int, recipe: Mapping[str, Any]) -> None:
    """Note in a run's folder that it is trained and reported.

    Args:
        folder: The run's folder.
        max_rounds: ``trainer.max_epochs``; with more, the run would go on.
        recipe: How it was made and what it cost.
    """
    atomic_write_json(folder / FINISHED, {"max_rounds": max_rounds, "recipe": recipe})


def is_finished(cfg: DictConfig, folder: Path) -> bool:
    """Whether a folder holds the run of this config, trained and reported.

    Raises:
        ValueError: If the folder holds a run whose settings differ in what affects the result.
    """
    if cfg.resume == "never" or not (folder / FINISHED).is_file():
        return False
    _check_same_settings(cfg, folder)
    noted = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
    return noted["max_rounds"] == cfg.trainer.max_epochs


def _check_same_settings(cfg: DictConfig, folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        return
    before, now = _settings(OmegaConf.load(folder / CONFIG)), _settings(cfg)
    before = {key: value for key, value in _ADDED.items() if key in now} | before
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        lines = [f"  {key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}" for key in changed]
        raise ValueError(
            f"{folder} holds a run with other settings:\n"
            + "\n".join(lines)
            + "\nGive this run its own folder "
            "with run_id=..., or start anew with resume=never (the old files are kept aside)"
        )


def _settings(cfg: Any) -> dict[str, Any]:
    """What affects the result, flat: config path -> value."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    kept = flat_settings({k: v for k, v in plain.items() if k not in _HARMLESS})
    return {path: value for path, value in kept if not _is_harmless(path) and path not in _REPEATED}


def _is_harmless(path: str) -> bool:
    of_reward = path.startswith(("reward.", "phase.held_out."))
    return path in _HARMLESS_SETTINGS or (of_reward and path.rpartition(".")[2] in HOW_TO_ASK)


def keep_aside(folder: Path, names: Sequence[str] = _KEPT_ASIDE) -> None:
    """Move what a folder holds of a run to ``previous_1``, ``previous_2``, ... within it.

    Args:
        folder: The run's folder.
        names: Files and folders to move; those that are not there are passed over.
    """
    number = 1 + sum(1 for _ in folder.glob("previous_*"))
    aside = folder / f"previous_{number}"
    aside.mkdir()
    for name in names:
        if (folder / name).exists():
            (folder / name).rename(aside / name)
    log.info("resume=never: the run that was in %s is kept in %s", folder, aside)
