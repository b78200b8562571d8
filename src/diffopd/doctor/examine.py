"""The examination from the plan to the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from diffopd.check import config_errors
from diffopd.check.source import constant
from diffopd.check.values import plain_values
from diffopd.doctor.all_weights import all_weights_findings
from diffopd.doctor.checks import disk_findings, early_findings, length_findings
from diffopd.doctor.context import context_findings
from diffopd.doctor.cost import learns_from_rewards
from diffopd.doctor.finding import Finding, Level, exit_code, findings_table
from diffopd.doctor.measure import measure, trial
from diffopd.doctor.plan import Plan
from diffopd.doctor.prediction import Prediction
from diffopd.doctor.scorers import configured_scorers, scorer_findings


def examine(cfg: DictConfig, console: Console | None = None) -> int:
    """Print the plan of a run, a prediction from a few real rounds, and the problems found.

    Args:
        cfg: The composed config, checked.
        console: Where to write; standard output when None.

    Returns:
        Exit code: 0 no problem found, 1 warnings, 2 the run would fail.

    Raises:
        ConfigError: If a prompt file, a card or an image cannot be read.
    """
    console = console or Console()
    with config_errors():
        plan = Plan.of(plain_values(cfg))
        console.print(plan.to_rich())
        findings = [*early_findings(plan), *all_weights_findings(plan.values)]
        if exit_code(findings) < 2:
            findings += _tried(cfg, plan, console)
    console.print(findings_table(findings))
    return exit_code(findings)


def _tried(cfg: DictConfig, plan: Plan, console: Console) -> Iterator[Finding]:
    """Build the training, have its rewards score, run some rounds; whatever goes wrong is a finding."""
    strategy = plan.values["trainer"].get("strategy")
    if isinstance(strategy, Mapping) and constant(strategy.get("_target_"), "divides_backbone"):
        text = "not measured: with trainer=sharded no process holds the whole model"
        yield Finding(Level.WARNING, "measured rounds", text)
        return
    pairs: Any = OmegaConf.to_container(cfg.get("scorer_pairs") or OmegaConf.create(), resolve=True)
    try:
        yield from _measured(cfg, plan, pairs, console)
    except torch.OutOfMemoryError as error:
        text = (
            f"a round does not fit into the GPU's memory ({_first_line(error)}); set a smaller "
            "phase.micro_batch_size"
        )
        yield Finding(Level.FAILURE, "memory", f"{text}, or model.gradient_checkpointing=true")
    except Exception as error:  # what stops a round would stop the training
        if cfg.debug:
            raise
        text = f"{type(error).__name__}: {error} (debug=true shows the traceback)"
        yield Finding(Level.FAILURE, "measured rounds", text)


def _measured(
    cfg: DictConfig, plan: Plan, pairs: Mapping[str, Mapping[str, Any]], console: Console
) -> Iterator[Finding]:
    with trial(cfg, plan) as experiment:
        scorers = configured_scorers(experiment, learns_from_rewards(plan.values))
        yield from length_findings(plan, experiment.phase)
        size = getattr(getattr(experiment.phase, "model", None), "size", None)
        side = min(size) if size else None
        found = list(scorer_findings(scorers, pairs, side=side))
        yield from found
        if exit_code(found) == 2:
            return
        prediction = Prediction.of(plan, measure(experiment, plan, say=console.print))
        yield from context_findings(experiment.trainer.callbacks, plan.values)  # pyright: ignore[reportAttributeAccessIssue]
    console.print(prediction.to_rich())
    yield from prediction.findings()
    yield from disk_findings(plan.values["paths"]["run"], round(sum(prediction.disk.values())))
    if prediction.filling.num_prompts:
        cache = plan.values["model"]["prompt_cache"]
        yield from disk_findings(cache, prediction.filling.bytes, about="prompt cache")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
