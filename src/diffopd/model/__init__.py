"""Velocity networks behind one call."""

from diffopd.model.backbones import Backbones
from diffopd.model.guidance import guided_velocity
from diffopd.model.loading import load_pipeline, pipeline_folder, read_transformer_config
from diffopd.model.routing import BASE, AdapterRouter, Route
from diffopd.model.sd3 import SD3Model

__all__ = [
    "BASE",
    "AdapterRouter",
    "Backbones",
    "Route",
    "SD3Model",
    "guided_velocity",
    "load_pipeline",
    "pipeline_folder",
    "read_transformer_config",
]
