"""What becomes of a command line: two rounds, a refusal in the user's words, or something else."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning.pytorch import Callback
from omegaconf import OmegaConf

from diffopd.build.experiment import build
from diffopd.check import COMPOSITION_ERRORS, ConfigError, check_config, explain_composition
from diffopd.command.program import why_stopped
from support.fuzz.mutation import CONF, Case
from support.tiny_runs import TinyWorld

ROUNDS = 2
STEPS_PER_ROUND = 2
"""Batches of a round that are taken, where a round has more than one."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: The command line.
        kind: ``ran``, ``refused`` or ``other``.
        text: The message, or the traceback.
        seconds: Time it took.
    """

    case: Case
    kind: str
    text: str
    seconds: float


class TwoRounds(Callback):
    """Ends a training after two rounds, and a round after two batches."""

    def __init__(self) -> None:
        self.done = 0

    def on_train_batch_start(self, trainer: Any, *_: Any) -> int | None:
        """Skip the rest of a round."""
        return -1 if trainer.fit_loop.epoch_loop.batch_idx >= STEPS_PER_ROUND else None

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        """Count the round."""
        self.done += 1
        trainer.should_stop = trainer.should_stop or self.done >= ROUNDS


def outcome_of(case: Case, world: TinyWorld, folder: Path) -> Outcome:
    """Compose, check, build and run a case in ``folder``, which is empty afterwards."""
    start = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    with _at(folder):
        try:
            kind, text = "ran", _run(case, world)
        except ConfigError as error:
            kind, text = "refused", str(error)
        except Exception as error:
            told = why_stopped(error)  # as the command tells it, without a traceback
            kind, text = ("refused", told) if told else ("other", traceback.format_exc())
    shutil.rmtree(folder, ignore_errors=True)
    if kind != "refused":
        gc.collect()  # modules hold each other, and would stay
    if kind == "refused" and not _is_clear(text):
        kind = "other"
        text = f"unclear message: {text}"
    return Outcome(case, kind, text, time.perf_counter() - start)


def _run(case: Case, world: TinyWorld) -> str:
    overrides = [
        f"+experiment={case.experiment}",
        "paths.run=run",
        "paths.root=.",
        *_small(case.experiment, world),
        *case.changes,
    ]
    cfg = _composed(overrides)
    check_config(cfg)
    trainer: Any = OmegaConf.to_container(cfg.trainer, resolve=True)
    if trainer.get("devices") not in (1, "auto", "1") or trainer.get("num_nodes", 1) != 1:
        cfg = _composed([*overrides, "trainer.devices=1", "++trainer.num_nodes=1", "trainer.strategy=auto"])
        check_config(cfg)
    experiment = build(cfg)
    watch = TwoRounds()
    callbacks: Any = experiment.trainer
    callbacks.callbacks.append(watch)
    experiment.fit()
    assert watch.done == min(ROUNDS, experiment.trainer.max_epochs or ROUNDS), f"{watch.done} rounds"
    return f"{watch.done} rounds, {experiment.trainer.global_step} updates"


def _composed(overrides: list[str]) -> Any:
    """As ``diffopd.command.program`` does it."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", overrides=overrides)
    except COMPOSITION_ERRORS as error:
        GlobalHydra.instance().clear()
        raise ConfigError(explain_composition(error, "train", overrides)) from error


def _small(experiment: str, world: TinyWorld) -> list[str]:
    small = world.overrides(experiment)
    if experiment == "gradient_variance":  # has neither rewards nor rows to spare
        small = [*small, "phase.num_draws=8", "phase.group_sizes=[1,2]", "trainer.max_epochs=4"]
        small = [override for override in small if override != "trainer.max_epochs=2"]
    return [*small, "callbacks.round_progress.seconds_per_line=1000", "trainer.num_threads=1"]


def _is_clear(message: str) -> bool:
    """Whether a message names a place of the config."""
    keys = {file.stem for file in CONF.iterdir()} | {
        "seed", "resume", "if_finished", "debug", "name", "override", "interpolation", "run_id",
    }  # fmt: skip
    return bool(message.strip()) and any(key in message for key in keys)


@contextlib.contextmanager
def _at(folder: Path) -> Iterator[None]:
    """In ``folder``, with nothing printed, and torch left as it was."""
    before, threads, level = Path.cwd(), torch.get_num_threads(), logging.root.manager.disable
    os.chdir(folder)
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
        os.chdir(before)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        GlobalHydra.instance().clear()
