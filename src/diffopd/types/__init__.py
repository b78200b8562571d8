"""The nouns every package shares: small frozen records and the Protocols that config groups meet."""

from diffopd.types.loss import LossTerm, TransitionLoss
from diffopd.types.picture import Picture
from diffopd.types.prompts import KEPT, Conditioning, Prompts
from diffopd.types.rollout import (
    NoiseFunction,
    Sampler,
    Trajectory,
    Transition,
    VelocityFunction,
    VelocityModel,
)
from diffopd.types.scoring import Detection, Detector, KnownPair, Reward, Scores

__all__ = [
    "KEPT",
    "Conditioning",
    "Detection",
    "Detector",
    "KnownPair",
    "LossTerm",
    "NoiseFunction",
    "Picture",
    "Prompts",
    "Reward",
    "Sampler",
    "Scores",
    "Trajectory",
    "Transition",
    "TransitionLoss",
    "VelocityFunction",
    "VelocityModel",
]
