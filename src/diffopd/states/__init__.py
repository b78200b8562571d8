"""Which of the states that a rollout visits are trained."""

from diffopd.states.step_choice import StepChoice

__all__ = ["StepChoice"]
