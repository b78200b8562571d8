"""What can be wrong with a run, found in its config, its teachers' metadata and the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

from diffopd.adapter import EMA, find_card
from diffopd.check import config_errors
from diffopd.check.setting import phase_takes
from diffopd.check.values import plain_values
from diffopd.doctor.cost import learns_from_rewards
from diffopd.doctor.device import device_findings, precision_findings
from diffopd.doctor.finding import Finding, Level
from diffopd.doctor.last_step import last_step_findings
from diffopd.doctor.own_teacher import own_teacher_findings
from diffopd.doctor.pictures import picture_findings
from diffopd.doctor.plan import Plan
from diffopd.doctor.too_short import length_of_run_findings
from diffopd.evaluation import disagreements
from diffopd.files.paths import existing_parent, why_not_writable
from diffopd.model import PipelineModel
from diffopd.model.prompt_length import most_tokens, too_long
from diffopd.report.run.known_scores import base_scores
from diffopd.teacher import Estimate, TeacherCard

GIB = 1024**3


@config_errors()
def cheap_findings(cfg: DictConfig, phase: Any) -> list[Finding]:
    """What ``train`` looks at by itself: everything that needs neither a round nor a score.

    Args:
        cfg: The composed config, checked.
        phase: The phase built of it.

    Raises:
        ConfigError: If a card or a prompt file cannot be read.
    """
    plan = Plan.of(plain_values(cfg))
    found = [*early_findings(plan), *length_findings(plan, phase)]
    if (size := estimated_checkpoint(phase)) is not None:
        found += disk_findings(plan.values["paths"]["run"], size * plan.num_kept)
    return found


def early_findings(plan: Plan) -> Iterator[Finding]:
    """Everything that is known before anything is built."""
    values = plan.values
    yield from device_findings(values)
    yield from precision_findings(values)
    yield from share_findings(plan)
    yield from group_findings(plan)
    yield from prompt_findings(plan)
    yield from teacher_findings(values)
    yield from own_teacher_findings(values)
    yield from last_step_findings(values)
    yield from picture_findings(values)
    yield from average_findings(plan)
    yield from length_of_run_findings(plan)
    yield folder_finding(values["paths"]["run"])


def share_findings(plan: Plan) -> Iterator[Finding]:
    """Do the prompts divide among the processes, and a process's rows among micro-batches?"""
    for task in plan.tasks:
        if task.prompts_per_round % plan.processes:
            yield Finding(
                Level.FAILURE,
                "batch",
                f"{task.setting}.prompts_per_round={task.prompts_per_round} must be a multiple of "
                f"the number of processes, {plan.processes}",
            )
    rows = plan.rows_per_round // plan.processes
    size = plan.values["phase"].get("micro_batch_size")
    if size and rows % size:
        yield Finding(
            Level.WARNING,
            "batch",
            f"phase.micro_batch_size={size} does not divide the {rows} samples of a process, so the last "
            f"micro-batch has {rows % size}; a divisor uses the device evenly",
        )
    elif plan.tasks:
        yield Finding(Level.FINE, "batch", f"{rows} samples per process, {size or rows} in one forward")


def group_findings(plan: Plan) -> Iterator[Finding]:
    """Can samples of one prompt be compared, where rewards are learned from?"""
    if not learns_from_rewards(plan.values):
        return
    for task in plan.tasks:
        if task.group_size < 2:
            yield Finding(
                Level.FAILURE,
                "group",
                f"{task.setting}.group_size={task.group_size}: without a second sample of its prompt "
                "a sample is compared with those of other prompts, so images of easy prompts look better; "
                "use at least 2, better 8 or more",
            )
        else:
            yield Finding(Level.FINE, "group", f"{task.group_size} samples of each {task.task} prompt")


def average_findings(plan: Plan) -> Iterator[Finding]:
    """Does the average, which is exported, move at all?"""
    ema = plan.values["phase"].get("ema")
    if not ema or plan.cost is None or not phase_takes(plan.values, "adapter"):
        return
    moves, updates = EMA(**ema).moves(plan.cost.updates), plan.cost.updates
    if moves == 0:
        yield Finding(
            Level.WARNING,
            "average",
            f"phase.ema.update_interval={ema['update_interval']}: the average is not updated within the "
            f"{updates} updates of this run, so the student itself is exported; train longer or set "
            "phase.ema.update_interval=1",
        )


def prompt_findings(plan: Plan) -> Iterator[Finding]:
    """Are there as many prompts as a round takes?"""
    for task in plan.tasks:
        if task.number < task.prompts_per_round:
            where = "its file has" if task.kind == "prompts" else "there are"
            yield Finding(
                Level.WARNING,
                task.kind,
                f"a round takes {task.prompts_per_round} {task.kind} of {task.task}, {where} "
                f"{task.number}, so some are used twice in a round",
            )


