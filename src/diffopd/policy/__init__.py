"""Networks under a name on one model: what is trained, averaged, saved, or only asked."""

from diffopd.policy.base import Fixed, Policy
from diffopd.policy.low_rank import LowRank
from diffopd.policy.start import OptimizerFactory, new_policy
from diffopd.policy.whole import Whole, WholeWeights

__all__ = [
    "Fixed",
    "LowRank",
    "OptimizerFactory",
    "Policy",
    "Whole",
    "WholeWeights",
    "new_policy",
]
