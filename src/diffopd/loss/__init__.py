"""Losses: pure functions, and thin configured callables that a config file names."""

from diffopd.loss.diffusion_nft import DiffusionNFT, diffusion_nft_loss, reward_weight_from_advantage
from diffopd.loss.flow_grpo import FlowGRPO, flow_grpo_log_ratio
from diffopd.loss.flow_matching import FlowMatching, flow_matching_loss
from diffopd.loss.grpo_guard import GRPOGuard, ratio_norm, step_balance
from diffopd.loss.ode_l2 import ODEL2, ode_l2_weight
from diffopd.loss.opd import OPD, opd_weight
from diffopd.loss.policy_gradient import PolicyGradient, clipped_surrogate, policy_step, reference_kl
from diffopd.loss.reverse_kl import ReverseKL, reverse_kl_weight
from diffopd.loss.reverse_kl_released import ReverseKLReleased, reverse_kl_released_weight
from diffopd.loss.velocity_matching import matching_term, velocity_gap
from diffopd.loss.velocity_uniform import VelocityUniform, velocity_uniform_weight

__all__ = [
    "ODEL2",
    "OPD",
    "DiffusionNFT",
    "FlowGRPO",
    "FlowMatching",
    "GRPOGuard",
    "PolicyGradient",
    "ReverseKL",
    "ReverseKLReleased",
    "VelocityUniform",
    "clipped_surrogate",
    "diffusion_nft_loss",
    "flow_grpo_log_ratio",
    "flow_matching_loss",
    "matching_term",
    "ode_l2_weight",
    "opd_weight",
    "policy_step",
    "ratio_norm",
    "reference_kl",
    "reverse_kl_released_weight",
    "reverse_kl_weight",
    "reward_weight_from_advantage",
    "step_balance",
    "velocity_gap",
    "velocity_uniform_weight",
]
