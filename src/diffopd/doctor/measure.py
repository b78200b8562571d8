"""A few real rounds of a run in a temporary folder."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from typing_extensions import override

from diffopd.build.experiment import Experiment, build
from diffopd.callbacks.throughput import peak_rss_bytes
from diffopd.check.source import constant
from diffopd.checkpoint.folder import list_checkpoints
from diffopd.checkpoint.place import DEFAULT
from diffopd.doctor.plan import Plan, is_fuller
from diffopd.doctor.prompts import CacheFilling, cache_filling
from diffopd.doctor.stopwatch import Clock, Stopwatch

FIRST, FULLER, PLAIN = "first", "fuller", "plain"
"""Kinds of rounds: the first, which warms up; those that also score for the log or measure the conflict of
the tasks' gradients; all others."""
_WHAT = {
    FIRST: "the first, which warms up",
    FULLER: "one that also scores for the log or measures the conflict of gradients",
    PLAIN: "one that does neither",
}
_QUIET_LOGGERS = ("ResumableCSVLogger", "TensorBoardLogger")
_LOGS = ("metrics.csv", "tensorboard")
_PROMPTS = "prompt_cache"
_TELLS_OF_FILES = "diffopd.callbacks.adapter_export"
"""Its lines name files that are about to be removed."""


@dataclass(frozen=True)
class MeasuredRound:
    """One round.

    Attributes:
        kind: ``first``, ``fuller`` or ``plain``.
        seconds: How long it took.
        parts: Name of a part -> seconds of them.
    """

    kind: str
    seconds: float
    parts: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a few rounds took.

    Attributes:
        rounds: Each kind once.
        save_seconds: Writing one checkpoint.
        checkpoint_bytes: Of one checkpoint; 0 if none is kept.
        end_bytes: Of what is written when training ends.
        log_bytes: Of the logs, for one round.
        peak_bytes: Most memory of one process: of the GPU if it runs on one, else resident.
        weight_bytes: Of these, the frozen and trained weights, and buffers such as a table of positions.
        filling: What filling the prompt cache takes.
        total_bytes: Memory there is.
        on_gpu: Whether memory means the GPU's.
    """

    rounds: Sequence[MeasuredRound]
    save_seconds: float
    checkpoint_bytes: int
    end_bytes: int
    log_bytes: int
    peak_bytes: int
    weight_bytes: int
    filling: CacheFilling
    total_bytes: int
    on_gpu: bool


@contextlib.contextmanager
def trial(cfg: DictConfig, plan: Plan) -> Iterator[Experiment]:
    """The training built in a temporary folder, which is removed at the end.

    Of several processes one is built, with its share of the prompts. Loggers that write elsewhere, and the
    progress display, are left out.

    Args:
        cfg: The composed config, checked.
        plan: Knows the number of processes.

    Raises:
        ConfigError: If the config cannot work.
    """
    with tempfile.TemporaryDirectory(prefix="diffopd_doctor_") as folder:
        yield build(trial_config(cfg, plan, folder))


def trial_config(cfg: DictConfig, plan: Plan, folder: str) -> DictConfig:
    """The config of the trial."""
    changed = copy.deepcopy(cfg)
    OmegaConf.set_struct(changed, False)
    OmegaConf.set_readonly(changed, False)
    changed.paths.run, changed.paths.checkpoints = folder, f"{folder}/checkpoints"
    if (changed.get("model") or {}).get("prompt_cache"):
        changed.model.prompt_cache = str(Path(folder) / _PROMPTS)  # the training's own stays as it is
    changed.pop("scorer_pairs", None)  # the doctor's own
    for group, keeps in (("logger", _is_quiet), ("callbacks", _is_not_noisy)):
        changed[group] = {name: node for name, node in changed[group].items() if keeps(node["_target_"])}
    # Nothing is written where the run itself writes, should that be outside its folder.
    for node in changed.logger.values():
        _move_into(folder, node, {"folder": folder, "save_dir": folder})
    for node in changed.callbacks.values():
        places = {"folder": f"{folder}/{DEFAULT}", "peft_folder": f"{folder}/adapter"}
        _move_into(folder, node, places | {"lora_folder": f"{folder}/lora"})
    _move_into(folder, changed.phase, {"output": f"{folder}/pipeline"})
    if plan.processes > 1:
        changed.trainer.update({"devices": 1, "num_nodes": 1, "strategy": "auto"})
        for entry in (changed.data.get("tasks") or {"": changed.data}).values():
            if "prompts_per_round" in entry:
                entry.prompts_per_round //= plan.processes
    return changed


def measure(
    experiment: Experiment,
    plan: Plan,
    clock: Clock = time.perf_counter,
    say: Callable[[str], None] = lambda line: None,
) -> Measured:
    """Time the encoding of prompts, then train a round of each kind there is.

    Args:
        experiment: Built by :func:`trial`; it is of no use afterwards.
        plan: Knows which kinds there are.
        clock: Seconds, rising.
        say: Told what is being done, a line each.
    """
    phase: Any = experiment.phase
    on_gpu = experiment.trainer.strategy.root_device.type == "cuda"

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return clock()

    stopwatch = Stopwatch(now)
    stopwatch.watch(phase)
    kinds = kinds_of_rounds(plan)
    watch = _Watch(kinds, stopwatch, now, say)
    callbacks: list[Callback] = experiment.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    callbacks.insert(0, watch)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    cache = (plan.values.get("model") or {}).get("prompt_cache")
    filling = cache_filling(phase, experiment.data, plan.rounds * plan.processes, cache, now, say)
    phase.encoded_rounds = len(kinds)
    with _quiet(_TELLS_OF_FILES):
        experiment.fit()
    checkpoints = list_checkpoints(experiment.folder / "checkpoints")
    logs = sum(size_of(experiment.folder / name) for name in _LOGS)
    kept = sum(map(size_of, checkpoints))
    return Measured(
        rounds=tuple(watch.rounds),
        save_seconds=watch.save_seconds,
        checkpoint_bytes=size_of(checkpoints[-1]) if checkpoints else 0,
        end_bytes=size_of(experiment.folder) - kept - logs - size_of(experiment.folder / _PROMPTS),
        log_bytes=logs // len(watch.rounds),
        peak_bytes=torch.cuda.max_memory_reserved() if on_gpu else peak_rss_bytes(),
        weight_bytes=sum(t.numel() * t.element_size() for t in (*phase.parameters(), *phase.buffers())),
        filling=filling,
        total_bytes=torch.cuda.mem_get_info()[1] if on_gpu else memory_bytes(),
        on_gpu=on_gpu,
    )


def kinds_of_rounds(plan: Plan) -> list[str]:
    """The first round, and one of each kind among those after it."""
    rest = plan.rounds - 1
    fuller = plan.fuller_rounds - is_fuller(plan.values, 0)
    return [FIRST] + [FULLER] * (fuller > 0) + [PLAIN] * (rest > fuller)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 if there is none."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def memory_bytes() -> int:
    """Memory of this machine, or what its control group may use of it."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(pages, int(text)) if text.isdigit() else pages


