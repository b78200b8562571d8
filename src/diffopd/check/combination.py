"""Do the choices of a training go together?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffopd.check.chosen import lacks as _lacks
from diffopd.check.chosen import target_of as _target
from diffopd.check.picture_choices import picture_problems
from diffopd.check.processes import process_problems
from diffopd.check.prompts import reward_is_asked
from diffopd.check.setting import Groups, phase_takes
from diffopd.check.signal import LEARNS_FROM_REWARDS
from diffopd.check.source import constant, read_target
from diffopd.check.tasks import tasks_of
from diffopd.check.trained_steps import step_problems


def combination_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Choices that are sound on their own and not together, as one sentence each."""
    yield from choice_problems(values)
    yield from step_problems(values)


def choice_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Those of them for which nothing is built."""
    yield from _guidance(values)
    if not isinstance(values.get("phase"), Mapping):
        return
    yield from _updates(values)
    yield from _timesteps(values)
    yield from _tasks(values)
    yield from _examples(values)
    yield from _buckets(values)
    yield from picture_problems(values)
    yield from _reward(values)
    yield from _prompt_filter(values)
    yield from _context(values)
    yield from _report(values)
    yield from process_problems(values)


def _guidance(values: Mapping[str, Any]) -> Iterator[str]:
    """A guidance-distilled model takes no guidance scale other than 1."""
    model = values.get("model")
    if not isinstance(model, Mapping) or model.get("step_distilled") is not True:
        return
    if not phase_takes(values, "model"):
        return
    sampler = values.get("sampler") if phase_takes(values, "sampler") else None
    teacher = values.get("teacher") if phase_takes(values, "teacher") else None
    given = {
        "model.guidance_scale": model.get("guidance_scale"),
        "sampler.guidance_scale": (sampler or {}).get("guidance_scale"),
        "phase.loss_guidance_scale": (values.get("phase") or {}).get("loss_guidance_scale"),
        "teacher.guidance_scale": (teacher or {}).get("guidance_scale"),
        "guidance_scale": values.get("guidance_scale"),
    }
    for place, scale in given.items():
        if isinstance(scale, int | float) and scale != 1:
            yield (
                f"{place}={scale:g}, but model.step_distilled=true: a guidance-distilled model takes no "
                f"other scale; set {place}=1, or load its base model with model.step_distilled=false"
            )


def loss_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """A loss learns from what its phase has to offer."""
    phase, loss = _target(values, "phase"), _target(values, "loss")
    offered, needed = constant(phase, "supervision"), constant(loss, "supervision")
    if offered and needed and offered != needed:
        groups = Groups.read()
        fitting = {
            "teacher": "choose loss=opd",
            "advantage": "choose loss=diffusion_nft, loss=ram or loss=rvm",
            "transition_advantage": "choose loss=flow_grpo or loss=grpo_guard",
            "branches": "choose loss=self_opd",
            "data": "choose loss=flow_matching",
            "preference": "choose loss=dpo",
            "distribution": "choose loss=dmd",
            "trajectory_distribution": "choose loss=tdm",
        }
        yield (
            f"loss={groups.choice_of('loss', loss)} learns from {_SOURCES.get(needed, needed)}, but "
            f"phase={groups.choice_of('phase', phase)} trains on {_SOURCES.get(offered, offered)}; "
            f"{fitting.get(offered, 'choose another loss or phase')}"
        )


_SOURCES = {
    "teacher": "a teacher's velocities",
    "advantage": "advantages of rewards",
    "transition_advantage": "advantages of visited transitions",
    "branches": "finished branches of visited states",
    "data": "data",
    "preference": "pairs of pictures, one preferred to the other",
    "distribution": "the scores of two distributions",
    "trajectory_distribution": "the scores of two distributions along a trajectory",
}


def _updates(values: Mapping[str, Any]) -> Iterator[str]:
    """A fused round takes its loss while it rolls out, for one update."""
    phase = values["phase"]
    if phase.get("round") == "fused" and phase.get("updates_per_round") not in (1, None):
        yield (
            f"phase.updates_per_round={phase['updates_per_round']} needs phase.round=two_pass: a fused round "
            "computes the loss during the rollout, for one update"
        )


def _timesteps(values: Mapping[str, Any]) -> Iterator[str]:
    """The noise levels of a round are shared among its updates."""
    phase, sampler = values["phase"], values.get("sampler") or {}
    updates, num_steps = phase.get("updates_per_round"), sampler.get("num_steps")
    if "num_timesteps" not in phase:
        return
    if not isinstance(updates, int) or not isinstance(num_steps, int) or updates < 1:
        return
    number = phase.get("num_timesteps")
    used = num_steps - 1 if number is None else number
    if not 1 <= used < num_steps:
        yield (
            f"phase.num_timesteps={used} must be from 1 to sampler.num_steps - 1 = {num_steps - 1}, "
            "as the grid's last level is not trained"
        )
    elif used % updates:
        chosen = used if number is not None else f"null, that is sampler.num_steps - 1 = {used},"
        yield f"phase.num_timesteps={chosen} must be a multiple of phase.updates_per_round={updates}"


def _tasks(values: Mapping[str, Any]) -> Iterator[str]:
    """Every task of the data has its teacher and its reward."""
    tasks = tasks_of(values)
    teachers = (values.get("teacher") or {}).get("teachers")
    rewards = (values.get("reward") or {}).get("rewards")
    by_task = constant(_target(values, "reward"), "one_per_task") is True
    if phase_takes(values, "teacher") and isinstance(teachers, Mapping):
        yield from _routes(values, list(tasks), list(teachers))
    for task, at in tasks.items():
        if _own_teachers(values) and isinstance(teachers, Mapping) and task not in teachers:
            yield (
                f"{at.named_by} has {task}, for which there is no teacher; teacher.teachers has "
                f"{', '.join(teachers)}. Add teacher.teachers.{task}{at.remove}"
            )
        if phase_takes(values, "reward") and by_task and isinstance(rewards, Mapping) and task not in rewards:
            yield (
                f"{at.named_by} has {task}, for which there is no reward; reward.rewards has "
                f"{', '.join(rewards)}. Add reward.rewards.{task}{at.remove}"
            )


def _examples(values: Mapping[str, Any]) -> Iterator[str]:
    """Fine-tuning has teachers to make its examples, or pictures."""
    examples, teacher = values["phase"].get("examples"), values.get("teacher")
    if constant(_target(values, "phase"), "takes_examples") is not True:
        return
    if examples == "pictures":
        if _lacks(values, "data", "has_targets"):
            yield "phase.examples=pictures learns from pictures, and the data has none; choose data=pairs"
        if (best_of_n := values["phase"].get("best_of_n") or 1) > 1:
            yield (
                f"phase.best_of_n={best_of_n} chooses among a teacher's samples, and phase.examples=pictures "
                "has none; set phase.best_of_n=1"
            )
    if examples in ("pictures", "base"):
        if teacher is not None:
            yield (
                f"a teacher is chosen, and phase.examples={examples} learns from none; leave it out with "
                "~teacher, or set phase.examples=teacher"
            )
    elif teacher is None:
        choices = ", ".join(Groups.read().choices["teacher"])
        yield (
            f"phase.examples=teacher needs a teacher and none is chosen; choose one with +teacher=... "
            f"({choices}), or learn from pictures with phase.examples=pictures data=pairs"
        )


def _buckets(values: Mapping[str, Any]) -> Iterator[str]:
    """Rows of several sizes need a phase that keeps them apart."""
    data = values.get("data")
    buckets = data.get("buckets") if isinstance(data, Mapping) else None
    if buckets in (None, "none"):
        return
    if _lacks(values, "phase", "takes_buckets"):
        phase = Groups.read().choice_of("phase", _target(values, "phase"))
        yield (
            f"data.buckets={buckets} gives a round pictures of several sizes, and phase={phase} takes one; "
            "set data.buckets=none"
        )


def _reward(values: Mapping[str, Any]) -> Iterator[str]:
    """Where a phase can do without a reward, nothing is scored."""
    if values.get("reward") is not None or not phase_takes(values, "reward"):
        return
    if reward_is_asked(values):
        phase = values["phase"]
        every, best_of_n = phase.get("score_every_n_rounds"), phase.get("best_of_n") or 1
        what, instead = "routing scores teachers", ""
        if every:
            what = f"phase.score_every_n_rounds={every} scores samples"
            instead = ", or set phase.score_every_n_rounds=0"
        elif best_of_n > 1:
            what, instead = f"phase.best_of_n={best_of_n} chooses samples", ", or set phase.best_of_n=1"
        yield (
            f"{what} with a reward, and none is chosen; choose one with +reward=... "
            f"({', '.join(Groups.read().choices['reward'])}){instead}"
        )


def _prompt_filter(values: Mapping[str, Any]) -> Iterator[str]:
    """A filter of prompts goes by the rewards of groups, which most phases do not compare."""
    settings = (values.get("data") or {}).get("prompt_filter")
    smallest = settings.get("min_range") if isinstance(settings, Mapping) else None
    if smallest is None:
        return
    if constant(_target(values, "phase"), "supervision") not in LEARNS_FROM_REWARDS:
        phase = Groups.read().choice_of("phase", _target(values, "phase"))
        yield (
            f"data.prompt_filter.min_range={smallest} goes by rewards within groups, and phase={phase} "
            "compares none; set data.prompt_filter.min_range=null, or choose phase=nft or phase=grpo"
        )
    for task, at in tasks_of(values).items():
        if at.entry.get("group_size") == 1:
            yield (
                f"data.prompt_filter.min_range={smallest} needs several samples of a prompt, and "
                f"{at.setting}.group_size=1 makes one of {task}'s; raise it, or set "
                "data.prompt_filter.min_range=null"
            )


def _context(values: Mapping[str, Any]) -> Iterator[str]:
    """A context that shows pictures has pictures to show, and a model that looks at them."""
    teacher = values.get("teacher")
    if not isinstance(teacher, Mapping) or not phase_takes(values, "teacher"):
        return
    context = _target(teacher, "context")
    if constant(context, "shows_target") is not True:
        return
    choice = f"context={Groups.read().choice_of('context', context)}"
    if _lacks(values, "data", "has_targets"):
        yield (
            f"{choice} shows the teacher the picture that a prompt is to learn, and the data has none; "
            "choose data=pairs, or context=text"
        )
    if _lacks(values, "model", "reads_pictures"):
        model = Groups.read().choice_of("model", _target(values, "model"))
        yield (
            f"{choice} shows the teacher pictures, and model={model} reads none; choose context=text, "
            "model=flux2_klein or model=z_image_turbo"
        )


def _report(values: Mapping[str, Any]) -> Iterator[str]:
    """The report at the end finds in the phase what it is about."""
    report = _target(values, "report")
    choice = f"report={Groups.read().choice_of('report', report)}"
    lacking = [group for group in constant(report, "groups") or () if not phase_takes(values, group)]
    kind = constant(report, "round_kind")
    if lacking or (kind and kind != constant(_target(values, "phase"), "round_kind")):
        phase = Groups.read().choice_of("phase", _target(values, "phase"))
        why = f"takes no {lacking[0]}" if lacking else f"is no {kind}"
        yield (
            f"{choice} cannot report a run of phase={phase}, which {why}; leave the report out with ~report, "
            f"or choose another ({', '.join(Groups.read().choices['report'])})"
        )
    elif constant(report, "compares_teachers") is True:
        teacher = _target(values, "teacher")
        if (known := read_target(teacher)) and not known.function and not known.constants.get("has_names"):
            yield (
                f"{choice} compares a student with its teachers, and teacher._target_={teacher} is no set of "
                "teachers; leave the report out with ~report, and score with diffopd evaluate"
            )


def _own_teachers(values: Mapping[str, Any]) -> bool:
    """Whether every task needs the teacher that is named as it."""
    if not phase_takes(values, "teacher"):
        return False
    routing = _target(values, "routing") if phase_takes(values, "routing") else ""
    return not routing or constant(routing, "by_name") is True


def _routes(values: Mapping[str, Any], tasks: Sequence[str], teachers: Sequence[str]) -> Iterator[str]:
    """A mixture has weights for every task, for teachers that are there."""
    weights = (values.get("routing") or {}).get("weights")
    if not isinstance(weights, Mapping) or not phase_takes(values, "routing"):
        return
    for task, entry in weights.items():
        for teacher in entry if task in tasks else ():
            if teacher not in teachers:
                yield (
                    f"routing.weights.{task}.{teacher} names a teacher that does not exist; teacher.teachers "
                    f"has {', '.join(teachers)}"
                )
