"""Losses: pure functions, and thin configured callables that a config file names."""

from diffopd.loss.clean_l2 import CleanL2, clean_l2_weight
from diffopd.loss.diffusion_nft import DiffusionNFT, diffusion_nft_loss, reward_weight_from_advantage
from diffopd.loss.dmd import DMD, dmd_gradient, dmd_loss
from diffopd.loss.dpo import DPO, Side, hinge_loss, preference_margin, sigmoid_loss
from diffopd.loss.flow_grpo import FlowGRPO, flow_grpo_log_ratio
from diffopd.loss.flow_matching import FlowMatching, flow_matching_loss
from diffopd.loss.grpo_guard import GRPOGuard, ratio_norm, step_balance
from diffopd.loss.noised import NoisedLoss, sample_velocity
from diffopd.loss.ode_l2 import ODEL2, ode_l2_weight
from diffopd.loss.opd import OPD, opd_weight
from diffopd.loss.policy_gradient import PolicyGradient, clipped_surrogate, policy_step, reference_kl
from diffopd.loss.ram import RAM, ram_loss
from diffopd.loss.reverse_kl import ReverseKL, reverse_kl_weight
from diffopd.loss.reverse_kl_at import ReverseKLAt, reverse_kl_at_weight
from diffopd.loss.reverse_kl_released import ReverseKLReleased, reverse_kl_released_weight
from diffopd.loss.rvm import RVM, rvm_loss
from diffopd.loss.self_opd import SelfOPD, branch_advantages, branch_loss, direction_gate
from diffopd.loss.tdm import TDM, importance_weight, mixed_noise, renoise, tdm_fake_loss, tdm_loss
from diffopd.loss.velocity_matching import TransitionMatching, matching_term, velocity_gap
from diffopd.loss.velocity_uniform import VelocityUniform, velocity_uniform_weight

__all__ = [
    "DMD",
    "DPO",
    "ODEL2",
    "OPD",
    "RAM",
    "RVM",
    "TDM",
    "CleanL2",
    "DiffusionNFT",
    "FlowGRPO",
    "FlowMatching",
    "GRPOGuard",
    "NoisedLoss",
    "PolicyGradient",
    "ReverseKL",
    "ReverseKLAt",
    "ReverseKLReleased",
    "SelfOPD",
    "Side",
    "TransitionMatching",
    "VelocityUniform",
    "branch_advantages",
    "branch_loss",
    "clean_l2_weight",
    "clipped_surrogate",
    "diffusion_nft_loss",
    "direction_gate",
    "dmd_gradient",
    "dmd_loss",
    "flow_grpo_log_ratio",
    "flow_matching_loss",
    "hinge_loss",
    "importance_weight",
    "matching_term",
    "mixed_noise",
    "ode_l2_weight",
    "opd_weight",
    "policy_step",
    "preference_margin",
    "ram_loss",
    "ratio_norm",
    "reference_kl",
    "renoise",
    "reverse_kl_at_weight",
    "reverse_kl_released_weight",
    "reverse_kl_weight",
    "reward_weight_from_advantage",
    "rvm_loss",
    "sample_velocity",
    "sigmoid_loss",
    "step_balance",
    "tdm_fake_loss",
    "tdm_loss",
    "velocity_gap",
    "velocity_uniform_weight",
]
