"""Whether a run goes on from what its folder holds, or is finished already."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffopd.checkpoint import latest_valid_checkpoint, read_inputs
from diffopd.configs import HOW_TO_ASK, flat_settings
from diffopd.files import atomic_write_json
from diffopd.inputs import fingerprint

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
    "hardware",  # what it sets counts where it is set
    "run_id",
    "name",
)
_HARMLESS_SETTINGS = (
    "phase.score_in_background",
    "phase.score_every_n_rounds",  # scores for the log
    "phase.output",  # a folder, which may have been moved
    "model.prompt_cache",
    "model.decode_batch_size",
)
_HARMLESS_TRAINER = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "max_epochs",
    "max_time",
    "num_threads",
    "deterministic",
    "benchmark",
    "default_root_dir",
    "enable_*",
    "log_every_n_steps",
    "num_sanity_val_steps",
    "use_distributed_sampler",
    "profiler",
    "detect_anomaly",
)
"""How long, where and with what output a training runs; the rest of the trainer's settings counts."""
_SCHEDULED = "phase.warmup_steps"
"""A phase with this setting has a learning rate that falls to 0 in the last round, so their number counts."""
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
        check_same(cfg, folder, read_inputs(checkpoint))
        log.info("going on from %s", checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / CONFIG, resolve=True)
    return checkpoint


def mark_finished(
    folder: Path, max_rounds: int, recipe: Mapping[str, Any], inputs: Mapping[str, str]
) -> None:
    """Note in a run's folder that it is trained and reported.

    Args:
        folder: The run's folder.
        max_rounds: ``trainer.max_epochs``; with more, the run would go on.
        recipe: How it was made and what it cost.
        inputs: Fingerprints of the files it learned from.
    """
    noted = {"max_rounds": max_rounds, "recipe": recipe, "inputs": dict(inputs)}
    atomic_write_json(folder / FINISHED, noted)


def is_finished(cfg: DictConfig, folder: Path) -> bool:
    """Whether a folder holds the run of this config, trained and reported.

    Raises:
        ValueError: If the folder holds a run whose settings differ in what affects the result.
    """
    if cfg.resume == "never" or not (folder / FINISHED).is_file():
        return False
    noted = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
    check_same(cfg, folder, noted.get("inputs", {}))
    return noted["max_rounds"] == cfg.trainer.max_epochs


def check_same(cfg: DictConfig, folder: Path, inputs: Mapping[str, str]) -> None:
    """Compare a config with that of the run in a folder, and its files with those the run learned from.

    Args:
        cfg: The composed config.
        folder: The run's folder; one without a config is not compared.
        inputs: Fingerprints by config path. A path whose files are the same may have changed.

    Raises:
        ValueError: If something differs that affects the result, with all that does.
    """
    if not (folder / CONFIG).is_file():
        return
    before, now = _settings(OmegaConf.load(folder / CONFIG)), _settings(cfg)
    before = {key: value for key, value in _ADDED.items() if key in now} | before
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    values = OmegaConf.to_container(cfg, resolve=True)
    found = {setting: fingerprint(values, setting) for setting in inputs}  # type: ignore[arg-type]
    moved = [setting for setting in changed if setting in inputs and found[setting] == inputs[setting]]
    lines = [
        f"  {key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        + (", where other files are" if key in inputs else "")
        for key in changed
        if key not in moved
    ]
    lines += [
        f"  {setting}={now.get(setting)}: the files are others than before (SHA-256 {value[:12]}, now "
        f"{(found[setting] or 'nothing')[:12]})"
        for setting, value in sorted(inputs.items())
        if setting not in changed and found[setting] != value
    ]
    if lines:
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
    scheduled = any(path == _SCHEDULED for path, _ in kept)
    return {
        path: value
        for path, value in kept
        if path not in _REPEATED and (not _is_harmless(path) or (scheduled and path == "trainer.max_epochs"))
    }


def _is_harmless(path: str) -> bool:
    last = path.rpartition(".")[2]
    if path.startswith("trainer."):
        return any(fnmatchcase(path.split(".")[1], name) for name in _HARMLESS_TRAINER)
    of_reward = path.startswith(("reward.", "phase.held_out."))
    return path in _HARMLESS_SETTINGS or (of_reward and last in HOW_TO_ASK)


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
