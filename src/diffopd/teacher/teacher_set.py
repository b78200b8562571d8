"""The frozen teachers of a run, and their velocities: one teacher per row, or several with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.adapter import check_adapter, load_adapter
from diffopd.files import resolve_path
from diffopd.flow import per_row
from diffopd.model import guided_velocity
from diffopd.teacher.card import TeacherCard
from diffopd.types import Conditioning, VelocityModel


class AdaptedModel(VelocityModel, Protocol):
    """A velocity model with room for adapters."""

    transformer: Any

    @property
    def identity(self) -> str:
        """Hash of the base model."""
        ...


@final
class TeacherSet:
    """Any number of teachers, as frozen adapters on the one backbone.

    Names are tasks where a prompt learns from its task's teacher (:class:`~diffopd.teacher.ByTask`); other
    routings may also use teachers that are named as no task.

    Attributes:
        tasks: Names of the teachers, in the config's order.
        cards: name -> card.
        guidance_scales: name -> guidance at which the teacher is queried.
    """

    def __init__(self, *, teachers: Mapping[str, Mapping[str, Any]], check_base: bool) -> None:
        """Read the cards; weights wait for :meth:`load`.

        Args:
            teachers: name -> ``{path, guidance_scale}``; a null guidance scale is taken from the card.
            check_base: Refuse a teacher whose card names another base model.

        Raises:
            ValueError: If there is no teacher, or one has no complete card.
        """
        if not teachers:
            raise ValueError("teacher.teachers is empty; name at least one task, as in teacher=ocr")
        self.check_base = check_base
        self._folders: dict[str, Path] = {}
        self.cards: dict[str, TeacherCard] = {}
        self.guidance_scales: dict[str, float] = {}
        for task, entry in teachers.items():
            allowed = {"path", "guidance_scale"}
            if set(entry) != allowed:
                raise ValueError(f"{_at(task)} has keys {sorted(entry)}, it needs {sorted(allowed)}")
            folder = Path(resolve_path(entry["path"]))
            self._folders[task] = folder
            self.cards[task] = TeacherCard.load(folder, setting=_at(task, "path"))
            scale = entry["guidance_scale"]
            if scale is not None and not scale >= 1:
                raise ValueError(f"{_at(task, 'guidance_scale')}={scale}; at least 1 is allowed, or null")
            self.guidance_scales[task] = self.cards[task].guidance_scale if scale is None else float(scale)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the teachers."""
        return tuple(self._folders)

    def check(self, base_config: Mapping[str, Any]) -> None:
        """Compare every teacher's rank and layers with the backbone, before weights load.

        Args:
            base_config: The transformer's ``config.json``.

        Raises:
            ValueError: If one does not fit.
        """
        for task, folder in self._folders.items():
            check_adapter(folder, base_config, setting=_at(task, "path"))

    def load(self, model: AdaptedModel) -> None:
        """Add every teacher to ``model``, frozen, under ``teacher_<task>``.

        Raises:
            ValueError: If one does not fit, or was trained on another base and ``check_base`` is on.
        """
        for task, folder in self._folders.items():
            card = self.cards[task]
            if self.check_base:
                check_base_of(card, model, f"{_at(task, 'path')}={folder}", "teacher.check_base")
            load_adapter(model.transformer, self.adapter(task), folder, setting=_at(task, "path"))

    def adapter(self, task: str) -> str:
        """Name of the adapter that teaches ``task``.

        Raises:
            ValueError: If no teacher does.
        """
        if task not in self._folders:
            raise ValueError(f"no teacher for task {task}; teacher.teachers has {', '.join(self.tasks)}")
        return f"teacher_{task}"

    @torch.no_grad()
    def velocity(
        self,
        model: VelocityModel,
        latent: Float[Tensor, " batch *latent"],
        sigma: Float[Tensor, " batch"],
        tasks: Sequence[str],
        conditioning: Conditioning,
        unconditional: Conditioning,
    ) -> Float[Tensor, " batch *latent"]:
        """Each row's velocity by its own teacher at that teacher's guidance, in one forward.

        Args:
            model: Holds the teachers.
            latent: States the student visited.
            sigma: Their noise.
            tasks: The task of each row.
            conditioning: One row per state.
            unconditional: Encoding of the empty prompt: one row, or one per state.

        Returns:
            Target velocities in fp32, without gradient.
        """
        adapters = [self.adapter(task) for task in tasks]
        scales = [self.guidance_scales[task] for task in tasks]
        return guided_velocity(model, latent, sigma, conditioning, unconditional, scales, adapters)

    @torch.no_grad()
    def mixed_velocity(
        self,
        model: VelocityModel,
        latent: Float[Tensor, " batch *latent"],
        sigma: Float[Tensor, " batch"],
        routes: Sequence[Mapping[str, float]],
        conditioning: Conditioning,
        unconditional: Conditioning,
    ) -> Float[Tensor, " batch *latent"]:
        """Each row's weighted sum of its teachers' velocities, each at its own guidance, in one forward.

        The forward has one row for each teacher with a weight other than 0 of each state. Where every state
        has one teacher with weight 1 this is :meth:`velocity`.

        Args:
            model: Holds the teachers.
            latent: States the student visited.
            sigma: Their noise.
            routes: Per row, teacher -> weight; from :meth:`~diffopd.teacher.Routing.weights`.
            conditioning: One row per state.
            unconditional: Encoding of the empty prompt: one row, or one per state.

        Returns:
            Target velocities in fp32, without gradient.

        Raises:
            ValueError: If there is not one route per row, a route is empty, or names an unknown teacher.
        """
        chosen = [[(name, weight) for name, weight in route.items() if weight != 0] for route in routes]
        if len(chosen) != len(latent) or not all(chosen):
            empty = [row for row, entry in enumerate(chosen) if not entry]
            raise ValueError(
                f"got routes for {len(routes)} rows and {len(latent)} states, rows without a teacher: "
                f"{empty}; give one route per state, with at least one weight other than 0"
            )
        if all(len(entry) == 1 and entry[0][1] == 1 for entry in chosen):
            names = [name for ((name, _),) in chosen]
            return self.velocity(model, latent, sigma, names, conditioning, unconditional)
        pairs = [(row, name) for row, entry in enumerate(chosen) for name, _ in entry]
        rows = torch.tensor([row for row, _ in pairs]).to(latent.device, non_blocking=True)
        velocities = self.velocity(
            model,
            latent[rows],
            sigma[rows],
            [name for _, name in pairs],
            conditioning.select([row for row, _ in pairs]),
            unconditional if len(unconditional) == 1 else unconditional.select([row for row, _ in pairs]),
        )
        weights = torch.tensor([weight for entry in chosen for _, weight in entry])
        weighted = velocities * per_row(weights.to(velocities), velocities)
        return torch.stack([part.sum(0) for part in weighted.split([len(entry) for entry in chosen])])


def check_base_of(card: TeacherCard, model: AdaptedModel, given: str, switch: str) -> None:
    """Refuse an adapter that was trained on another base model.

    Args:
        card: The adapter's card.
        model: The model it is to lie on.
        given: Where the config names it and as what, for the message.
        switch: The setting that switches this check off.

    Raises:
        ValueError: If the card names another base.
    """
    if card.base != model.identity:
        raise ValueError(
            f"{given} was trained on base {card.base[:12]}, this model is {model.identity[:12]}; "
            f"use that base, retrain the teacher, or set {switch}=false"
        )


def _at(task: str, key: str | None = None) -> str:
    """Config path of a teacher's entry."""
    return f"teacher.teachers.{task}" + (f".{key}" if key else "")
