"""Samplers: noise and a velocity function in, the transitions of a rollout out, one by one."""

from diffopd.sampler.base import TransitionSampler
from diffopd.sampler.cps import CPSSampler
from diffopd.sampler.dance import DanceSampler
from diffopd.sampler.ddim import DDIMSampler
from diffopd.sampler.dpm1 import DPM1Sampler
from diffopd.sampler.dpm2 import DPM2Sampler
from diffopd.sampler.flow import FlowSampler
from diffopd.sampler.trajectory import sample, transition_at
from diffopd.sampler.window import NoiseWindow

__all__ = [
    "CPSSampler",
    "DDIMSampler",
    "DPM1Sampler",
    "DPM2Sampler",
    "DanceSampler",
    "FlowSampler",
    "NoiseWindow",
    "TransitionSampler",
    "sample",
    "transition_at",
]
