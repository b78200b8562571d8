"""Training through an assistant: a frozen adapter that is active while the student is trained."""

from __future__ import annotations

from dataclasses import dataclass

from diffopd.adapter import find_place, load_adapter
from diffopd.model import together
from diffopd.policy import Fixed, LowRank, Policy

ASSISTANT = "assistant"
"""Name of the adapter."""
SETTING = "phase.assistant"


@dataclass(frozen=True)
class Assisted:
    """Whom a phase asks while it trains: the student and the base model, with the assistant if there is one.

    A step-distilled model answers noised pictures as its few steps need, and fine-tuning takes them away. An
    assistant is an adapter with which the model answers as before it was distilled. Trained on top of
    it, a student need not unlearn the few steps: sampled without it, the model still has them.

    Attributes:
        student: Velocities for the loss; gradients reach the student's weights.
        base: What the student started as, for a reference.

    References:
        The training adapters of the ai-toolkit trainer for step-distilled models.
    """

    student: Policy
    base: Policy

    @classmethod
    def by(cls, student: Policy, path: str | None) -> Assisted:
        """Load an assistant onto the student's model, frozen.

        Args:
            student: The policy that is trained.
            path: A LoRA, as for ``adapter.start``; None = no assistant.

        Raises:
            ValueError: If it cannot be read or does not fit, or the student is no adapter.
        """
        model = student.model
        if path is None:
            return cls(student, Fixed(model, None))
        if not isinstance(student, LowRank):
            raise ValueError(
                f"{SETTING}={path} lies on the frozen backbone beside the student's adapter, and "
                f"adapter=full trains a backbone of its own; choose adapter=lora, or {SETTING}=null"
            )
        if find_place(path, setting=SETTING).kind == "transformer":
            raise ValueError(f"{SETTING}={path} is a whole transformer; give a LoRA")
        load_adapter(model.transformer, ASSISTANT, path, setting=SETTING)
        # Gradients reach the student's factors through the name; the assistant's have none.
        return cls(Fixed(model, together(student.name, ASSISTANT)), Fixed(model, ASSISTANT))
