"""What a training makes and asks for: images, reward calls, updates. Counted as the phases log it.

Your own phase is not known here; its counts are then left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from diffopd.check.source import constant
from diffopd.check.tasks import tasks_of

Values = Mapping[str, Any]
"""A composed config as plain values."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What some rounds take, over all processes.

    Attributes:
        images: Samples made for training (``train/cost/images``).
        reward_calls: Images given to the reward (``train/cost/reward_calls``).
        held_out_calls: Images given to rewards that are only logged.
        updates: Optimizer steps of what is trained.
        fake_updates: Optimizer steps of a fake score.
    """

    images: int = 0
    reward_calls: int = 0
    held_out_calls: int = 0
    updates: int = 0
    fake_updates: int = 0

    def __add__(self, other: Cost) -> Cost:
        names = [field.name for field in fields(self)]
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in names})


def run_cost(values: Values) -> Cost | None:
    """What all rounds of a training take; None for a phase that is not known.

    ``routing=automatic`` scores every teacher once before the first round, and class pictures are drawn then:
    these are counted although they are not logged.
    """
    of_round = _ROUNDS.get(round_kind(values))
    if of_round is None:
        return None
    total = _before_training(values)
    for number in range(values["trainer"]["max_epochs"]):
        total = total + of_round(values, rows_of(values, number), number)
    return total


def phase_name(values: Values) -> str:
    """Class of the phase."""
    return str(values["phase"]["_target_"]).rpartition(".")[2]


def round_kind(values: Values) -> str | None:
    """What a round of the phase is made of, as its class says in ``round_kind``; None if it does not."""
    return constant(values["phase"]["_target_"], "round_kind")


def learns_from_rewards(values: Values) -> bool:
    """Whether advantages of groups of samples are what is trained on."""
    return round_kind(values) == "reward_learning"


def rows_of(values: Values, number: int) -> int:
    """Samples in one round over all processes: rows of prompts, or drawings of all its steps."""
    data, tasks = values["data"], tasks_of(values).values()
    if not tasks:
        return data.get("batch_size", 0) * data.get("batches_per_round", 1)
    rows = [at.entry["prompts_per_round"] * at.entry["group_size"] for at in tasks]
    return rows[number % len(rows)] if data.get("schedule") == "alternate" else sum(rows)


def due(every_n_rounds: int | None, number: int) -> bool:
    """Whether what is done every so many rounds is done in this one; 0 or None for never."""
    return bool(every_n_rounds) and number % every_n_rounds == 0


def _scored(values: Values, rows: int, number: int) -> int:
    """Reward calls for the log."""
    return rows if due(values["phase"]["score_every_n_rounds"], number) else 0


def _distillation(values: Values, rows: int, number: int) -> Cost:
    calls = _scored(values, rows, number)
    images = 0 if values["phase"].get("states_from") == "pictures" else rows
    return Cost(images=images, reward_calls=calls, updates=values["phase"]["updates_per_round"])


def _preference(values: Values, rows: int, number: int) -> Cost:
    images = 0 if values["phase"]["rejected"] == "pictures" else rows
    return Cost(images=images, reward_calls=_scored(values, rows, number), updates=1)


def _fine_tuning(values: Values, rows: int, number: int) -> Cost:
    if values["phase"].get("examples") == "pictures":
        return Cost(reward_calls=_scored(values, rows, number), updates=1)
    candidates = values["phase"]["best_of_n"] * rows
    chosen_from = candidates if values["phase"]["best_of_n"] > 1 else 0
    calls = _scored(values, rows, number) + chosen_from
    return Cost(images=candidates, reward_calls=calls, updates=1)


def _distribution_matching(values: Values, rows: int, number: int) -> Cost:
    fake = values["phase"]["fake_updates_per_round"]
    return Cost(images=rows, reward_calls=_scored(values, rows, number), updates=1, fake_updates=fake)


def _reward_learning(values: Values, rows: int, number: int) -> Cost:
    phase = values["phase"]
    held_out = rows * len(phase.get("held_out") or ())
    return Cost(images=rows, reward_calls=rows, held_out_calls=held_out, updates=phase["updates_per_round"])


def _branching(values: Values, rows: int, number: int) -> Cost:
    phase = values["phase"]
    samples = rows * phase["num_states"] * (phase["num_branches"] + 1)
    held_out = samples * len(phase.get("held_out") or ())
    return Cost(images=samples, reward_calls=samples, held_out_calls=held_out, updates=1)


def _drawings(values: Values, rows: int, number: int) -> Cost:
    return Cost(updates=values["data"]["batches_per_round"])


def _measurement(values: Values, rows: int, number: int) -> Cost:
    return Cost()


_ROUNDS: Mapping[str | None, Callable[[Values, int, int], Cost]] = {
    "distillation": _distillation,
    "fine_tuning": _fine_tuning,
    "preference": _preference,
    "distribution_matching": _distribution_matching,
    "reward_learning": _reward_learning,
    "branching": _branching,
    "drawings": _drawings,
    "measurement": _measurement,
}


def _before_training(values: Values) -> Cost:
    if values["phase"].get("class_prompt") is not None:
        return Cost(images=values["phase"]["num_class_pictures"])
    routing = values.get("routing") or {}
    if round_kind(values) != "distillation" or not constant(routing.get("_target_"), "measures"):
        return Cost()
    scored = routing["num_prompts"] * len(routing["tasks"]) * len(values["teacher"]["teachers"])
    return Cost(reward_calls=scored)