class _Watch(Callback):
    """Times a round of each kind, then stops the training, which saves a checkpoint as it always does."""

    def __init__(
        self, kinds: Sequence[str], stopwatch: Stopwatch, now: Clock, say: Callable[[str], None]
    ) -> None:
        self.rounds: list[MeasuredRound] = []
        self.save_seconds = 0.0
        self._kinds, self._stopwatch, self._now, self._say = kinds, stopwatch, now, say
        self._start = 0.0

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make it a round of the wanted kind; the first is what it is."""
        number = len(self.rounds)
        kind = self._kinds[number]
        self._say(f"measuring round {number + 1} of {len(self._kinds)} ({_WHAT[kind]})")
        phase: Any = pl_module
        if kind != FIRST and hasattr(phase, "due"):
            phase.due = lambda every_n_rounds: kind == FULLER and every_n_rounds > 0
        self._stopwatch.seconds.clear()
        self._start = self._now()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what it took."""
        end = self._now()
        seconds, parts = end - self._start, dict(self._stopwatch.seconds)
        self.rounds.append(MeasuredRound(self._kinds[len(self.rounds)], seconds, parts))
        self._start = end
        if len(self.rounds) == len(self._kinds):
            trainer.should_stop = True

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how long the last checkpoint took; what is written at the end is written after."""
        self.save_seconds = self._now() - self._start


def _move_into(folder: str, node: Any, places: Mapping[str, str]) -> None:
    """Change settings that name a place outside of ``folder``."""
    for key, place in places.items():
        if node.get(key) and not Path(str(node[key])).is_relative_to(folder):
            node[key] = place


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Have a logger say warnings alone."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _is_quiet(target: str) -> bool:
    return target.endswith(_QUIET_LOGGERS)


def _is_not_noisy(target: str) -> bool:
    return not constant(target, "left_out_of_trials")
