"""Is the class that a config names of the kind that belongs in its place? Read from its source."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from diffopd.check.ancestry import ancestors, members
from diffopd.check.source import innermost_module, is_module, read_target


@dataclass(frozen=True)
class Kind:
    """What a place takes.

    Attributes:
        name: In words, with its article.
        base: The class that it must derive from, or None.
        needed: Methods that it must have.
    """

    name: str
    base: str | None = None
    needed: tuple[str, ...] = ()


_OPTIMIZER = Kind("a torch optimizer", "torch.optim.optimizer.Optimizer")

KINDS: Mapping[str, Kind] = {
    "optimizer": _OPTIMIZER,
    "phase.fake_optimizer": _OPTIMIZER,
    "phase": Kind("a LightningModule", "lightning.pytorch.core.module.LightningModule"),
    "data": Kind("a LightningDataModule", "lightning.pytorch.core.datamodule.LightningDataModule"),
    "trainer": Kind("a Lightning Trainer", "lightning.pytorch.trainer.trainer.Trainer"),
    "trainer.strategy": Kind("a Lightning Strategy", "lightning.pytorch.strategies.strategy.Strategy"),
    "callbacks.*": Kind("a Lightning Callback", "lightning.pytorch.callbacks.callback.Callback"),
    "logger.*": Kind("a Lightning Logger", "lightning.pytorch.loggers.logger.Logger"),
    "model": Kind("a model", needed=("velocity", "encode", "decode")),
    "adapter": Kind("an adapter", "diffopd.adapter.shape.Shape"),
    "sampler": Kind("a sampler", needed=("rollout",)),
    "benchmark.sampler": Kind("a sampler", needed=("rollout",)),
    "states": Kind("a choice of states", needed=("steps",)),
    "loss": Kind("a loss", needed=("__call__",)),
    "regulariser.loss": Kind("a loss", needed=("__call__",)),
    "estimator": Kind("an estimator", needed=("__call__",)),
    "reward": Kind("a reward", needed=("__call__",)),
    "reward.rewards.*": Kind("a reward", needed=("__call__",)),
    "phase.held_out.*": Kind("a reward", needed=("__call__",)),
    "context": Kind("a context", "diffopd.context.base.Context"),
    "teacher.context": Kind("a context", "diffopd.context.base.Context"),
    "teacher": Kind("a set of teachers", needed=("check",)),
    "regulariser": Kind("a regularizer", needed=("check",)),
    "metric": Kind("a metric", "torchmetrics.metric.Metric"),
}
"""Place of a config -> what stands there. A function of the user's own may stand for a class with methods."""

NO_FIT: Mapping[str, str] = {
    "torch.optim.LBFGS": "it evaluates the loss several times in a step, for which a phase has one gradient",
    "torch.optim.SparseAdam": "it takes sparse gradients alone, and an adapter's are dense",
}
"""What has the right base and cannot be used all the same -> why."""


def interface_problems(path: str, node: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the class that one node names, beyond its settings."""
    if "_args_" in node:
        yield f"{path}._args_ is not a setting: arguments are given by their names"
    name = node.get("_target_")
    if not isinstance(name, str):
        return
    setting = f"{path}._target_={name}"
    kind = next((kind for place, kind in KINDS.items() if _at(path, place)), None)
    must_be = f" must be {kind.name}" if kind else ""
    if name.partition(".")[0] in sys.stdlib_module_names:
        yield f"{setting} is Python's own{f', and{must_be}' if kind else ': nothing is built from that'}"
    elif is_module(name):
        yield f"{setting} is a module; name a class in it"
    elif name in NO_FIT:
        yield f"{setting} cannot be used: {NO_FIT[name]}; choose another, such as torch.optim.AdamW"
    elif kind is not None and not _fits(name, kind):
        missing = [method for method in kind.needed if method not in (members(name) or ())]
        has_no = f"; it has no {', '.join(missing)}" if missing else f", derived from {kind.base}"
        yield f"{setting}{must_be}{has_no}"


def _at(path: str, place: str) -> bool:
    return path.count(".") == place.count(".") and fnmatchcase(path, place)


def _fits(name: str, kind: Kind) -> bool:
    """Whether a class is of a kind, or its source does not tell."""
    if innermost_module(name) is None:
        return True
    if kind.base is not None:
        target, known = read_target(name), ancestors(name)
        if known is None:  # a function, or a base whose source is out of sight
            return target is None or not target.function
        return kind.base in known
    found = members(name)
    return found is None or set(kind.needed) <= found
