"""Velocity networks behind one call."""

from diffopd.model.adapter_rows import BASE, AdapterRouter, Route, together
from diffopd.model.backbones import Backbones
from diffopd.model.component import load_component
from diffopd.model.flux import FluxModel
from diffopd.model.flux2_klein import Flux2KleinModel
from diffopd.model.guidance import guided_velocity
from diffopd.model.loading import load_pipeline, pipeline_folder, read_transformer_config
from diffopd.model.pipeline_model import PipelineModel
from diffopd.model.qwen_image import QwenImageModel
from diffopd.model.sd3 import SD3Model
from diffopd.model.z_image import ZImageModel
from diffopd.weights.finite import check_finite

__all__ = [
    "BASE",
    "AdapterRouter",
    "Backbones",
    "Flux2KleinModel",
    "FluxModel",
    "PipelineModel",
    "QwenImageModel",
    "Route",
    "SD3Model",
    "ZImageModel",
    "check_finite",
    "guided_velocity",
    "load_component",
    "load_pipeline",
    "pipeline_folder",
    "read_transformer_config",
    "together",
]
