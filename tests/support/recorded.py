"""What every process of a run draws, visits, judges and learns, kept by global index, to compare runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from diffopd import randomness
from diffopd.phase.policy_phase import PolicyPhase
from diffopd.phase.reward_learning import RewardPhase
from diffopd.strategy.divided import bytes_held, own_part, whole_value
from support.tiny_runs import randomise


class Record(Callback):
    """Notes what its process does and writes it to ``<folder>/rank<number>.pt`` when training ends.

    Attributes:
        draws: (purpose, round, sample) -> what was drawn.
        states: (adapter, round, step, sample) -> the state after that step.
        advantages: sample -> advantage, of every round in its order.
        gradients: For every step of every optimiser, the gradient it was given.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.draws: dict[tuple[str, int, int], Tensor] = {}
        self.states: dict[tuple[str, int, int, int], Tensor] = {}
        self.advantages: list[dict[int, float]] = []
        self.gradients: list[Tensor] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not pl_module.automatic_optimization:  # then steps have their gradients from the start
            for optimizer in trainer.optimizers:
                optimizer.register_step_pre_hook(self._note_gradient)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if pl_module.automatic_optimization:
            self._note_gradient(optimizer)

    def _note_gradient(self, optimizer: Any, *_: Any) -> None:
        given = [p.grad for group in optimizer.param_groups for p in group["params"]]
        self.gradients.append(torch.cat([whole_value(g).flatten() for g in given if g is not None]))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        model = getattr(pl_module, "model", None)
        held = (
            0 if model is None else sum(map(bytes_held, (model.transformer, *model.backbones.transformers)))
        )
        states = (state for optimizer in trainer.optimizers for state in optimizer.state.values())
        means = sum(own_part(value).numel() for state in states for value in state.values())
        found = {
            "logged": logged,
            "held": held,
            "means": means,
            **{name: getattr(self, name) for name in NAMES},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(found, self.folder / f"rank{trainer.global_rank}.pt")


NAMES = ("draws", "states", "advantages", "gradients")


def recorded(monkeypatch: Any, experiment: Any, folder: Path) -> list[dict[str, Any]]:
    """Fit, from a student and other adapters of which every gradient is non-zero.

    Returns:
        What each process noted.
    """
    record = Record(folder)
    phase = experiment.phase

    def noting(draw: Any) -> Any:
        def rows(seed: int, purpose: str, number: int, indices: Any, *shape: Any) -> Tensor:
            values = draw(seed, purpose, number, indices, *shape)
            record.draws.update(
                {(purpose, number, i): row.clone() for i, row in zip(indices, values, strict=True)}
            )
            return values

        return rows

    for draw in (randomness.normal_rows, randomness.uniform_rows):
        noted = noting(draw)
        for module in [m for name, m in sys.modules.items() if name.partition(".")[0] == "diffopd"]:
            if vars(module).get(draw.__name__) is draw:  # wherever it was imported to
                monkeypatch.setattr(module, draw.__name__, noted)
    if isinstance(phase, PolicyPhase):
        _note_states(monkeypatch, record)
        for number, name in enumerate(name for name in phase.policies if name != "average"):
            randomise(phase.model, name, 7 + number)
    experiment.trainer.callbacks.append(record)
    experiment.fit()
    monkeypatch.undo()
    files = sorted(folder.glob("rank*.pt"))
    found = [torch.load(file, weights_only=True) for file in files]
    if isinstance(phase, PolicyPhase):  # all of these draw, and go from state to state
        assert all(process["draws"] and process["states"] for process in found), "nothing was recorded"
    return found


def _note_states(monkeypatch: Any, record: Record) -> None:
    rollout, compared = PolicyPhase.rollout, RewardPhase.compared

    def noting_rollout(self: Any, sampler: Any, prompts: Any, conditioning: Any, policy: Any) -> Any:
        for transition in rollout(self, sampler, prompts, conditioning, policy):
            for index, state in zip(prompts.indices, transition.next_latent, strict=True):
                record.states[policy.name, self.round, transition.step, index] = state.clone()
            yield transition

    def noting_compared(self: Any, rewards: Tensor, prompts: Any) -> Any:
        judged = compared(self, rewards, prompts)
        record.advantages.append(dict(zip(judged.indices, judged.advantages.tolist(), strict=True)))
        return judged

    monkeypatch.setattr(PolicyPhase, "rollout", noting_rollout)
    monkeypatch.setattr(RewardPhase, "compared", noting_compared)


def united(processes: list[dict[str, Any]], name: str) -> dict[Any, Tensor]:
    """What all processes noted under a name; no sample may have been in two of them."""
    whole: dict[Any, Tensor] = {}
    for found in processes:
        both = whole.keys() & found[name].keys()
        assert not both, f"two processes have {sorted(both)[:3]}"
        whole |= found[name]
    return whole


def distance(found: Mapping[Any, Tensor], expected: Mapping[Any, Tensor]) -> float:
    """Norm of the difference over the norm of what is expected, of all values together."""
    assert found.keys() == expected.keys()
    if not expected:
        return 0.0
    difference = sum((found[key] - expected[key]).double().square().sum() for key in expected)
    return float((difference / sum(value.double().square().sum() for value in expected.values())).sqrt())
