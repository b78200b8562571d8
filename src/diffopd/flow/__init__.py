"""The mathematics of flows: grids, conversions, solver steps, densities. Pure functions of tensors."""

from diffopd.flow.broadcast import per_row
from diffopd.flow.density import log_prob, log_prob_cps_released, transition_kl
from diffopd.flow.grid import ConstantShift, DoubleShift, EmpiricalShift, ResolutionShift, SigmaGrid
from diffopd.flow.guidance import guide
from diffopd.flow.interpolation import (
    interpolate,
    velocity_between,
    velocity_to_clean,
    velocity_to_noise,
)
from diffopd.flow.multistep import dpm2
from diffopd.flow.reduction import reduce_latent
from diffopd.flow.sigmas import shift_sigma, sigma_grid
from diffopd.flow.step import Step, cps, dance, ddim, dpm1, euler, flow_sde

__all__ = [
    "ConstantShift",
    "DoubleShift",
    "EmpiricalShift",
    "ResolutionShift",
    "SigmaGrid",
    "Step",
    "cps",
    "dance",
    "ddim",
    "dpm1",
    "dpm2",
    "euler",
    "flow_sde",
    "guide",
    "interpolate",
    "log_prob",
    "log_prob_cps_released",
    "per_row",
    "reduce_latent",
    "shift_sigma",
    "sigma_grid",
    "transition_kl",
    "velocity_between",
    "velocity_to_clean",
    "velocity_to_noise",
]
