"""Estimators: how the gradient of a distillation loss at one visited transition is found."""

from diffopd.estimator.base import Estimator, Surrogate
from diffopd.estimator.closed_form import ClosedForm
from diffopd.estimator.log_ratio import LogRatio, log_ratio_advantage
from diffopd.estimator.moments import GradientMoments, SampledValue
from diffopd.estimator.ppo import PPO
from diffopd.estimator.ppo_detached import PPODetached

__all__ = [
    "PPO",
    "ClosedForm",
    "Estimator",
    "GradientMoments",
    "LogRatio",
    "PPODetached",
    "SampledValue",
    "Surrogate",
    "log_ratio_advantage",
]