def length_findings(plan: Plan, phase: Any) -> Iterator[Finding]:
    """Do the text encoders read the prompts to their ends?"""
    if not isinstance(getattr(phase, "model", None), PipelineModel):
        return
    for task in plan.tasks:
        if long := too_long(phase.model, task.texts):
            yield Finding(
                Level.WARNING,
                "prompts",
                f"{len(long)} of {len(task.texts)} {_WORDED[task.kind]} of {task.task} are longer than the "
                f"{most_tokens(phase.model)} tokens that the encoder reads, so they are truncated; the "
                f"first: {long[0]!r}",
            )


_WORDED = {"prompts": "prompts", "pictures": "captions"}


def teacher_findings(values: Mapping[str, Any]) -> Iterator[Finding]:
    """Does each teacher beat the base model on its own task at its guidance, as the cards say?"""
    if not phase_takes(values, "teacher"):
        return
    for name, entry in ((values.get("teacher") or {}).get("teachers") or {}).items():
        setting, path = f"teacher.teachers.{name}.path", str(entry["path"])
        place = find_card(path)
        if place is None:
            yield Finding(Level.NOTE, f"teacher {name}", f"{path} has no card.json, so no known scores")
            continue
        card = TeacherCard.load(place.parent, setting=setting)
        yield _compared(name, card, entry["guidance_scale"], values["model"]["path"])


def _compared(name: str, card: TeacherCard, asked_scale: float | None, model_path: str) -> Finding:
    """One teacher's best known score beside the base's."""
    about, scale = f"teacher {name}", card.guidance_scale
    if asked_scale is not None and asked_scale != scale:
        text = f"used at guidance {asked_scale:g}, but its recorded scores are at {scale:g} and say little"
        return Finding(Level.NOTE, about, text)
    own = card.task.split("+")
    pairs: list[tuple[str, str, Estimate, Estimate]] = []
    for benchmark, scores in card.scores.items():
        base = base_scores(model_path, benchmark, scale)
        pairs += [
            (benchmark, task, scores[task], base[task])
            for task in own
            if task in scores
            and task in base
            and not disagreements(scores[task].conditions, base[task].conditions)
        ]
    if not pairs:
        text = (
            f"the card.json of teacher and base have no score on {card.task} at guidance {scale:g} that was "
            "measured alike; python -m diffopd.evaluate computes both"
        )
        return Finding(Level.NOTE, about, text)
    benchmark, task, taught, base = min(pairs, key=lambda pair: (pair[2].mean - pair[3].mean, pair[0]))
    shown = f"{taught.mean:.3f}, base {base.mean:.3f} on {task} ({benchmark}, guidance {scale:g})"
    if taught.mean <= base.mean:
        text = f"does not beat the base on its own task: {shown}; there is nothing to learn from it"
        return Finding(Level.WARNING, about, text)
    if taught.low is None and base.high is None:
        return Finding(Level.NOTE, about, f"{shown}; there are too few prompts for an interval")
    if (taught.mean if taught.low is None else taught.low) <= (base.mean if base.high is None else base.high):
        return Finding(Level.NOTE, about, f"{shown}; the 95 % intervals overlap")
    return Finding(Level.FINE, about, shown)


def folder_finding(folder: str) -> Finding:
    """Can the run's folder be written to?"""
    if why := why_not_writable(folder):
        return Finding(Level.FAILURE, "run folder", f"paths.run={folder}: {why}; choose another paths.root")
    return Finding(Level.FINE, "run folder", f"{folder} can be written")


_LESS = {
    "disk": "free some space, choose another paths.root, or a smaller callbacks.round_checkpoint.keep_last",
    "prompt cache": "free some space, choose another model.prompt_cache or a shorter model.text_length",
}


def disk_findings(folder: str, needed: int, *, about: str = "disk") -> Iterator[Finding]:
    """Is there room for what will be kept in a folder?

    Args:
        folder: Of the run, or of encoded prompts.
        needed: Bytes.
        about: What is kept: ``disk`` (a run) or ``prompt cache``.
    """
    free = shutil.disk_usage(existing_parent(folder)).free
    shown = f"about {needed / GIB:.2f} GiB needed, {free / GIB:.2f} GiB free at {folder}"
    if free < needed:
        yield Finding(Level.FAILURE, about, f"{shown}; {_LESS[about]}")
    elif free < 2 * needed:
        yield Finding(Level.WARNING, about, f"{shown}; other runs may fill the rest")
    else:
        yield Finding(Level.FINE, about, shown)


def estimated_checkpoint(phase: Any) -> int | None:
    """Bytes of a checkpoint of a phase that trains policies; None for others.

    The policies it keeps, and two running means for each trained parameter, as AdamW has.
    """
    if not hasattr(phase, "policies"):
        return None
    saved = [p for policy in phase.policies.values() for p in policy.weights().values()]
    trained = [p for p in phase.parameters() if p.requires_grad]
    return sum(p.numel() * p.element_size() for p in [*saved, *trained, *trained])
