"""A few real rounds of a run in a temporary folder."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from diffopd.doctor.prompts import CacheFilling, cache_filling, picture_encoding
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
_QUIET = {
    "diffopd.callbacks.adapter_export": logging.WARNING,
    "diffopd.callbacks.context_probe": logging.ERROR,
}
"""Loggers whose lines name files that are about to be removed, or say what a finding says."""


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
        parts: What the peak is made of as far as it is known, in bytes: the weights by what they are, the
            gradients, the optimizer's means. Empty for a phase without policies.
        picture_seconds: Encoding captions and shown pictures in the whole run; the rounds are without it.
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
    parts: Mapping[str, int] = field(default_factory=dict)
    picture_seconds: float = 0.0


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
        if "if_no_help" in node:  # what ends a run is a finding here
            node.if_no_help = "warn"
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
    watch = _Watch(kinds, stopwatch, now, say, plan.rounds * plan.processes)
    callbacks: list[Callback] = experiment.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    callbacks.insert(0, watch)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    cache = (plan.values.get("model") or {}).get("prompt_cache")
    filling = cache_filling(phase, experiment.data, plan.rounds * plan.processes, cache, now, say)
    phase.encoded_rounds = len(kinds)
    with contextlib.ExitStack() as stack:
        for name, level in _QUIET.items():
            stack.enter_context(_quiet(name, level))
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
        parts=memory_parts(phase, experiment.trainer.optimizers),
        picture_seconds=watch.picture_seconds,
    )


def memory_parts(phase: Any, optimizers: Sequence[Any]) -> dict[str, int]:
    """Bytes of a phase's policies and of what training adds to them; empty for a phase without policies.

    Args:
        phase: After an update.
        optimizers: Its optimizers.
    """
    if not hasattr(phase, "policies"):
        return {}
    trained, copies, gradients = 0, 0, 0
    for policy in phase.policies.values():
        for parameter in policy.weights().values():
            size = parameter.numel() * parameter.element_size()
            trained, copies = (
                (trained + size, copies) if parameter.requires_grad else (trained, copies + size)
            )
            gradients += size * parameter.requires_grad
    whole = sum(t.numel() * t.element_size() for t in (*phase.parameters(), *phase.buffers()))
    means = sum(
        value.numel() * value.element_size()
        for optimizer in optimizers
        for state in getattr(optimizer, "state", {}).values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    return {
        "frozen weights": whole - trained - copies,
        "trained weights": trained,
        "averages of them": copies,
        "gradients": gradients,
        "optimizer": means,
    }


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
        self,
        kinds: Sequence[str],
        stopwatch: Stopwatch,
        now: Clock,
        say: Callable[[str], None],
        num_rounds: int,
    ) -> None:
        self.rounds: list[MeasuredRound] = []
        self.save_seconds = self.picture_seconds = 0.0
        self._num_rounds = num_rounds
        self._kinds, self._stopwatch, self._now, self._say = kinds, stopwatch, now, say
        self._start = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode before the rounds what they would encode in the first pass alone."""
        data = getattr(trainer, "datamodule", None)
        self.picture_seconds = picture_encoding(
            pl_module, data, len(self._kinds), self._num_rounds, self._now
        )

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
def _quiet(name: str, level: int) -> Iterator[None]:
    """Have a logger say nothing below a level."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def _is_quiet(target: str) -> bool:
    return target.endswith(_QUIET_LOGGERS)


def _is_not_noisy(target: str) -> bool:
    return not constant(target, "left_out_of_trials")
