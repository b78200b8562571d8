"""The frozen teachers of a run, and their velocities: one teacher per row, or several with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import per_row
from diffopd.model import PipelineModel, guided_velocity
from diffopd.teacher.card import TeacherCard, card_or_guidance
from diffopd.teacher.frozen import AdaptedModel, check_base_of, check_frozen, load_frozen
from diffopd.teacher.routing import Routing
from diffopd.teacher.target import Learner, Target
from diffopd.types import Conditioning, Prompts, VelocityFunction, VelocityModel

TEACHER = "teacher_"
"""How the name of a teacher's network on the model begins; its own name follows."""


@final
class TeacherSet(Target):
    """Any number of teachers: frozen adapters on the one backbone, or whole transformers beside it.

    Names are tasks where a prompt learns from its task's teacher (:class:`~diffopd.teacher.ByTask`); other
    routings may also use teachers that are named as no task.

    Attributes:
        tasks: Names of the teachers, in the config's order.
        cards: name -> card, of those that have one.
        guidance_scales: name -> guidance at which the teacher is queried.
        model: Holds the teachers; set by :meth:`join`.
        has_names: That its teachers can be told apart, and a report compare the student with each.
    """

    has_names: ClassVar[bool] = True
    model: PipelineModel

    def __init__(
        self,
        *,
        teachers: Mapping[str, Mapping[str, Any]],
        check_base: bool,
        offload_idle: bool = False,  # not in the configs that earlier runs saved
    ) -> None:
        """Read the cards; weights wait for :meth:`load`.

        Args:
            teachers: name -> ``{path, guidance_scale}``; a null guidance scale is taken from the card, and a
                teacher without one needs a scale here.
            check_base: Refuse a teacher whose card names another base model.
            offload_idle: Keep teachers that are whole transformers on the CPU but for the one asked last.

        Raises:
            ValueError: If there is no teacher, or one has neither a complete card nor a guidance scale.
        """
        if not teachers:
            raise ValueError("teacher.teachers is empty; name at least one task, as in teacher=ocr")
        self.check_base, self.offload_idle = check_base, offload_idle
        self._paths: dict[str, str] = {}
        self.cards: dict[str, TeacherCard] = {}
        self.guidance_scales: dict[str, float] = {}
        for task, entry in teachers.items():
            allowed = {"path", "guidance_scale"}
            if set(entry) != allowed:
                raise ValueError(f"{_at(task)} has keys {sorted(entry)}, it needs {sorted(allowed)}")
            self._paths[task], scale = str(entry["path"]), entry["guidance_scale"]
            if scale is not None and not scale >= 1:
                raise ValueError(f"{_at(task, 'guidance_scale')}={scale}; at least 1 is allowed, or null")
            card, self.guidance_scales[task] = card_or_guidance(
                self._paths[task], scale, setting=_at(task, "path"), guidance=_at(task, "guidance_scale")
            )
            if card is not None:
                self.cards[task] = card

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the teachers."""
        return tuple(self._paths)

    def check(self, base_config: Mapping[str, Any]) -> None:
        """Compare every teacher's rank and layers with the backbone, before weights load.

        Args:
            base_config: The transformer's ``config.json``.

        Raises:
            ValueError: If one does not fit.
        """
        for task, path in self._paths.items():
            check_frozen(path, base_config, setting=_at(task, "path"))

    def load(self, model: AdaptedModel) -> None:
        """Add every teacher to ``model``, frozen, under ``teacher_<task>``.

        Raises:
            ValueError: If one does not fit, or was trained on another base and ``check_base`` is on.
        """
        for task, path in self._paths.items():
            if self.check_base:
                given = f"{_at(task, 'path')}={path}"
                check_base_of(self.cards.get(task), model, given, "teacher.check_base")
            setting = _at(task, "path")
            load_frozen(model, self.adapter(task), path, setting=setting, offload_idle=self.offload_idle)

    def adapter(self, task: str) -> str:
        """Name of the adapter, or whole transformer, that teaches ``task``.

        Raises:
            ValueError: If no teacher does.
        """
        if task not in self._paths:
            raise ValueError(f"no teacher for task {task}; teacher.teachers has {', '.join(self.tasks)}")
        return TEACHER + task

    def join(self, learner: Learner) -> None:
        """Add every teacher to the learner's model."""
        self.model = learner.model
        self.load(learner.model)

    def given(self, prompts: Prompts, conditioning: Conditioning) -> VelocityFunction:
        """Each row by its own task's teacher."""

        def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
            empty = self.model.unconditional()
            return self.velocity(self.model, latent, sigma, prompts.tasks, conditioning, empty)

        return velocity

    def routed(self, routing: Routing) -> Target:
        """The teachers that ``routing`` gives each prompt."""
        return RoutedTeachers(self, routing)

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
                f"got routes for {len(routes)} samples and {len(latent)} states, samples without a teacher: "
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


@final
class RoutedTeachers(Target):
    """Teachers and the rule that gives every prompt one or several of them.

    Attributes:
        teachers: All of them.
        routing: The rule.
    """

    def __init__(self, teachers: TeacherSet, routing: Routing) -> None:
        self.teachers, self.routing = teachers, routing

    def check(self, base_config: Mapping[str, Any]) -> None:
        """Check every teacher."""
        self.teachers.check(base_config)

    def join(self, learner: Learner) -> None:
        """Add every teacher to the learner's model."""
        self.teachers.join(learner)

    def given(self, prompts: Prompts, conditioning: Conditioning) -> VelocityFunction:
        """Each row's weighted sum of its teachers' velocities.

        Raises:
            ValueError: If a row has no teacher, or one that is not there.
        """
        routes = self.routing.weights(prompts, self.teachers.tasks)

        def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
            model = self.teachers.model
            empty = model.unconditional()
            return self.teachers.mixed_velocity(model, latent, sigma, routes, conditioning, empty)

        return velocity


def _at(task: str, key: str | None = None) -> str:
    """Config path of a teacher's entry."""
    return f"teacher.teachers.{task}" + (f".{key}" if key else "")
