"""Whom a student learns from: a velocity at every state that it visits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from diffopd.model import PipelineModel
from diffopd.policy import Policy
from diffopd.teacher.routing import Routing
from diffopd.types import Conditioning, Prompts, VelocityFunction


@runtime_checkable
class Learner(Protocol):
    """What a target may know of the phase it teaches in.

    Attributes:
        model: The model that holds all networks.
        student: The policy that is trained.
        average: Its average.
    """

    model: PipelineModel
    student: Policy
    average: Policy

    def conditioning(self, prompts: Prompts) -> Conditioning:
        """Encode prompts; distinct ones once."""
        ...

    def add_policy(self, name: str) -> Policy:
        """Add a network of the student's shape that checkpoints hold and no gradient trains."""
        ...

    def after_update(self, move: Callable[[], None]) -> None:
        """Have ``move`` called after every update of the student."""
        ...


class Target(ABC):
    """Teaches a student: one or many frozen teachers, an anchor, or the student's own average.

    A target may be told more about a row than the student is: it makes prompts of its own and has them
    encoded by :meth:`Learner.conditioning`.
    """

    @abstractmethod
    def check(self, base_config: Mapping[str, Any]) -> None:
        """Refuse what does not fit the backbone, before weights load.

        Args:
            base_config: The transformer's ``config.json``.

        Raises:
            ValueError: If something does not fit.
        """

    @abstractmethod
    def join(self, learner: Learner) -> None:
        """Take what it needs of the phase, and add its weights to the model.

        Raises:
            ValueError: If they do not fit.
        """

    @abstractmethod
    def given(self, prompts: Prompts, conditioning: Conditioning) -> VelocityFunction:
        """What it answers on some rows, as a function of latent and sigma, without gradient.

        Args:
            prompts: The rows.
            conditioning: What the student is told about them.
        """

    def routed(self, routing: Routing) -> Target:
        """The same where ``routing`` says which of several teachers a prompt has; a single one needs none."""
        return self
